//! Which pods of a ReplicaSet are missed least? Kubernetes' order, and within it those that are not available first.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use objects::pods;

use crate::availability::Standing;
use crate::owners;

/// Annotation by which users say which pods are cheaper to delete.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pods, those to delete first in front.
pub(super) fn least_useful_first<'a>(active: &[(&'a Pod, Standing)]) -> Vec<(&'a Pod, Standing)> {
    let mut ranked = active.to_vec();
    ranked.sort_by_cached_key(|(pod, standing)| (usefulness(pod, *standing), pod.metadata.name.clone()));
    ranked
}

/// Unassigned, pending, not ready, not available, cheap, newly ready, often restarted, newly created: deleted first.
type Usefulness = (bool, u8, bool, bool, i64, Reverse<Option<Timestamp>>, Reverse<i32>, Reverse<Option<Timestamp>>);

fn usefulness(pod: &Pod, standing: Standing) -> Usefulness {
    let assigned = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        assigned,
        phase(pod),
        standing.is_ready(),
        standing == Standing::Available,
        deletion_cost(pod),
        Reverse(ready_since(pod)),
        Reverse(restarts(pod)),
        Reverse(created),
    )
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        Some(_) | None => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i64 {
    owners::annotation(&pod.metadata, DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}
