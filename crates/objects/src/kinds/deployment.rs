//! Deployment: pods of one template, and how one version of it follows another.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::{add_type, pod_template};
use crate::counts;
use crate::json::{child, fill, integer, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_not_negative};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
    regex used for validation is '[0-9]+%')";

pub(super) const KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[Subresource::Scale, Subresource::Status],
    type_name: "io.k8s.api.apps.v1.Deployment",
    add_types: add_type::<Deployment>,
    counts_generations: true,
    default,
    prepare_create: |object| set(object, "status", json!({})),
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({}))),
    validate,
    validate_update,
    warnings: pod_template::warnings,
    columns: COLUMNS,
    row,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Ready", "string", "How many pods are ready, of how many wanted."),
    column("Up-to-date", "string", "How many pods have the latest template."),
    column("Available", "string", "How many pods have been ready long enough."),
    table::AGE,
    table::CONTAINERS,
    table::IMAGES,
    table::SELECTOR,
];

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    let strategy = child(spec, "strategy");
    fill(strategy, "type", "RollingUpdate");
    if text(strategy, "/type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxSurge", "25%");
        fill(rolling, "maxUnavailable", "25%");
    }
    pod_template::default(spec);
    child(object, "status");
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    check_not_negative(&spec.field("replicas"), &mut causes);
    pod_template::check(&spec, "deployment", &mut causes);
    check_strategy(&spec.field("strategy"), &mut causes);
    check_not_negative(&spec.field("minReadySeconds"), &mut causes);
    check_not_negative(&spec.field("revisionHistoryLimit"), &mut causes);
    check_deadline(&spec, &mut causes);
    causes
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    pod_template::check_selector_kept(new, old, &mut causes);
    causes
}

fn check_deadline(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let deadline = spec.field("progressDeadlineSeconds");
    check_not_negative(&deadline, causes);
    let least = spec.field("minReadySeconds").number().unwrap_or(0);
    if deadline.number().is_some_and(|seconds| seconds <= least) {
        causes.push(deadline.invalid("must be greater than minReadySeconds"));
    }
}

fn check_strategy(strategy: &At<'_>, causes: &mut Vec<Cause>) {
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").text() {
        "Recreate" if rolling.is_given() => {
            causes.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        }
        "Recreate" => {}
        "RollingUpdate" => check_rolling(&rolling, causes),
        other => {
            let shown = json!({"Type": other, "RollingUpdate": rolling.value});
            causes
                .push(At { value: &shown, path: strategy.path.clone() }.not_supported(&["Recreate", "RollingUpdate"]));
        }
    }
}

fn check_rolling(rolling: &At<'_>, causes: &mut Vec<Cause>) {
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    check_count(&unavailable, causes);
    check_count(&surge, causes);
    if is_zero(&unavailable) && is_zero(&surge) {
        causes.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
    }
    if counts::percent(unavailable.text()).is_some_and(|percent| percent > 100) {
        causes.push(unavailable.invalid("must not be greater than 100%"));
    }
}

/// A number or a percentage.
pub(super) fn check_count(count: &At<'_>, causes: &mut Vec<Cause>) {
    if count.value.is_string() && counts::percent(count.text()).is_none() {
        causes.push(count.invalid(PERCENT));
    }
    check_not_negative(count, causes);
}

fn is_zero(count: &At<'_>) -> bool {
    count.number() == Some(0) || counts::percent(count.text()) == Some(0)
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = |pointer: &str| integer(object, pointer).unwrap_or(0);
    let [names, images] = table::containers(object);
    vec![
        table::name(object),
        json!(format!("{}/{}", count("/status/readyReplicas"), count("/spec/replicas"))),
        json!(count("/status/updatedReplicas")),
        json!(count("/status/availableReplicas")),
        table::age(object, now),
        names,
        images,
        pod_template::selector_cell(object),
    ]
}
