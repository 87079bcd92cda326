//! Mistakes in what a container asks for and may use.

use serde_json::json;

use crate::metadata::qualified_name_faults;
use crate::quantity;
use crate::validation::{At, Cause};

/// Mistakes in requests and limits.
pub(super) fn check(resources: &At<'_>, causes: &mut Vec<Cause>) {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    for (name, amount) in limits.entries().chain(requests.entries()) {
        check_name(name, &amount, causes);
        if quantity::parse(amount.text()).is_ok_and(quantity::Amount::is_negative) {
            causes.push(amount.invalid("must be greater than or equal to 0"));
        }
    }
    for (name, request) in requests.entries() {
        check_within_limit(name, &request, &requests, &limits, causes);
    }
}

fn check_name(name: &str, amount: &At<'_>, causes: &mut Vec<Cause>) {
    let shown = json!(name);
    causes.extend(qualified_name_faults(name).iter().map(|fault| amount.invalid_as(&shown, fault)));
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !is_standard {
        causes.push(amount.invalid_as(&shown, "must be a standard resource type or fully qualified"));
        causes.push(amount.invalid_as(&shown, "must be a standard resource for containers"));
    }
}

fn check_within_limit(name: &str, request: &At<'_>, requests: &At<'_>, limits: &At<'_>, causes: &mut Vec<Cause>) {
    let limit = limits.value.get(name).and_then(|limit| limit.as_str());
    let (Some(limit_text), Ok(asked)) = (limit, quantity::parse(request.text())) else { return };
    let Ok(limit) = quantity::parse(limit_text) else { return };
    if asked.compare(limit).is_gt() {
        let fault = format!("must be less than or equal to {name} limit of {limit_text}");
        causes.push(requests.invalid_as(request.value, &fault));
    }
}
