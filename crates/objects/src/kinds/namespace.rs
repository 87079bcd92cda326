//! Namespace: a space for names, emptied before it goes.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{child, fill, items, set, text};
use crate::kind::{Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table;

/// Label that every namespace has: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) const KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Finalize, Subresource::Status],
    type_name: "io.k8s.api.core.v1.Namespace",
    add_types: add_type::<Namespace>,
    default,
    prepare_create,
    prepare_update,
    validate: |object| metadata::validate(object, Scope::Cluster, metadata::dns_label_faults),
    columns: &[table::NAME, table::column("Status", "string", "Active, or Terminating."), table::AGE],
    row: |object, now| vec![table::name(object), json!(text(object, "/status/phase")), table::age(object, now)],
    field_labels: |object| vec![("status.phase", text(object, "/status/phase").to_owned())],
    ..PLAIN
};

fn default(object: &mut Value) {
    let name = text(object, "/metadata/name").to_owned();
    if !name.is_empty() {
        set(child(child(object, "metadata"), "labels"), NAME_LABEL, name);
    }
    fill(child(object, "status"), "phase", "Active");
    child(object, "spec");
}

fn prepare_create(object: &mut Value) {
    default(object);
    set(object, "status", json!({"phase": "Active"}));
    let mut finalizers = items(object, "/spec/finalizers").to_vec();
    if !finalizers.contains(&json!("kubernetes")) {
        finalizers.push(json!("kubernetes"));
    }
    set(child(object, "spec"), "finalizers", finalizers);
}

fn prepare_update(new: &mut Value, old: &Value) {
    for name in ["spec", "status"] {
        set(new, name, old.get(name).cloned().unwrap_or_else(|| json!({})));
    }
    default(new);
}
