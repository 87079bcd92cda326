use super::*;
use crate::object::KindName;
use serde_json::{Value, json};

fn content(meta: Value, objects: Vec<AnyObject>) -> Content {
    let mut metadata = json!({"name": "n", "uid": "n", "resourceVersion": "1"});
    meta.as_object().unwrap().iter().for_each(|(key, value)| metadata[key] = value.clone());
    let namespace = json!({"metadata": metadata, "spec": {"finalizers": ["kubernetes"]}});
    Content {
        namespace: serde_json::from_value(namespace).unwrap(),
        objects,
        root_ca: "-----BEGIN CERTIFICATE-----".to_owned(),
        service_accounts: ServiceAccounts::Missing,
        published_root_ca: None,
    }
}

fn object(kind: &str, name: &str, meta: Value) -> AnyObject {
    let mut metadata = json!({"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"});
    meta.as_object().unwrap().iter().for_each(|(key, value)| metadata[key] = value.clone());
    let kind = KindName { api_version: "v1".to_owned(), kind: kind.to_owned() };
    AnyObject { kind, meta: serde_json::from_value(metadata).unwrap() }
}

fn going() -> Value {
    json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})
}

fn steps(content: &Content) -> Vec<String> {
    next_steps(content, Timestamp::UNIX_EPOCH).steps.iter().map(Step::to_string).collect()
}

#[test]
fn a_namespace_gets_what_every_namespace_has() {
    let mut seen = content(json!({}), Vec::new());
    assert_eq!(steps(&seen), ["create ServiceAccount default", "create ConfigMap kube-root-ca.crt"]);
    seen.service_accounts = ServiceAccounts::NotServed;
    assert_eq!(steps(&seen), ["create ConfigMap kube-root-ca.crt"]);

    let made = next_steps(&seen, Timestamp::UNIX_EPOCH).steps;
    let [Step::CreateRootCa(map)] = made.as_slice() else { panic!("{made:?}") };
    seen.published_root_ca = Some(map.as_ref().clone());
    assert_eq!(steps(&seen), Vec::<String>::new());
    seen.root_ca = "another".to_owned();
    assert_eq!(steps(&seen), ["update ConfigMap kube-root-ca.crt"]);
}

#[test]
fn a_terminating_namespace_is_emptied_and_then_let_go() {
    let mut waiting = going();
    waiting["finalizers"] = json!(["x/y"]);
    let mut seen = content(going(), vec![object("Pod", "p", json!({})), object("ConfigMap", "c", waiting)]);
    assert_eq!(steps(&seen), ["delete Pod p", "write conditions of Namespace n"]);
    let decision = next_steps(&seen, Timestamp::UNIX_EPOCH);
    let waiting: Vec<_> = decision.waiting_on.iter().map(ToString::to_string).collect();
    assert_eq!(waiting, ["1 objects of kind ConfigMap are not gone yet.", "1 objects of kind Pod are not gone yet."]);

    let Some(Step::WriteConditions { conditions, .. }) = decision.steps.last() else { panic!("{decision:?}") };
    let messages: Vec<_> = conditions.iter().filter_map(|it| it.message.as_deref()).collect();
    assert_eq!(
        messages[0],
        "Some resources are remaining: ConfigMap has 1 resource instances, Pod has 1 resource instances"
    );
    assert_eq!(messages[1], "Some content in the namespace has finalizers remaining: x/y in 1 resource instances");
    seen.namespace.status.get_or_insert_default().conditions = Some(conditions.clone());
    assert_eq!(steps(&seen), ["delete Pod p"]);

    seen.objects.clear();
    assert_eq!(steps(&seen), ["leave Namespace n to finalizers []"]);
    seen.namespace.spec.get_or_insert_default().finalizers = None;
    assert_eq!(steps(&seen), Vec::<String>::new());
}

#[test]
fn a_look_deletes_so_many_objects() {
    let objects = (0..BURST + 9).map(|index| object("ConfigMap", &format!("c{index}"), json!({}))).collect();
    assert_eq!(steps(&content(going(), objects)).len(), BURST + 1);
}
