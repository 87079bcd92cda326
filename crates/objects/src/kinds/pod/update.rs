//! What may change in a pod that exists: images, how long it may run or take to end, and more tolerations.

use serde_json::{Value, json};

use crate::json::{child, fill, items, remove, set};
use crate::metadata;
use crate::validation::{At, Cause};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];

/// What the server gave the pod when it was created, and its status, are kept.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({})));
    let spec = child(new, "spec");
    for name in ["nodeName", "priority", "preemptionPolicy", "serviceAccount", "serviceAccountName", "tolerations"] {
        if let Some(value) = old.pointer(&format!("/spec/{name}")) {
            fill(spec, name, value.clone());
        }
    }
}

/// Every change that is not allowed.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    let spec = At::root(new).field("spec");
    let old_spec = old.get("spec").unwrap_or(&Value::Null);
    for list in CONTAINER_LISTS {
        let containers = spec.field(list);
        if containers.items().count() != items(old_spec, &format!("/{list}")).len() {
            causes.push(containers.forbidden("pod updates may not add or remove containers"));
            return causes;
        }
    }
    check_deadline(&spec.field("activeDeadlineSeconds"), old_spec.get("activeDeadlineSeconds"), &mut causes);
    check_tolerations(&spec.field("tolerations"), items(old_spec, "/tolerations"), &mut causes);
    let [before, after] = [old_spec, spec.value].map(without_changeable);
    if before != after {
        causes.push(spec.forbidden(&format!("{FORBIDDEN}\nchanged: {}", changed_fields(&before, &after).join(", "))));
    }
    causes
}

/// It may be set, or made shorter.
fn check_deadline(new: &At<'_>, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let old = old.and_then(Value::as_i64);
    match (new.number(), old) {
        (Some(new_seconds), Some(old_seconds)) if new_seconds > old_seconds => {
            causes.push(new.invalid(&format!("must be less than or equal to previous value {old_seconds}")));
        }
        (None, Some(_)) => causes.push(new.invalid("must not update from a positive integer to nil value")),
        (Some(_) | None, _) => {}
    }
}

fn check_tolerations(new: &At<'_>, old: &[Value], causes: &mut Vec<Cause>) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let kept: Vec<_> = new.items().map(|toleration| without_time(toleration.value)).collect();
    if !old.iter().all(|toleration| kept.contains(&without_time(toleration))) {
        causes.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
    }
}

fn without_changeable(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in CONTAINER_LISTS {
        crate::json::items_mut(&mut spec, list).for_each(|container| drop(remove(container, "image")));
    }
    remove(&mut spec, "activeDeadlineSeconds");
    remove(&mut spec, "tolerations");
    spec
}

fn changed_fields(before: &Value, after: &Value) -> Vec<String> {
    let names = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    let mut all: Vec<String> = names(before);
    all.extend(names(after));
    all.sort();
    all.dedup();
    all.retain(|name| before.get(name) != after.get(name));
    all.iter().map(|name| format!("spec.{name}")).collect()
}
