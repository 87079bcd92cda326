//! Pod templates and the selectors that find their pods, as Deployments and ReplicaSets have them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::{label_selector, pod_spec};
use crate::json::{child, text};
use crate::metadata;
use crate::selector;
use crate::validation::{At, Cause};

/// Fills the template in `spec`.
pub(super) fn default(spec: &mut Value) {
    let template = child(spec, "template");
    child(template, "metadata");
    pod_spec::default(child(template, "spec"));
}

/// Mistakes in `spec.selector` and `spec.template` of a kind whose pods always restart.
pub(super) fn check(spec: &At<'_>, kind: &str, causes: &mut Vec<Cause>) {
    let (selector, template) = (spec.field("selector"), spec.field("template"));
    let mut selector_causes = Vec::new();
    if !selector.is_given() {
        selector_causes.push(selector.required(""));
    }
    label_selector::check(&selector, &mut selector_causes);
    if selector.value.as_object().is_some_and(serde_json::Map::is_empty) {
        selector_causes.push(selector.invalid(&format!("empty selector is invalid for {kind}")));
    }
    if selector_causes.is_empty() {
        check_agreement(&selector, &template, causes);
    }
    causes.extend(selector_causes);
    let meta = template.field("metadata");
    metadata::check_labels(&meta.field("labels"), causes);
    metadata::check_annotations(&meta.field("annotations"), causes);
    pod_spec::check_drain_deadlines(&meta, causes);
    pod_spec::validate(&template.field("spec"), causes);
    check_restarts(&template.field("spec"), causes);
}

/// A selector may not change: pods that it found before would belong to nobody.
pub(super) fn check_selector_kept(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let selector = At::root(new).field("spec").field("selector");
    if selector.value != At::root(old).field("spec").field("selector").value {
        causes.push(selector.invalid("field is immutable"));
    }
}

/// Sentences about what a template says but hardly means.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    pod_spec::warnings(&At::root(object).field("spec").field("template").field("spec"))
}

/// Names the template's labels in a cell.
pub(super) fn selector_cell(object: &Value) -> Value {
    label_selector::cell(object.pointer("/spec/selector"))
}

fn check_agreement(selector: &At<'_>, template: &At<'_>, causes: &mut Vec<Cause>) {
    let labels = template.field("metadata").field("labels");
    let Ok(wanted) = LabelSelector::deserialize(selector.value) else { return };
    let given: BTreeMap<String, String> =
        labels.entries().map(|(key, _)| (key.to_owned(), label(&labels, key))).collect();
    if !selector::matches(&wanted, &given) {
        causes.push(labels.invalid("`selector` does not match template `labels`"));
    }
}

fn label(labels: &At<'_>, key: &str) -> String {
    labels.value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn check_restarts(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let policy = spec.field("restartPolicy");
    if matches!(text(spec.value, "/restartPolicy"), "OnFailure" | "Never") {
        causes.push(policy.not_supported(&["Always"]));
    }
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.is_given() {
        causes.push(deadline.forbidden("activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
}
