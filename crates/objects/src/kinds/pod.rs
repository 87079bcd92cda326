//! Pod: containers that live and die together on the node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{add_type, pod_spec, tolerations};
use crate::json::{child, fill, is_true, items, items_mut, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::pods;
use crate::table::{self, column, or_none, wide};
use crate::validation::{At, Cause};

mod status;
mod update;

pub(super) const KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource::Binding,
        Subresource::Eviction,
        Subresource::Exec,
        Subresource::Log,
        Subresource::PortForward,
        Subresource::Status,
    ],
    answers_with_deleted: true,
    type_name: "io.k8s.api.core.v1.Pod",
    add_types: add_type::<Pod>,
    counts_generations: true,
    default,
    prepare_create,
    prepare_update: update::prepare,
    validate,
    validate_update: update::validate,
    warnings: |object| pod_spec::warnings(&At::root(object).field("spec")),
    columns: COLUMNS,
    row,
    field_labels,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Ready", "string", "How many containers are ready, of how many."),
    column("Status", "string", "What the pod does, or what keeps it from doing so."),
    column("Restarts", "string", "How often containers were restarted, and when last."),
    table::AGE,
    wide("IP", "string", "The pod's address."),
    wide("Node", "string", "Where the pod runs."),
    wide("Nominated Node", "string", "Where room is made for the pod."),
    wide("Readiness Gates", "string", "How many of its own conditions for being ready hold."),
];

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "enableServiceLinks", true);
    pod_spec::default(spec);
    pod_spec::default_requests(spec);
    let status = child(object, "status");
    fill(status, "phase", "Pending");
    for condition in items_mut(status, "conditions") {
        fill(condition, "lastProbeTime", Value::Null);
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        for container in items_mut(status, list) {
            ["state", "lastState"].into_iter().for_each(|name| fill(container, name, json!({})));
        }
    }
}

/// What the real server's admission gives to every new pod.
fn prepare_create(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "serviceAccountName", "default");
    let account = text(spec, "/serviceAccountName").to_owned();
    set(spec, "serviceAccount", account);
    fill(spec, "priority", 0);
    fill(spec, "preemptionPolicy", "PreemptLowerPriority");
    let mut tolerated = items(spec, "/tolerations").to_vec();
    tolerated.extend(tolerations::added_to_pods(&tolerated));
    set(spec, "tolerations", tolerated);
    let qos_class = Pod::deserialize(&*object).map_or("BestEffort", |pod| pods::qos_class(&pod));
    set(object, "status", json!({"phase": "Pending", "qosClass": qos_class}));
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    pod_spec::check_drain_deadlines(&At::root(object).field("metadata"), &mut causes);
    pod_spec::validate(&At::root(object).field("spec"), &mut causes);
    causes
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let summary = status::summary(object);
    let ip = match items(object, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(object, "/status/podIP"),
    };
    vec![
        table::name(object),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.status),
        json!(summary.restarts_cell(now)),
        table::age(object, now),
        or_none(ip),
        or_none(text(object, "/spec/nodeName")),
        or_none(text(object, "/status/nominatedNodeName")),
        or_none(&readiness_gates(object)),
    ]
}

fn readiness_gates(object: &Value) -> String {
    let gates = items(object, "/spec/readinessGates");
    let holds = |gate: &&Value| {
        items(object, "/status/conditions").iter().any(|condition| {
            text(condition, "/type") == text(gate, "/conditionType") && text(condition, "/status") == "True"
        })
    };
    match gates.len() {
        0 => String::new(),
        count => format!("{}/{count}", gates.iter().filter(holds).count()),
    }
}

fn field_labels(object: &Value) -> Vec<(&'static str, String)> {
    let text = |pointer: &str| text(object, pointer).to_owned();
    vec![
        ("spec.nodeName", text("/spec/nodeName")),
        ("spec.restartPolicy", text("/spec/restartPolicy")),
        ("spec.schedulerName", text("/spec/schedulerName")),
        ("spec.serviceAccountName", text("/spec/serviceAccountName")),
        ("spec.hostNetwork", is_true(object, "/spec/hostNetwork").to_string()),
        ("status.phase", text("/status/phase")),
        ("status.podIP", text("/status/podIP")),
        ("status.nominatedNodeName", text("/status/nominatedNodeName")),
    ]
}
