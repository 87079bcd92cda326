//! What a pod's object says about it: is it ready, available, going away, how long it may take, what it asks for.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};

use crate::names;
use crate::quantity::{self, Amount};

mod duration;

pub use duration::parse_duration;

const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Whether a pod counts only once the data plane gives it work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// A Service selects it: condition `segue.dev/Routed` must be True.
    Required,
    /// No Service selects it.
    NotSelected,
}

/// What a pod asks of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// The condition of this type, if the pod has it.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of this type is True.
#[must_use]
pub fn is_true(pod: &Pod, type_: &str) -> bool {
    condition(pod, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether the pod is Ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    is_true(pod, "Ready")
}

/// Whether the pod has been told to go away.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether all containers have ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the pod has been ready for `min_ready_seconds` and, where a Service selects it, is given work.
#[must_use]
pub fn is_available(pod: &Pod, min_ready_seconds: i32, routed: Routed, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds, routed).is_some_and(|time| min_ready_seconds <= 0 || time <= now)
}

/// When the pod is available if it stays as it is; None while something other than time is missing.
#[must_use]
pub fn available_at(pod: &Pod, min_ready_seconds: i32, routed: Routed) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    if routed == Routed::Required && !is_true(pod, names::ROUTED) {
        return None;
    }
    let ready_since = ready.last_transition_time.as_ref().map(|time| time.0);
    if min_ready_seconds <= 0 {
        return Some(ready_since.unwrap_or(Timestamp::MIN));
    }
    ready_since?.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok()
}

/// How long the pod may take to finish what it was given before it is signalled.
#[must_use]
pub fn drain_budget(pod: &Pod) -> SignedDuration {
    annotation(pod, names::DRAIN_DEADLINE).and_then(parse_duration).unwrap_or_else(|| specified_grace(pod))
}

/// How long connections to the pod whose end nobody can predict may stay: WebSockets, server-sent events, opaque TCP.
#[must_use]
pub fn long_connection_budget(pod: &Pod) -> SignedDuration {
    annotation(pod, names::LONG_CONNECTION_DEADLINE).and_then(parse_duration).unwrap_or_else(|| drain_budget(pod))
}

/// How long the containers have between SIGTERM and SIGKILL.
#[must_use]
pub fn grace_period(pod: &Pod) -> SignedDuration {
    let of_deletion = pod.metadata.deletion_grace_period_seconds.map(SignedDuration::from_secs);
    of_deletion.unwrap_or_else(|| specified_grace(pod))
}

/// When the deletion was asked for; the deletionTimestamp lies a grace period later.
#[must_use]
pub fn deleted_at(pod: &Pod) -> Option<Timestamp> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    ends.checked_sub(SignedDuration::from_secs(grace)).ok()
}

/// Since when its node ends the pod by itself and shows so, which drains it as a deletion does.
#[must_use]
pub fn node_ends_since(pod: &Pod) -> Option<Timestamp> {
    evicted_at(pod).or_else(|| outlived_at(pod)).filter(|_| !is_finished(pod))
}

fn evicted_at(pod: &Pod) -> Option<Timestamp> {
    let disrupted = condition(pod, names::DISRUPTION_TARGET)?;
    let is_nodes = disrupted.status == "True" && disrupted.reason.as_deref() == Some(names::TERMINATION_BY_KUBELET);
    disrupted.last_transition_time.as_ref().filter(|_| is_nodes).map(|time| time.0)
}

/// Not since the deadline: one that was shortened, or passed while no engine ran, drains all the same.
fn outlived_at(pod: &Pod) -> Option<Timestamp> {
    let outlived = condition(pod, names::OUTLIVED).filter(|condition| condition.status == "True")?;
    outlived.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether the pod is to go, for whatever reason: it gets no new work.
#[must_use]
pub fn is_leaving(pod: &Pod) -> bool {
    is_terminating(pod) || leaves_since(pod).is_some()
}

/// Since when the pod is to go, for whatever reason.
#[must_use]
pub fn leaves_since(pod: &Pod) -> Option<Timestamp> {
    deleted_at(pod).or_else(|| node_ends_since(pod))
}

/// The grace period that somebody chose when deleting the pod.
#[must_use]
pub fn explicit_grace(pod: &Pod) -> Option<SignedDuration> {
    let seconds: i64 = annotation(pod, names::EXPLICIT_GRACE)?.parse().ok()?;
    (seconds >= 0).then(|| SignedDuration::from_secs(seconds))
}

/// What the pod asks for. A limit stands in for a request that is not given. Init containers run one after another
/// before the others, so they count only where one asks for more than all others together; those that keep running
/// (restartPolicy Always) count as the others do.
#[must_use]
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut kept_running = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let asked = container_requests(container);
        if is_sidecar(container) {
            kept_running = kept_running.plus(asked);
            peak = peak.at_least(kept_running);
        } else {
            peak = peak.at_least(kept_running.plus(asked));
        }
    }
    let together = spec.containers.iter().map(container_requests).fold(kept_running, Resources::plus);
    let overhead = spec.overhead.as_ref().map_or(Resources::default(), |overhead| Resources {
        cpu_millis: overhead.get("cpu").map_or(0, quantity::cpu_millis),
        memory_bytes: overhead.get("memory").map_or(0, quantity::bytes),
    });
    peak.at_least(together).plus(overhead)
}

/// Those that run as long as the pod does: its containers and the init containers that keep running.
pub fn serving_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
        spec.containers.iter().chain(sidecars)
    })
}

/// An init container that keeps running.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
#[must_use]
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if containers().all(|container| asks_for_nothing(container.resources.as_ref())) {
        "BestEffort"
    } else if containers().all(|container| is_guaranteed(container.resources.as_ref())) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

impl Resources {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn specified_grace(pod: &Pod) -> SignedDuration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    SignedDuration::from_secs(seconds.unwrap_or(DEFAULT_GRACE_SECONDS))
}

fn container_requests(container: &Container) -> Resources {
    let requested = |name| {
        let [request, limit] = amounts(container.resources.as_ref(), name);
        request.or(limit)
    };
    Resources {
        cpu_millis: requested("cpu").map_or(0, Amount::millis),
        memory_bytes: requested("memory").map_or(0, Amount::value),
    }
}

fn asks_for_nothing(resources: Option<&ResourceRequirements>) -> bool {
    let asked = ["cpu", "memory"].map(|name| amounts(resources, name));
    asked.into_iter().flatten().flatten().all(|amount| amount.millis() == 0)
}

fn is_guaranteed(resources: Option<&ResourceRequirements>) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let [request, limit] = amounts(resources, name);
        let Some(limit) = limit.filter(|limit| limit.millis() > 0) else { return false };
        request.is_none_or(|request| request.compare(limit).is_eq())
    })
}

/// Request and limit of one resource.
fn amounts(resources: Option<&ResourceRequirements>, name: &str) -> [Option<Amount>; 2] {
    let Some(resources) = resources else { return [None, None] };
    [&resources.requests, &resources.limits].map(|amounts| {
        let quantity = amounts.as_ref()?.get(name)?;
        quantity::parse(&quantity.0).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pod_with_conditions(ready: &str, routed: &str) -> Pod {
        pod(json!({"status": {"conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "segue.dev/Routed", "status": routed},
        ]}}))
    }

    #[test]
    fn available_is_ready_long_enough_and_routed() {
        use Routed::{NotSelected, Required};
        let table = [
            ("True", "True", 0, Required, "2026-01-01T00:00:00Z", true),
            ("True", "False", 0, Required, "2026-01-01T00:00:00Z", false),
            ("True", "False", 0, NotSelected, "2026-01-01T00:00:00Z", true),
            ("True", "True", 10, Required, "2026-01-01T00:00:09Z", false),
            ("True", "True", 10, Required, "2026-01-01T00:00:10Z", true),
            ("False", "True", 0, NotSelected, "2026-01-02T00:00:00Z", false),
        ];
        for (ready, routed, seconds, required, now, expected) in table {
            let pod = pod_with_conditions(ready, routed);
            let available = is_available(&pod, seconds, required, at(now));
            assert_eq!(available, expected, "{ready} {routed} {seconds} {required:?} {now}");
        }
        let pod = pod_with_conditions("True", "True");
        assert_eq!(available_at(&pod, 10, Required), Some(at("2026-01-01T00:00:10Z")));
    }

    #[test]
    fn drain_budget_is_the_annotation_or_the_grace_period() {
        let table = [
            (json!({}), 30),
            (json!({"spec": {"containers": [], "terminationGracePeriodSeconds": 7}}), 7),
            (json!({"metadata": {"annotations": {"segue.dev/drain-deadline": "45"}}}), 45),
            (json!({"metadata": {"annotations": {"segue.dev/drain-deadline": "1m30s"}}}), 90),
            (json!({"metadata": {"annotations": {"segue.dev/drain-deadline": "soon"}}}), 30),
        ];
        for (value, seconds) in table {
            let budget = drain_budget(&pod(value.clone()));
            assert_eq!(budget, SignedDuration::from_secs(seconds), "{value}");
        }
    }

    #[test]
    fn long_connections_have_the_drain_budget_unless_they_have_their_own() {
        let own = |annotations: Value| long_connection_budget(&pod(json!({"metadata": {"annotations": annotations}})));
        assert_eq!(own(json!({})), SignedDuration::from_secs(30));
        assert_eq!(own(json!({names::DRAIN_DEADLINE: "45"})), SignedDuration::from_secs(45));
        let both = json!({names::DRAIN_DEADLINE: "5", names::LONG_CONNECTION_DEADLINE: "10m"});
        assert_eq!(own(both), SignedDuration::from_secs(600));
    }

    #[test]
    fn deletion_is_a_grace_period_before_its_timestamp() {
        let pod = pod(json!({"metadata": {
            "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30,
            "annotations": {"segue.dev/explicit-grace": "5"},
        }}));
        assert!(is_terminating(&pod));
        assert_eq!(deleted_at(&pod), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(grace_period(&pod), SignedDuration::from_secs(30));
        assert_eq!(explicit_grace(&pod), Some(SignedDuration::from_secs(5)));
    }

    fn with_containers(containers: Value, init_containers: Value) -> Pod {
        pod(json!({"spec": {"containers": containers, "initContainers": init_containers}}))
    }

    fn asking(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn requests_are_summed_and_limits_stand_in() {
        let one = asking(json!({"cpu": "100m", "memory": "64Mi"}), json!({"cpu": "1"}));
        let two = asking(json!({}), json!({"cpu": "200m", "memory": "1Mi"}));
        let big = asking(json!({"cpu": "2"}), json!({}));
        let mut sidecar = asking(json!({"cpu": "50m"}), json!({}));
        sidecar["restartPolicy"] = json!("Always");

        let sum = requests(&with_containers(json!([one, two]), json!([])));
        assert_eq!(sum, Resources { cpu_millis: 300, memory_bytes: 65 << 20 });
        let peak = requests(&with_containers(json!([one, two]), json!([sidecar, big])));
        assert_eq!(peak, Resources { cpu_millis: 2050, memory_bytes: 65 << 20 });
        let kept = requests(&with_containers(json!([one, two]), json!([sidecar])));
        assert_eq!(kept.cpu_millis, 350);
    }

    #[test]
    fn qos_class_follows_requests_and_limits() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let table = [
            (asking(json!({}), json!({})), "BestEffort"),
            (asking(json!({"cpu": "0"}), json!({})), "BestEffort"),
            (asking(json!({"cpu": "1"}), json!({})), "Burstable"),
            (asking(full.clone(), full.clone()), "Guaranteed"),
            (asking(json!({}), full.clone()), "Guaranteed"),
            (asking(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone()), "Guaranteed"),
            (asking(json!({"cpu": "500m"}), full), "Burstable"),
        ];
        for (container, expected) in table {
            assert_eq!(qos_class(&with_containers(json!([container]), json!([]))), expected, "{container}");
        }
    }
}
