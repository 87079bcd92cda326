//! PodDisruptionBudget: how many of some pods must stay when others are taken down on purpose.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::deployment::check_count;
use super::{add_type, label_selector};
use crate::counts;
use crate::json::{integer, set};
use crate::kind::{Kind, PLAIN, Scope, Subresource};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_one_of};

const UNHEALTHY_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

pub(super) const KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &[Subresource::Status],
    type_name: "io.k8s.api.policy.v1.PodDisruptionBudget",
    add_types: add_type::<PodDisruptionBudget>,
    counts_generations: true,
    prepare_create: |object| set(object, "status", nothing_counted()),
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(nothing_counted)),
    validate,
    columns: &[
        table::NAME,
        column("Min Available", "string", "How many pods must stay."),
        column("Max Unavailable", "string", "How many pods may be missing."),
        column("Allowed Disruptions", "integer", "How many pods may be taken down now."),
        table::AGE,
    ],
    row: |object, now| {
        let allowed = json!(integer(object, "/status/disruptionsAllowed").unwrap_or(0));
        let [least, most] = ["/spec/minAvailable", "/spec/maxUnavailable"].map(|bound| shown(object, bound));
        vec![table::name(object), least, most, allowed, table::age(object, now)]
    },
    ..PLAIN
};

fn nothing_counted() -> Value {
    json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
}

fn shown(object: &Value, bound: &str) -> Value {
    match object.pointer(bound) {
        Some(Value::String(share)) => json!(share),
        Some(Value::Number(count)) => json!(count.to_string()),
        _ => json!("N/A"),
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
    if least.is_given() && most.is_given() {
        let shown = json!({"MinAvailable": least.value, "Selector": spec.field("selector").value,
            "MaxUnavailable": most.value, "UnhealthyPodEvictionPolicy": spec.field("unhealthyPodEvictionPolicy").value});
        causes.push(spec.invalid_as(&shown, "minAvailable and maxUnavailable cannot be both set"));
    }
    for bound in [&least, &most] {
        check_count(bound, &mut causes);
        if counts::percent(bound.text()).is_some_and(|percent| percent > 100) {
            causes.push(bound.invalid("must not be greater than 100%"));
        }
    }
    label_selector::check(&spec.field("selector"), &mut causes);
    let policy = spec.field("unhealthyPodEvictionPolicy");
    if policy.is_given() {
        check_one_of(&policy, &UNHEALTHY_POLICIES, &mut causes);
    }
    causes
}
