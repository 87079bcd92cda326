//! What may a container use? Requests and limits, as numbers for cgroups and for the kernel's choice of victims.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use objects::pods::{self, Resources};
use objects::quantity;

use crate::cgroups::Limits;

/// The kernel's scheduling period for quotas; Kubernetes' number.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel refuses smaller quotas.
const SMALLEST_QUOTA_US: i64 = 1000;
/// The kernel's smallest weight; also that of a container that asks for nothing.
const SMALLEST_SHARES: i64 = 2;

/// Limits of one container.
pub(crate) fn of_container(container: &Container) -> Limits {
    let resources = container.resources.clone().unwrap_or_default();
    let cpu_limit = amount(resources.limits.as_ref(), "cpu").map(quantity::cpu_millis);
    let cpu_request = amount(resources.requests.as_ref(), "cpu").map(quantity::cpu_millis).or(cpu_limit);
    let memory = amount(resources.limits.as_ref(), "memory").map(quantity::bytes);
    limits(cpu_request.unwrap_or(0), cpu_limit, memory)
}

/// Limits of all containers together: none unless each has one.
pub(crate) fn of_pod(pod: &Pod) -> Limits {
    let spec = pod.spec.as_ref();
    let containers =
        || spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let sum = |name: &str, read: fn(&Quantity) -> i64| {
        let limit = |container: &Container| {
            amount(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()), name).map(read)
        };
        containers().map(limit).try_fold(0_i64, |sum, limit| Some(sum.saturating_add(limit?)))
    };
    limits(pods::requests(pod).cpu_millis, sum("cpu", quantity::cpu_millis), sum("memory", quantity::bytes))
}

/// Which containers the kernel kills first when the machine is out of memory.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, capacity: Resources) -> i32 {
    match pods::qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let asked = amount(requests, "memory").map_or(0, quantity::bytes);
            let share = i128::from(asked) * 1000 / i128::from(capacity.memory_bytes.max(1));
            i32::try_from(1000 - share).unwrap_or(2).clamp(2, 999)
        }
    }
}

fn limits(cpu_request_millis: i64, cpu_limit_millis: Option<i64>, memory_bytes: Option<i64>) -> Limits {
    let shares = (cpu_request_millis * 1024 / 1000).max(SMALLEST_SHARES);
    Limits {
        memory_bytes: memory_bytes.filter(|bytes| *bytes > 0),
        cpu_quota_us: cpu_limit_millis.filter(|millis| *millis > 0).map(|millis| (millis * 100).max(SMALLEST_QUOTA_US)),
        cpu_period_us: Some(CPU_PERIOD_US),
        cpu_shares: u64::try_from(shares).ok(),
        pids: None,
    }
}

fn amount<'a>(amounts: Option<&'a BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    amounts?.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<Value> = resources.iter().map(|each| json!({"name": "c", "resources": each})).collect();
        serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn requests_weigh_and_limits_bind() {
        let pod =
            pod(&[json!({"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}})]);
        let limits = of_container(&pod.spec.as_ref().unwrap().containers[0]);
        assert_eq!(limits.cpu_quota_us, Some(100_000));
        assert_eq!(limits.cpu_shares, Some(256));
        assert_eq!(limits.memory_bytes, Some(1 << 30));
        assert_eq!(of_pod(&pod), limits);
    }

    #[test]
    fn a_pod_is_limited_only_if_every_container_is() {
        let limited = || json!({"limits": {"cpu": "500m", "memory": "1Gi"}});
        let both = of_pod(&pod(&[limited(), limited()]));
        assert_eq!((both.cpu_quota_us, both.memory_bytes), (Some(100_000), Some(2 << 30)));
        let one = of_pod(&pod(&[limited(), json!({})]));
        assert_eq!((one.cpu_quota_us, one.memory_bytes), (None, None));
        assert_eq!(of_container(&Container::default()).cpu_shares, Some(2));
    }

    #[test]
    fn those_who_asked_for_least_go_first() {
        let capacity = Resources { cpu_millis: 2000, memory_bytes: 4 << 30 };
        let adj = |resources: Value| {
            let pod = pod(&[resources]);
            oom_score_adj(&pod, &pod.spec.as_ref().unwrap().containers[0], capacity)
        };
        assert_eq!(adj(json!({})), 1000);
        assert_eq!(adj(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), -997);
        assert_eq!(adj(json!({"requests": {"memory": "1Gi"}})), 750);
        assert_eq!(adj(json!({"requests": {"cpu": "1"}})), 999);
        assert_eq!(adj(json!({"requests": {"memory": "8Gi"}})), 2);
    }
}
