//! HorizontalPodAutoscaler: how many pods by how busy they are. It is kept and shown; nothing acts on it yet.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{child, fill, integer, items, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_one_of};

const NOTHING_SCALES: &str = "this HorizontalPodAutoscaler is stored, but nothing scales yet: set replicas yourself";

const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

pub(super) const KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    type_name: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    add_types: add_type::<HorizontalPodAutoscaler>,
    default,
    prepare_create: |object| {
        set(object, "status", json!({}));
        default_status(object);
    },
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({}))),
    validate,
    warnings: |_| vec![NOTHING_SCALES.to_owned()],
    columns: COLUMNS,
    row,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Reference", "string", "What is scaled."),
    column("Targets", "string", "Each metric: what it is, and what it should be."),
    column("MinPods", "string", "The fewest pods."),
    column("MaxPods", "string", "The most pods."),
    column("Replicas", "string", "How many pods there are."),
    table::AGE,
];

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "minReplicas", 1);
    fill(
        spec,
        "metrics",
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
        }}]),
    );
    if let Some(behavior) = spec.get_mut("behavior") {
        default_behavior(behavior);
    }
    default_status(object);
}

fn default_status(object: &mut Value) {
    let status = child(object, "status");
    fill(status, "currentMetrics", Value::Null);
    fill(status, "desiredReplicas", 0);
}

fn default_behavior(behavior: &mut Value) {
    let up = child(behavior, "scaleUp");
    fill(up, "stabilizationWindowSeconds", 0);
    fill(up, "selectPolicy", "Max");
    fill(
        up,
        "policies",
        json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]),
    );
    let down = child(behavior, "scaleDown");
    fill(down, "selectPolicy", "Max");
    fill(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    let (least, most) = (spec.field("minReplicas"), spec.field("maxReplicas"));
    if least.number().is_some_and(|count| count < 1) {
        causes.push(least.invalid("must be greater than or equal to 1"));
    }
    let most_count = most.number().unwrap_or(0);
    if most_count < 1 {
        causes.push(most.required("must be set and greater than 0"));
    }
    if least.number().is_some_and(|count| count > most_count) {
        causes.push(most.invalid_as(&json!(most_count), "must be greater than or equal to `minReplicas`"));
    }
    check_target(&spec.field("scaleTargetRef"), &mut causes);
    for metric in spec.field("metrics").items() {
        check_metric(&metric, &mut causes);
    }
    causes
}

fn check_target(target: &At<'_>, causes: &mut Vec<Cause>) {
    for name in ["kind", "name"] {
        if target.field(name).is_empty() {
            causes.push(target.field(name).required(""));
        }
    }
    let version = target.field("apiVersion");
    if !version.text().contains('/') && target.field("kind").text() != "ReplicationController" {
        causes.push(version.invalid_as(&json!(version.text()), "apiVersion must specify API group"));
    }
}

fn check_metric(metric: &At<'_>, causes: &mut Vec<Cause>) {
    let kind = metric.field("type");
    if kind.is_empty() {
        causes.push(kind.required("must specify a metric source type"));
        return;
    }
    check_one_of(&kind, &METRIC_TYPES, causes);
    let source = metric.field(source_field(kind.text()));
    if METRIC_TYPES.contains(&kind.text()) && !source.is_given() {
        causes.push(source.required("must populate information for the given metric source"));
        return;
    }
    let target = source.field("target");
    let values = ["averageUtilization", "averageValue", "value"].map(|name| target.field(name));
    if source.is_given() && !values.iter().any(At::is_given) {
        causes.push(
            target.field("averageUtilization").required("must set either a target raw value or a target utilization"),
        );
    }
    if target.field("averageUtilization").number().is_some_and(|percent| percent < 1) {
        causes.push(target.field("averageUtilization").invalid("must be greater than 0"));
    }
}

fn source_field(kind: &str) -> &'static str {
    match kind {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        _ => "resource",
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let least = integer(object, "/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), |count| count.to_string());
    let reference =
        format!("{}/{}", text(object, "/spec/scaleTargetRef/kind"), text(object, "/spec/scaleTargetRef/name"));
    vec![
        table::name(object),
        json!(reference),
        json!(targets(object)),
        json!(least),
        json!(integer(object, "/spec/maxReplicas").unwrap_or(0)),
        json!(integer(object, "/status/currentReplicas").unwrap_or(0)),
        table::age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    const SHOWN: usize = 2;
    let current = items(object, "/status/currentMetrics");
    let metrics = items(object, "/spec/metrics").iter().enumerate();
    let all: Vec<_> = metrics.map(|(index, metric)| target(metric, current.get(index))).collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > SHOWN => format!("{shown} + {} more...", count - SHOWN),
        _ => shown,
    }
}

/// `cpu: 12%/80%`, or `cpu: <unknown>/80%` while nothing is measured.
fn target(metric: &Value, current: Option<&Value>) -> String {
    let field = source_field(text(metric, "/type"));
    let amount = |of: &Value, part: &str| {
        let at = |name: &str| format!("/{field}/{part}/{name}");
        match integer(of, &at("averageUtilization")) {
            Some(percent) => format!("{percent}%"),
            None => [text(of, &at("averageValue")), text(of, &at("value"))].concat(),
        }
    };
    let measured = current.map(|current| amount(current, "current")).filter(|amount| !amount.is_empty());
    let measured = measured.unwrap_or_else(|| "<unknown>".to_owned());
    let wanted = amount(metric, "target");
    match text(metric, &format!("/{field}/name")) {
        "" => format!("{measured}/{wanted}"),
        name => format!("{name}: {measured}/{wanted}"),
    }
}
