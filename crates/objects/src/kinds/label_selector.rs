//! Label selectors, as workloads and policies have them: what may stand in them, and how tables show them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use crate::metadata::{check_labels, label_value_faults, qualified_name_faults};
use crate::selector;
use crate::table::or_none;
use crate::validation::{At, Cause};

/// Mistakes in a selector; none where there is no selector.
pub(super) fn check(selector: &At<'_>, causes: &mut Vec<Cause>) {
    check_labels(&selector.field("matchLabels"), causes);
    for expression in selector.field("matchExpressions").items() {
        check_expression(&expression, causes);
    }
}

/// A selector as text; `<none>` for one that is empty or not there.
pub(super) fn cell(selector: Option<&Value>) -> Value {
    let read = selector.map(LabelSelector::deserialize).and_then(Result::ok);
    or_none(&read.map(|selector| selector::to_text(&selector)).unwrap_or_default())
}

fn check_expression(expression: &At<'_>, causes: &mut Vec<Cause>) {
    let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            causes.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            causes.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => causes.push(operator.invalid("not a valid selector operator")),
    }
    causes.extend(key.invalid_for(qualified_name_faults(key.text())));
    for value in values.items() {
        causes.extend(value.invalid_for(label_value_faults(value.text())));
    }
}
