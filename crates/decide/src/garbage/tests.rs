use super::*;
use serde_json::{Value, json};

/// An object `name` whose uid is its name.
fn object(kind: &str, name: &str, more: Value) -> AnyObject {
    let api_version = if kind == "Deployment" || kind == "ReplicaSet" { "apps/v1" } else { "v1" };
    let mut meta = json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"});
    for (key, value) in more.as_object().unwrap() {
        meta[key] = value.clone();
    }
    let kind = KindName { api_version: api_version.to_owned(), kind: kind.to_owned() };
    AnyObject { kind, meta: serde_json::from_value(meta).unwrap() }
}

fn owned_by(owners: &[(&str, &str)]) -> Value {
    let reference = |(kind, name): &(&str, &str)| {
        let api_version = object(kind, name, json!({})).kind.api_version;
        json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": name, "blockOwnerDeletion": true})
    };
    json!({"ownerReferences": owners.iter().map(reference).collect::<Vec<_>>()})
}

fn going(finalizers: &[&str]) -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers})
}

fn steps(objects: Vec<AnyObject>) -> Vec<String> {
    let kinds = ["Deployment", "ReplicaSet", "Pod", "ConfigMap"].map(|kind| object(kind, "", json!({})).kind);
    let garbage = Garbage { kinds: kinds.into_iter().collect(), objects };
    next_steps(&garbage).steps.iter().map(Step::to_string).collect()
}

#[test]
fn dependents_go_when_the_last_owner_is_gone() {
    let pod = |owners: &[(&str, &str)]| object("Pod", "p", owned_by(owners));
    let set = || object("ReplicaSet", "r", json!({}));
    let table = [
        ("the owner is there", vec![set(), pod(&[("ReplicaSet", "r")])], vec![]),
        ("it is gone", vec![pod(&[("ReplicaSet", "r")])], vec!["delete Pod p (Background)"]),
        (
            "another has its name",
            vec![object("ConfigMap", "r", json!({})), pod(&[("ReplicaSet", "r")])],
            vec!["delete Pod p (Background)"],
        ),
        (
            "one of two is there",
            vec![set(), pod(&[("ReplicaSet", "r"), ("ConfigMap", "gone")])],
            vec!["leave Pod p to r"],
        ),
        ("nobody knows the owner's kind", vec![pod(&[("Thing", "t")])], vec![]),
        ("it goes already", vec![object("Pod", "p", going(&["x/y"]))], vec![]),
    ];
    for (what, objects, expected) in table {
        assert_eq!(steps(objects), expected, "{what}");
    }
}

#[test]
fn an_owner_of_another_namespace_is_no_owner() {
    let elsewhere = object("ReplicaSet", "r", json!({"namespace": "m"}));
    let pod = object("Pod", "p", owned_by(&[("ReplicaSet", "r")]));
    assert_eq!(steps(vec![elsewhere, pod]), ["delete Pod p (Background)"]);
}

#[test]
fn foreground_deletion_works_from_the_leaves_up() {
    let deployment = || object("Deployment", "d", going(&[FOREGROUND]));
    let set = |more: Value| {
        let mut meta = owned_by(&[("Deployment", "d")]);
        more.as_object().unwrap().iter().for_each(|(key, value)| meta[key] = value.clone());
        object("ReplicaSet", "r", meta)
    };
    let pod = || object("Pod", "p", owned_by(&[("ReplicaSet", "r")]));
    let down = steps(vec![deployment(), set(json!({})), pod()]);
    assert_eq!(down, ["delete ReplicaSet r (Foreground)"]);
    let next = steps(vec![deployment(), set(going(&[FOREGROUND])), pod()]);
    assert_eq!(next, ["delete Pod p (Background)"]);
    let up = steps(vec![deployment(), set(going(&[FOREGROUND]))]);
    assert_eq!(up, ["leave ReplicaSet r without finalizers"]);
    assert_eq!(steps(vec![deployment()]), ["leave Deployment d without finalizers"]);
}

#[test]
fn an_owner_waits_for_dependents_that_wait_for_others() {
    let mut meta = owned_by(&[("ConfigMap", "a")]);
    going(&["x/y"]).as_object().unwrap().iter().for_each(|(key, value)| meta[key] = value.clone());
    let objects = vec![object("ConfigMap", "a", going(&[FOREGROUND])), object("ConfigMap", "dep", meta)];
    let kinds = [objects[0].kind.clone()].into_iter().collect();
    let decision = next_steps(&Garbage { kinds, objects });
    assert_eq!(decision.steps, []);
    assert_eq!(decision.waiting_on[0].to_string(), "ConfigMap a stays until its 1 dependents are gone.");
}

#[test]
fn orphaning_leaves_dependents_and_then_lets_the_owner_go() {
    let owner = || object("Deployment", "d", going(&[ORPHAN]));
    let set = object("ReplicaSet", "r", owned_by(&[("Deployment", "d")]));
    assert_eq!(steps(vec![owner(), set]), ["leave ReplicaSet r without owners"]);
    assert_eq!(steps(vec![owner(), object("ReplicaSet", "r", json!({}))]), ["leave Deployment d without finalizers"]);
}

#[test]
fn other_finalizers_are_kept() {
    let owner = object("Deployment", "d", going(&["x/y", FOREGROUND]));
    assert_eq!(steps(vec![owner]), ["leave Deployment d to finalizers x/y"]);
}
