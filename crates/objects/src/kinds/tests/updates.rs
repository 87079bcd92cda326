use super::*;

/// `reason field` of every change that is refused, from an object to what `change` makes of it.
fn refused(body: Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let old = created(body);
    let kind = all().iter().find(|kind| kind.kind == old["kind"]).unwrap();
    let mut new = old.clone();
    change(&mut new);
    (kind.default)(&mut new);
    (kind.prepare_update)(&mut new, &old);
    named((kind.validate_update)(&new, &old))
}

fn one_container() -> Value {
    pod(json!({"containers": [{"name": "c", "image": "a:1"}], "activeDeadlineSeconds": 60}))
}

#[test]
fn a_pod_keeps_all_but_images_deadline_and_tolerations() {
    assert_eq!(refused(one_container(), |pod| pod["spec"]["containers"][0]["image"] = json!("a:2")), [""; 0]);
    assert_eq!(refused(one_container(), |pod| pod["spec"]["activeDeadlineSeconds"] = json!(30)), [""; 0]);
    let longer = refused(one_container(), |pod| pod["spec"]["activeDeadlineSeconds"] = json!(90));
    assert_eq!(longer, ["Invalid spec.activeDeadlineSeconds"]);
    let more = json!({"key": "x", "operator": "Exists"});
    assert_eq!(refused(one_container(), |pod| pod["spec"]["tolerations"].as_array_mut().unwrap().push(more)), [""; 0]);
    let fewer = refused(one_container(), |pod| pod["spec"]["tolerations"] = json!([]));
    assert_eq!(fewer, ["Forbidden spec.tolerations"]);
    assert_eq!(refused(one_container(), |pod| pod["spec"]["hostname"] = json!("h")), ["Forbidden spec"]);
    let another = json!({"name": "d", "image": "x"});
    let added = refused(one_container(), |pod| pod["spec"]["containers"].as_array_mut().unwrap().push(another));
    assert_eq!(added, ["Forbidden spec.containers"]);
}

#[test]
fn a_pod_sent_again_without_what_admission_gave_is_unchanged() {
    assert_eq!(
        refused(one_container(), |pod| {
            let spec = pod["spec"].as_object_mut().unwrap();
            for name in ["tolerations", "priority", "preemptionPolicy", "serviceAccount", "serviceAccountName"] {
                spec.shift_remove(name);
            }
        }),
        [""; 0]
    );
}

#[test]
fn a_selector_is_immutable() {
    let change = |object: &mut Value| object["spec"]["selector"]["matchLabels"]["app"] = json!("other");
    assert_eq!(refused(deployment(json!({})), change), ["Invalid spec.selector"]);
    let mut replica_set = deployment(json!({}));
    replica_set["kind"] = json!("ReplicaSet");
    assert_eq!(refused(replica_set, change), ["Invalid spec.selector"]);
}

#[test]
fn a_status_is_not_changed_through_the_object() {
    let old = created(deployment(json!({})));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 9});
    let kind = find_kind("apps", "v1", "Deployment").unwrap();
    (kind.prepare_update)(&mut new, &old);
    assert_eq!(new, old);
}

#[test]
fn a_cluster_address_is_kept_and_cannot_change() {
    let with_address = || service(json!({"ports": [{"port": 80}], "clusterIP": "10.45.0.9"}));
    assert_eq!(
        refused(with_address(), |service| service["spec"]["clusterIP"] = json!("None")),
        ["Invalid spec.clusterIPs[0]"]
    );
    assert_eq!(refused(with_address(), |service| service["spec"]["type"] = json!("NodePort")), [""; 0]);
    let old = created(with_address());
    let kind = find_kind("", "v1", "Service").unwrap();
    let mut new = old.clone();
    new["spec"].as_object_mut().unwrap().shift_remove("clusterIP");
    new["spec"].as_object_mut().unwrap().shift_remove("clusterIPs");
    (kind.prepare_update)(&mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "10.45.0.9");
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.45.0.9"]));
}

#[test]
fn immutable_data_and_types_are_kept() {
    let config_map = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": true});
    assert_eq!(refused(config_map.clone(), |object| object["data"]["k"] = json!("w")), ["Forbidden data"]);
    assert_eq!(refused(config_map, |object| object["immutable"] = json!(false)), ["Forbidden immutable"]);
    let secret = json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {}});
    assert_eq!(refused(secret, |object| object["type"] = json!("x/y")), ["Invalid type"]);
}
