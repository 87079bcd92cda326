use serde_json::{Value, json};

use super::*;
use crate::validation::Cause;

mod defaults;
mod mistakes;
mod rows;
mod updates;

/// The object as it is stored when a user creates it, decoded, defaulted and prepared.
fn created(body: Value) -> Value {
    let (kind, mut object) = decoded(body);
    (kind.default)(&mut object);
    (kind.prepare_create)(&mut object);
    object
}

fn decoded(mut body: Value) -> (&'static Kind, Value) {
    let api_version = body["apiVersion"].as_str().unwrap_or("v1").to_owned();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let kind = find_kind(group, version, body["kind"].as_str().unwrap()).unwrap();
    let unknown = crate::schema::decode(kind, &mut body).unwrap();
    assert_eq!(unknown, [""; 0]);
    if kind.is_namespaced() {
        crate::json::fill(crate::json::child(&mut body, "metadata"), "namespace", "n");
    }
    (kind, body)
}

/// `reason field` of every mistake in the object, as a user would create it.
fn mistakes(body: Value) -> Vec<String> {
    let object = created(body);
    let kind = all().iter().find(|kind| kind.kind == object["kind"]).unwrap();
    named((kind.validate)(&object))
}

fn named(causes: Vec<Cause>) -> Vec<String> {
    causes
        .into_iter()
        .map(|cause| format!("{} {}", cause.reason.trim_start_matches("FieldValue"), cause.field))
        .collect()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn deployment(fields: Value) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "app"}]}},
    });
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
}

fn network_policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn kinds_are_found_by_resource_and_by_kind() {
    for kind in all() {
        assert!(std::ptr::eq(find(kind.group, kind.version, kind.plural).unwrap(), kind));
        assert!(std::ptr::eq(find_kind(kind.group, kind.version, kind.kind).unwrap(), kind));
    }
    assert!(find("apps", "v1", "pods").is_none());
}

#[test]
fn every_row_has_a_cell_for_every_column() {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    for kind in all() {
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x"}});
        assert_eq!((kind.row)(&object, now).len(), kind.columns.len(), "{}", kind.kind);
    }
}
