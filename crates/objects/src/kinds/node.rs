//! Node: the machine that pods run on.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{child, entries, is_true, items, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table::{self, column, or_none, wide};
use crate::validation::{At, Cause, check_one_of};

const ROLE_LABEL: &str = "node-role.kubernetes.io/";

pub(super) const KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: &[Subresource::Status],
    type_name: "io.k8s.api.core.v1.Node",
    add_types: add_type::<Node>,
    default,
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({}))),
    validate,
    columns: COLUMNS,
    row,
    field_labels: |object| vec![("spec.unschedulable", is_true(object, "/spec/unschedulable").to_string())],
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Status", "string", "Whether it is ready for pods."),
    column("Roles", "string", "What it is there for."),
    table::AGE,
    column("Version", "string", "The version of its node agent."),
    wide("Internal-IP", "string", "Its address within the cluster."),
    wide("External-IP", "string", "Its address for the world."),
    wide("OS-Image", "string", "Its operating system."),
    wide("Kernel-Version", "string", "Its kernel."),
    wide("Container-Runtime", "string", "What runs its containers."),
];

fn default(object: &mut Value) {
    child(object, "spec");
    let status = child(object, "status");
    child(child(status, "daemonEndpoints"), "kubeletEndpoint");
    fill_info(child(status, "nodeInfo"));
}

/// The fields of nodeInfo are written even when nothing is known.
fn fill_info(info: &mut Value) {
    let names = [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "kubeletVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ];
    names.into_iter().for_each(|name| crate::json::fill(info, name, ""));
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Cluster, metadata::dns_subdomain_faults);
    for taint in At::root(object).field("spec").field("taints").items() {
        let (key, value) = (taint.field("key"), taint.field("value"));
        causes.extend(key.invalid_for(metadata::qualified_name_faults(key.text())));
        causes.extend(value.invalid_for(metadata::label_value_faults(value.text())));
        check_one_of(&taint.field("effect"), &["NoSchedule", "PreferNoSchedule", "NoExecute"], &mut causes);
    }
    causes
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| match text(object, &format!("/status/nodeInfo/{field}")) {
        "" => json!("<unknown>"),
        known => json!(known),
    };
    vec![
        table::name(object),
        json!(status(object)),
        or_none(&roles(object)),
        table::age(object, now),
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        or_none(address(object, "InternalIP")),
        or_none(address(object, "ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(object: &Value) -> String {
    let ready = items(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let suffix = if is_true(object, "/spec/unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{status}{suffix}")
}

fn roles(object: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_LABEL) {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<_> =
        entries(object, "/metadata/labels").filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.sort();
    roles.join(",")
}

fn address<'a>(object: &'a Value, kind: &str) -> &'a str {
    let found = items(object, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
    found.map_or("", |address| text(address, "/address"))
}
