//! Does a pod fit a node? Yes, or the sentence in which Kubernetes says why not. Pods are placed oldest first, each on
//! what the ones before it left.

mod affinity;
mod step;
mod taints;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use objects::pods::{self, Resources};
use objects::quantity;

use crate::Decision;
use crate::target::Target;

pub use step::{Step, WaitingOn};

/// Name of the scheduler that pods ask for by default; others are left to whoever answers to their name.
const SCHEDULER: &str = "default-scheduler";

/// Pods of a node that doesn't say.
const DEFAULT_PODS: i64 = 110;

/// Why a pod doesn't fit a node, in the order Kubernetes looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The node is cordoned.
    Unschedulable,
    /// The node has a taint that the pod doesn't tolerate.
    Taint {
        key: String,
        value: String,
    },
    /// The node's labels are not those that the pod asks for.
    Labels,
    /// A host port is taken.
    HostPort,
    TooManyPods,
    InsufficientCpu,
    InsufficientMemory,
}

/// Which waiting pods go where. `pods` are those of all namespaces, for what the nodes have left.
#[must_use]
pub fn next_steps(nodes: &[Node], pods: &[Pod], now: Timestamp) -> Decision<Step, WaitingOn> {
    let mut placed: Vec<(&str, &Pod)> = pods.iter().filter_map(|pod| Some((node_name(pod)?, pod))).collect();
    let mut steps = Vec::new();
    let mut waiting_on = Vec::new();
    for pod in queue(pods) {
        match find_node(pod, nodes, &placed) {
            Ok(node) => {
                placed.push((node, pod));
                steps.push(Step::Bind { pod: Target::of(&pod.metadata), node: node.to_owned() });
            }
            Err(message) => {
                steps.extend(Step::mark_unschedulable(pod, &message, now));
                waiting_on.push(WaitingOn::Room { pod: pod.metadata.name.clone().unwrap_or_default(), message });
            }
        }
    }
    Decision { steps, waiting_on, look_again_at: None }
}

/// Whether the pod fits the node beside the pods that are on it.
///
/// # Errors
/// Every reason of the first kind that Kubernetes would report.
pub fn fits(pod: &Pod, node: &Node, on_node: &[&Pod]) -> Result<(), Vec<Misfit>> {
    let spec = node.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) && !taints::tolerates_cordon(pod) {
        return Err(vec![Misfit::Unschedulable]);
    }
    if let Some(taint) = taints::untolerated(pod, spec.taints.as_deref().unwrap_or_default()) {
        let value = taint.value.clone().unwrap_or_default();
        return Err(vec![Misfit::Taint { key: taint.key.clone(), value }]);
    }
    if !affinity::matches(pod, node) {
        return Err(vec![Misfit::Labels]);
    }
    if on_node.iter().any(|other| !pods::is_finished(other) && shares_host_port(pod, other)) {
        return Err(vec![Misfit::HostPort]);
    }
    let lacking = lacking_room(pod, node, on_node);
    if lacking.is_empty() { Ok(()) } else { Err(lacking) }
}

fn queue(pods: &[Pod]) -> Vec<&Pod> {
    let mut waiting: Vec<_> = pods.iter().filter(|pod| is_waiting(pod)).collect();
    waiting.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), &pod.metadata.name));
    waiting
}

fn is_waiting(pod: &Pod) -> bool {
    let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    node_name(pod).is_none()
        && !pods::is_terminating(pod)
        && !pods::is_finished(pod)
        && scheduler.is_none_or(|scheduler| scheduler == SCHEDULER)
        && gates.is_none_or(Vec::is_empty)
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn find_node<'a>(pod: &Pod, nodes: &'a [Node], placed: &[(&str, &Pod)]) -> Result<&'a str, String> {
    let mut misfits = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let on_node: Vec<_> = placed.iter().filter(|(node, _)| *node == name).map(|(_, pod)| *pod).collect();
        match fits(pod, node, &on_node) {
            Ok(()) => return Ok(name),
            Err(reasons) => misfits.push(reasons),
        }
    }
    Err(sentence(&misfits))
}

/// Reasons with how many nodes have them, and why making room by force would not help.
fn sentence(misfits: &[Vec<Misfit>]) -> String {
    if misfits.is_empty() {
        return "no nodes available to schedule pods".to_owned();
    }
    let total = misfits.len();
    let reasons = histogram(misfits.iter().flatten().map(Misfit::to_string));
    let preemption = histogram(misfits.iter().map(|reasons| preemption(reasons).to_owned()));
    format!(
        "0/{total} nodes are available: {reasons}. no new claims to deallocate, \
         preemption: 0/{total} nodes are available: {preemption}."
    )
}

fn preemption(reasons: &[Misfit]) -> &'static str {
    let by_pods = |reason: &Misfit| match reason {
        Misfit::HostPort | Misfit::TooManyPods | Misfit::InsufficientCpu | Misfit::InsufficientMemory => true,
        Misfit::Unschedulable | Misfit::Taint { .. } | Misfit::Labels => false,
    };
    let frees = reasons.iter().all(by_pods);
    if frees { "No preemption victims found for incoming pod" } else { "Preemption is not helpful for scheduling" }
}

fn histogram(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut parts: Vec<_> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

fn lacking_room(pod: &Pod, node: &Node, on_node: &[&Pod]) -> Vec<Misfit> {
    let running: Vec<_> = on_node.iter().filter(|other| !pods::is_finished(other)).collect();
    let used = running.iter().map(|other| pods::requests(other)).fold(Resources::default(), Resources::plus);
    let asked = pods::requests(pod);
    let total = used.plus(asked);
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let amount = |name: &str| allocatable.and_then(|amounts| amounts.get(name));
    let most_pods = amount("pods").map_or(DEFAULT_PODS, quantity::bytes);
    let mut lacking = Vec::new();
    if i64::try_from(running.len()).unwrap_or(i64::MAX) >= most_pods {
        lacking.push(Misfit::TooManyPods);
    }
    if asked.cpu_millis > 0 && total.cpu_millis > amount("cpu").map_or(0, quantity::cpu_millis) {
        lacking.push(Misfit::InsufficientCpu);
    }
    if asked.memory_bytes > 0 && total.memory_bytes > amount("memory").map_or(0, quantity::bytes) {
        lacking.push(Misfit::InsufficientMemory);
    }
    lacking
}

fn shares_host_port(pod: &Pod, other: &Pod) -> bool {
    let others = host_ports(other);
    host_ports(pod).iter().any(|port| others.contains(port))
}

fn host_ports(pod: &Pod) -> Vec<(i32, &str)> {
    let ports = pods::serving_containers(pod).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| Some((port.host_port.filter(|it| *it != 0)?, port)));
    taken.map(|(host_port, port)| (host_port, port.protocol.as_deref().unwrap_or("TCP"))).collect()
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => write!(f, "node(s) were unschedulable"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Labels => write!(f, "node(s) didn't match Pod's node affinity/selector"),
            Self::HostPort => write!(f, "node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => write!(f, "Too many pods"),
            Self::InsufficientCpu => write!(f, "Insufficient cpu"),
            Self::InsufficientMemory => write!(f, "Insufficient memory"),
        }
    }
}

#[cfg(test)]
mod tests;
