use super::*;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn replica_set(size: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": "web", "uid": "r", "resourceVersion": "1", "generation": 1},
        "spec": {
            "replicas": size,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web", "v": "1"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
        },
    }))
    .unwrap()
}

/// A pod of the ReplicaSet that runs and is ready, changed by merging `more`.
fn pod(name: &str, more: Value) -> Pod {
    let mut value = json!({
        "metadata": {
            "namespace": "n", "name": name, "uid": name, "resourceVersion": "1", "creationTimestamp": at(0).to_string(),
            "labels": {"app": "web", "v": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true}],
        },
        "spec": {"nodeName": "machine", "containers": []},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(0).to_string()}],
        },
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn replicas(size: i32, pods: Vec<Pod>) -> Replicas {
    let replica_set = replica_set(size);
    Replicas { replica_sets: vec![replica_set.clone()], replica_set, deployment: None, pods, services: Vec::new() }
}

fn not_ready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn moves(replicas: &Replicas) -> Vec<String> {
    let steps = next_steps(replicas, at(100)).steps;
    steps.iter().filter(|step| !matches!(step, Step::WriteStatus { .. })).map(Step::to_string).collect()
}

#[test]
fn the_least_useful_pod_goes_first() {
    let since = |second| json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(second).to_string()}]}});
    let restarted = |count| {
        json!({"status": {"containerStatuses": [
            {"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": count},
        ]}})
    };
    let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
    let table = [
        ("unassigned", json!({"spec": {"nodeName": null}}), json!({"status": {"phase": "Pending"}})),
        ("pending", json!({"status": {"phase": "Pending", "conditions": null}}), not_ready()),
        ("not ready", not_ready(), cost("-5")),
        ("cheaper", cost("-1"), json!({})),
        ("cheaper than a new one", cost("1"), cost("2")),
        ("ready for a shorter time", since(9), since(3)),
        ("restarted more often", restarted(2), restarted(1)),
        ("newer", json!({"metadata": {"creationTimestamp": at(5).to_string()}}), json!({})),
    ];
    for (what, first, second) in table {
        let seen = replicas(1, vec![pod("kept", second), pod("gone", first)]);
        assert_eq!(moves(&seen), ["delete Pod gone"], "{what}");
    }
}

#[test]
fn a_ready_pod_without_acknowledgement_goes_before_an_available_one() {
    let routed = json!([
        {"type": "Ready", "status": "True", "lastTransitionTime": at(9).to_string()},
        {"type": "segue.dev/Routed", "status": "True"},
    ]);
    let mut seen = replicas(1, vec![pod("kept", json!({"status": {"conditions": routed}})), pod("gone", json!({}))]);
    let service = json!({"metadata": {"namespace": "n"}, "spec": {"selector": {"app": "web"}}});
    seen.services = vec![serde_json::from_value(service).unwrap()];
    assert_eq!(moves(&seen), ["delete Pod gone"]);
}

#[test]
fn missing_pods_are_made_from_the_template() {
    let steps = next_steps(&replicas(2, vec![pod("one", json!({}))]), at(0)).steps;
    let Step::CreatePod(created) = &steps[0] else { panic!("{steps:?}") };
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-", "namespace": "n", "labels": {"app": "web", "v": "1"}, "annotations": {"a": "b"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    assert_eq!(serde_json::to_value(created).unwrap(), expected);
}

#[test]
fn finished_and_terminating_pods_are_replaced() {
    let going = json!({"metadata": {"deletionTimestamp": at(30).to_string()}});
    let evicted = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"},
        {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
         "lastTransitionTime": "1970-01-01T00:00:00Z"},
    ]}});
    let failed = json!({"status": {"phase": "Failed"}});
    let seen = replicas(3, vec![pod("a", failed), pod("b", going), pod("c", evicted)]);
    assert_eq!(moves(&seen), ["create Pod web-…", "create Pod web-…", "create Pod web-…"]);
}

#[test]
fn a_look_is_bounded() {
    let many = i32::try_from(BURST).unwrap() + 7;
    assert_eq!(moves(&replicas(many, Vec::new())).len(), BURST);
}

#[test]
fn orphans_are_adopted_and_relabelled_pods_released_before_anything_else() {
    let orphan = pod("orphan", json!({"metadata": {"ownerReferences": null}}));
    let out = pod("out", json!({"metadata": {"labels": {"app": "out"}}}));
    let seen = replicas(5, vec![orphan, out]);
    let steps = next_steps(&seen, at(0)).steps;
    let texts: Vec<_> = steps.iter().map(Step::to_string).collect();
    assert_eq!(texts, ["adopt Pod orphan", "release Pod out"]);
    let Step::Release { owner_references, .. } = &steps[1] else { panic!("{steps:?}") };
    assert!(owner_references.is_empty());
}

/// A Deployment of three replicas, none of which may be unavailable, with a sibling that has one available pod.
fn family(own: Vec<Pod>, sibling_pods: Vec<Pod>) -> Replicas {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": true}]);
    let mut set = replica_set(1);
    set.metadata.owner_references = serde_json::from_value(owner.clone()).unwrap();
    let mut sibling = set.clone();
    (sibling.metadata.name, sibling.metadata.uid) = (Some("sibling".to_owned()), Some("s".to_owned()));
    let deployment = json!({
        "metadata": {"namespace": "n", "name": "d", "uid": "d"},
        "spec": {
            "replicas": 3, "selector": {}, "template": {},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        },
    });
    Replicas {
        replica_sets: vec![set.clone(), sibling],
        replica_set: set,
        deployment: Some(serde_json::from_value(deployment).unwrap()),
        pods: own.into_iter().chain(sibling_pods).collect(),
        services: Vec::new(),
    }
}

fn of_sibling(name: &str, more: Value) -> Pod {
    let mut pod = pod(name, more);
    pod.metadata.owner_references.as_mut().unwrap()[0].uid = "s".to_owned();
    pod
}

#[test]
fn deleting_stops_at_the_floor_of_the_deployment() {
    let three = || vec![pod("a", json!({})), pod("b", json!({})), pod("c", json!({}))];
    let seen = family(three(), vec![of_sibling("d", json!({}))]);
    assert_eq!(moves(&seen), ["delete Pod a"]);
    let waiting_on = next_steps(&seen, at(100)).waiting_on;
    assert_eq!(
        waiting_on[0].to_string(),
        "Pod b is one too many but stays: it is one of 3 available pods and 3 must stay available."
    );

    let seen = family(three(), vec![of_sibling("d", not_ready())]);
    assert_eq!(moves(&seen), Vec::<String>::new());

    let unready_first = vec![pod("a", json!({})), pod("b", json!({})), pod("c", not_ready())];
    assert_eq!(moves(&family(unready_first, vec![of_sibling("d", json!({}))])), ["delete Pod c"]);
}

#[test]
fn status_counts_what_kubernetes_counts() {
    let pods = vec![
        pod("a", json!({})),
        pod("b", json!({"metadata": {"labels": {"v": "2"}}})),
        pod("c", not_ready()),
        pod("d", json!({"status": {"phase": "Failed"}})),
        pod("e", json!({"metadata": {"deletionTimestamp": at(30).to_string()}})),
    ];
    let steps = next_steps(&replicas(3, pods), at(100)).steps;
    let [Step::WriteStatus { status, .. }] = steps.as_slice() else { panic!("{steps:?}") };
    let expected = json!({
        "replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "terminatingReplicas": 1, "observedGeneration": 1,
    });
    assert_eq!(serde_json::to_value(status).unwrap(), expected);
}

#[test]
fn a_pod_that_must_stay_ready_is_looked_at_again() {
    let mut seen = replicas(1, vec![pod("a", json!({}))]);
    seen.replica_set.spec.as_mut().unwrap().min_ready_seconds = Some(200);
    assert_eq!(next_steps(&seen, at(100)).look_again_at, Some(at(200)));
    assert_eq!(next_steps(&seen, at(200)).look_again_at, None);
}

#[test]
fn a_replica_set_that_goes_leaves_its_pods_to_the_garbage_collector() {
    let mut seen = replicas(3, vec![pod("a", json!({}))]);
    seen.replica_set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    assert_eq!(moves(&seen), Vec::<String>::new());
}
