//! ReplicaSet: so many pods of one template.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::{add_type, pod_template};
use crate::json::{child, fill, integer, set};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_not_negative};

pub(super) const KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[Subresource::Scale, Subresource::Status],
    type_name: "io.k8s.api.apps.v1.ReplicaSet",
    add_types: add_type::<ReplicaSet>,
    counts_generations: true,
    default,
    prepare_create: |object| set(object, "status", json!({"replicas": 0})),
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({"replicas": 0}))),
    validate,
    validate_update,
    warnings: pod_template::warnings,
    columns: COLUMNS,
    row,
    field_labels: |object| vec![("status.replicas", integer(object, "/status/replicas").unwrap_or(0).to_string())],
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Desired", "integer", "How many pods are wanted."),
    column("Current", "integer", "How many pods there are."),
    column("Ready", "integer", "How many pods are ready."),
    table::AGE,
    table::CONTAINERS,
    table::IMAGES,
    table::SELECTOR,
];

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "replicas", 1);
    pod_template::default(spec);
    fill(child(object, "status"), "replicas", 0);
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    check_not_negative(&spec.field("replicas"), &mut causes);
    check_not_negative(&spec.field("minReadySeconds"), &mut causes);
    pod_template::check(&spec, "replica set", &mut causes);
    causes
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    pod_template::check_selector_kept(new, old, &mut causes);
    causes
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |pointer: &str| json!(integer(object, pointer).unwrap_or(0));
    let [names, images] = table::containers(object);
    vec![
        table::name(object),
        count("/spec/replicas"),
        count("/status/replicas"),
        count("/status/readyReplicas"),
        table::age(object, now),
        names,
        images,
        pod_template::selector_cell(object),
    ]
}
