use super::*;
use proptest::prelude::*;
use serde_json::json;

const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const SERVICE_SPEC: &str = "io.k8s.api.core.v1.ServiceSpec";

fn check(type_name: &str, current: Value, patch: Value, expected: Value) {
    assert_eq!(strategic(type_name, &current, &patch), Ok(expected), "{patch}");
}

#[test]
fn containers_merge_by_name() {
    check(
        POD_SPEC,
        json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]}),
        json!({"containers": [
            {"name": "b", "image": "b:2"},
            {"name": "c", "image": "c:1"},
        ]}),
        json!({"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "b:2"},
            {"name": "c", "image": "c:1"},
        ]}),
    );
}

#[test]
fn nested_lists_merge_by_their_own_keys() {
    check(
        POD_SPEC,
        json!({"containers": [{"name": "a", "args": ["1"], "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
        json!({"containers": [{"name": "a", "args": ["2"], "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": null}],
            "ports": [{"containerPort": 80, "name": "http"}]}]}),
        json!({"containers": [{"name": "a", "args": ["2"], "env": [{"name": "Y", "value": "2"}, {"name": "X"}],
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}]}]}),
    );
}

#[test]
fn items_with_the_same_merge_key_merge_into_the_first_as_in_the_real_server() {
    check(
        SERVICE_SPEC,
        json!({"ports": [{"port": 53, "protocol": "TCP", "name": "t"}, {"port": 53, "protocol": "UDP", "name": "u"}]}),
        json!({"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}),
        json!({"ports": [{"port": 53, "protocol": "UDP", "name": "t", "targetPort": 5353}, {"port": 53, "protocol": "UDP", "name": "u"}]}),
    );
}

#[test]
fn directives_replace_and_delete() {
    let current = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}});
    let table = [
        (
            json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "z"}], "nodeSelector": {"x": "1"}}),
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}], "nodeSelector": {"x": "1"}}),
        ),
        (
            json!({"nodeSelector": {"$patch": "replace", "y": "2"}}),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"y": "2"}}),
        ),
        (
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {}}),
        ),
        (json!({"nodeSelector": null}), json!({"containers": [{"name": "a"}, {"name": "b"}]})),
    ];
    for (patch, expected) in table {
        check(POD_SPEC, current.clone(), patch, expected);
    }
}

#[test]
fn values_without_a_counterpart_are_taken_without_directives() {
    check(
        POD_SPEC,
        json!({}),
        json!({
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "$setElementOrder/env": [], "image": null}, {"name": "b", "$patch": "delete"}],
            "nodeSelector": {"$patch": "replace", "gone": "with the directive, as in the real server"},
            "securityContext": {"$retainKeys": ["runAsUser"], "runAsUser": 1, "fsGroup": null},
        }),
        json!({"containers": [{"name": "a"}], "securityContext": {"runAsUser": 1}}),
    );
}

#[test]
fn element_order_is_set_and_must_agree() {
    let current = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check(
        POD_SPEC,
        current.clone(),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}], "containers": [{"name": "n"}]}),
        json!({"containers": [{"name": "b"}, {"name": "n"}, {"name": "a"}]}),
    );
    check(
        POD_SPEC,
        current.clone(),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "b"}, {"name": "a"}]}),
    );
    let disagreeing = json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "n"}]});
    let error = strategic(POD_SPEC, &current, &disagreeing);
    assert_eq!(error, Err(PatchError::ElementOrder { field: "containers".into() }));
}

#[test]
fn plain_lists_are_sets() {
    let current = json!({"finalizers": ["x/a", "x/b", "x/c"]});
    let table = [
        (json!({"$deleteFromPrimitiveList/finalizers": ["x/b"]}), json!({"finalizers": ["x/a", "x/c"]})),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["x/b"], "finalizers": ["x/d"]}),
            json!({"finalizers": ["x/d", "x/a", "x/c"]}),
        ),
        (json!({"finalizers": ["x/c", "x/d"]}), json!({"finalizers": ["x/a", "x/b", "x/c", "x/d"]})),
        (
            json!({"$setElementOrder/finalizers": ["x/c", "x/b"], "$deleteFromPrimitiveList/finalizers": ["x/a"]}),
            json!({"finalizers": ["x/c", "x/b"]}),
        ),
    ];
    for (patch, expected) in table {
        check(META, current.clone(), patch, expected);
    }
}

#[test]
fn retained_keys_are_all_that_is_left() {
    let current = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    check(
        POD_SPEC,
        current.clone(),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "x"}}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "x"}}]}),
    );
    let unlisted = json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "configMap": {"name": "x"}}]});
    assert_eq!(strategic(POD_SPEC, &current, &unlisted), Err(PatchError::RetainKeys { field: "volumes".into() }));
}

#[test]
fn what_cannot_be_followed_is_an_error() {
    let current = json!({"containers": [{"name": "a"}]});
    let errors = [
        json!({"containers": [{"$patch": "frob", "name": "a"}]}),
        json!({"containers": [{"$patch": "merge", "name": "a"}]}),
        json!({"containers": [{"image": "x"}]}),
        json!({"containers": [{"$patch": "delete"}]}),
        json!({"containers": ["a"]}),
        json!({"$patch": "frob"}),
        json!({"$setElementOrder/containers": "a"}),
        json!([]),
    ];
    for patch in errors {
        assert_eq!(strategic(POD_SPEC, &current, &patch).unwrap_err().to_failure().code, 400, "{patch}");
    }
}

fn containers() -> impl Strategy<Value = Value> {
    let container = ("[a-d]", "[x-z]", proptest::option::of("[p-r]"));
    proptest::collection::vec(container, 0..4).prop_map(|items| {
        let mut seen: Vec<Value> = Vec::new();
        for (name, image, key) in items {
            if seen.iter().all(|item| item["name"] != name.as_str()) {
                let env: Vec<_> = key.iter().map(|key| json!({"name": key, "value": image})).collect();
                seen.push(json!({"name": name, "image": image, "env": env}));
            }
        }
        json!({"containers": seen})
    })
}

proptest! {
    #[test]
    fn a_patch_applied_twice_changes_nothing_more(current in containers(), patch in containers()) {
        let once = strategic(POD_SPEC, &current, &patch).unwrap();
        let twice = strategic(POD_SPEC, &once, &patch).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_patch_with_the_object_itself_changes_nothing(current in containers()) {
        prop_assert_eq!(strategic(POD_SPEC, &current, &current).unwrap(), current);
    }
}
