//! Writes a pod's status, and only if it says something new. What it rests on is guarded by the resourceVersion.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, PostParams};
use serde_json::{Map, Value};

use super::PodError;

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The object says all of it already.
    Same,
    Changed,
    /// The object has changed or gone meanwhile, so the status rests on old facts.
    Outdated,
}

pub(super) async fn write(client: &kube::Client, pod: &Pod, status: PodStatus) -> Result<Written, PodError> {
    let old = comparable(pod.status.as_ref())?;
    if comparable(Some(&status))? == old {
        return Ok(Written::Same);
    }
    let metadata = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(client.clone(), metadata.namespace.as_deref().unwrap_or_default());
    let name = metadata.name.as_deref().unwrap_or_default();
    let body = body(&Pod { status: Some(status), ..pod.clone() })?;
    match api.replace_subresource("status", name, &PostParams::default(), &body).await {
        Ok(_) => Ok(Written::Changed),
        Err(kube::Error::Api(refused)) if refused.is_conflict() || refused.is_not_found() => Ok(Written::Outdated),
        Err(error) => Err(PodError::WriteStatus(error)),
    }
}

/// Clients of Kubernetes find `lastProbeTime` in every condition, though it is always null.
fn body(pod: &Pod) -> Result<Value, PodError> {
    let mut body = serde_json::to_value(pod).map_err(PodError::Encode)?;
    let conditions = body.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.entry("lastProbeTime").or_insert(Value::Null);
    }
    Ok(body)
}

/// An API may keep or drop what is empty.
fn comparable(status: Option<&PodStatus>) -> Result<Value, PodError> {
    let value = serde_json::to_value(status).map_err(PodError::Encode)?;
    Ok(without_empty(value).unwrap_or_default())
}

fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(entries) => {
            let kept: Map<String, Value> =
                entries.into_iter().filter_map(|(key, value)| Some((key, without_empty(value)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) => {
            let kept: Vec<Value> = items.into_iter().filter_map(without_empty).collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn emptiness_is_no_difference() {
        let one: PodStatus =
            serde_json::from_value(json!({"phase": "Running", "resources": {}, "conditions": []})).unwrap();
        let other: PodStatus = serde_json::from_value(json!({"phase": "Running"})).unwrap();
        assert_eq!(comparable(Some(&one)).unwrap(), comparable(Some(&other)).unwrap());
        let third: PodStatus = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
        assert_ne!(comparable(Some(&one)).unwrap(), comparable(Some(&third)).unwrap());
    }

    #[test]
    fn every_condition_names_its_probe_time() {
        let pod: Pod =
            serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})).unwrap();
        assert_eq!(body(&pod).unwrap().pointer("/status/conditions/0/lastProbeTime"), Some(&Value::Null));
    }
}
