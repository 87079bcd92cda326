//! How a pod stands with those who count on it: Kubernetes' Ready and Available, and in between the data plane's word.
//! Knows nothing of who counts, or why.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use objects::pods::{self, Routed};

use crate::endpoints;

/// How near a pod is to being available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    NotReady,
    /// Ready, but no acknowledged configuration of the data plane gives it work.
    NotRouted,
    /// Ready and routed, but for less than minReadySeconds.
    Young {
        available_at: Timestamp,
    },
    Available,
}

impl Standing {
    /// Whether the pod is Ready as Kubernetes means it.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self != Self::NotReady
    }
}

/// How the pod stands. `services` are those of its namespace; an old list may miss that a pod must be acknowledged,
/// and then the next look sees it.
#[must_use]
pub fn standing(pod: &Pod, min_ready_seconds: i32, services: &[Service], now: Timestamp) -> Standing {
    let routed = routed(pod, services);
    if !pods::is_ready(pod) {
        return Standing::NotReady;
    }
    if pods::is_available(pod, min_ready_seconds, routed, now) {
        return Standing::Available;
    }
    match pods::available_at(pod, min_ready_seconds, routed) {
        Some(available_at) => Standing::Young { available_at },
        None => Standing::NotRouted,
    }
}

/// Whether the pod counts only with the data plane's acknowledgement: when a Service selects it.
#[must_use]
pub fn routed(pod: &Pod, services: &[Service]) -> Routed {
    if services.iter().any(|service| endpoints::selects(service, pod)) { Routed::Required } else { Routed::NotSelected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(conditions: Value) -> Pod {
        let meta = json!({"namespace": "n", "labels": {"app": "web"}});
        serde_json::from_value(json!({"metadata": meta, "status": {"conditions": conditions}})).unwrap()
    }

    #[test]
    fn ready_is_not_yet_available() {
        let service = json!({"metadata": {"namespace": "n"}, "spec": {"selector": {"app": "web"}}});
        let service: Service = serde_json::from_value(service).unwrap();
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let routed = json!({"type": "segue.dev/Routed", "status": "True"});
        let later: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
        let now: Timestamp = "2026-01-01T00:00:02Z".parse().unwrap();
        let table = [
            (json!([]), 0, true, Standing::NotReady),
            (json!([ready]), 0, true, Standing::NotRouted),
            (json!([ready]), 0, false, Standing::Available),
            (json!([ready, routed]), 0, true, Standing::Available),
            (json!([ready, routed]), 5, true, Standing::Young { available_at: later }),
            (json!([ready, routed]), 2, true, Standing::Available),
        ];
        for (conditions, min_ready_seconds, selected, expected) in table {
            let services = if selected { vec![service.clone()] } else { Vec::new() };
            let found = standing(&pod(conditions.clone()), min_ready_seconds, &services, now);
            assert_eq!(found, expected, "{conditions} {min_ready_seconds}");
        }
    }
}
