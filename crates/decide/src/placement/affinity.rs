//! Does a node have what a pod's nodeSelector and required node affinity ask for?

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::owners;

pub(super) fn matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = owners::labels(&node.metadata);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|it| it.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// A term without any requirement matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.clone().unwrap_or_default();
    let node_fields = BTreeMap::from([("metadata.name".to_owned(), name)]);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|it| requirement_matches(it, owners::labels(&node.metadata)))
        && fields.iter().all(|it| requirement_matches(it, &node_fields))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let found = labels.get(&requirement.key);
    let number = |text: &String| text.parse::<i64>().ok();
    let bounds = || Some((found.and_then(number)?, values.first().and_then(number)?));
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(value)),
        "NotIn" => found.is_none_or(|value| !values.contains(value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => bounds().is_some_and(|(value, bound)| value > bound),
        "Lt" => bounds().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
