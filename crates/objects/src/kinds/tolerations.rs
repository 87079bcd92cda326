//! Tolerations of pods: their mistakes, and what every pod tolerates for a while.

use serde_json::{Value, json};

use crate::metadata::{label_value_faults, qualified_name_faults};
use crate::validation::{At, Cause, check_one_of};

/// How long a pod stays on a node that is not heard of.
const UNREACHABLE_SECONDS: i64 = 300;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Mistakes in a list of tolerations.
pub(super) fn check(tolerations: &At<'_>, causes: &mut Vec<Cause>) {
    for toleration in tolerations.items() {
        let (key, operator, value) = (toleration.field("key"), toleration.field("operator"), toleration.field("value"));
        if !key.is_empty() {
            causes.extend(key.invalid_for(qualified_name_faults(key.text())));
        } else if operator.text() != "Exists" {
            causes.push(
                operator.invalid(
                    "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                ),
            );
        }
        match operator.text() {
            "" | "Equal" => causes.extend(value.invalid_for(label_value_faults(value.text()))),
            "Exists" if !value.is_empty() => {
                causes.push(operator.invalid_as(toleration.value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            _ => causes.push(operator.not_supported(&["Equal", "Exists"])),
        }
        let effect = toleration.field("effect");
        if !effect.is_empty() {
            check_one_of(&effect, &EFFECTS, causes);
        }
        if toleration.field("tolerationSeconds").is_given() && effect.text() != "NoExecute" {
            causes.push(
                effect.invalid_as(&json!(effect.text()), "effect must be 'NoExecute' when `tolerationSeconds` is set"),
            );
        }
    }
}

/// The tolerations that a new pod gets besides its own.
pub(super) fn added_to_pods(own: &[Value]) -> Vec<Value> {
    let keys = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let is_tolerated = |key: &str| {
        own.iter().any(|toleration| {
            let effect = toleration.get("effect").and_then(Value::as_str).unwrap_or_default();
            let tolerated = toleration.get("key").and_then(Value::as_str).unwrap_or_default();
            (tolerated == key || tolerated.is_empty()) && matches!(effect, "" | "NoExecute")
        })
    };
    let added = keys.into_iter().filter(|key| !is_tolerated(key)).map(|key| {
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNREACHABLE_SECONDS})
    });
    added.collect()
}
