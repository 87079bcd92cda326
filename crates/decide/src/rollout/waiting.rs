//! Every reason for a rollout not to move on, with the sentence that users read.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use objects::pods;

use super::situation::{Member, Mode, Situation};
use crate::availability::Standing;

/// More reasons than this help nobody.
const MOST_REASONS: usize = 10;

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// Somebody paused it.
    Resume,
    /// The ReplicaSet's controller has not acted on its last size.
    ReplicaSetObserved { replica_set: String },
    /// Under `Recreate`, pods of the old version still run.
    OldPodsEnded { replica_set: String },
    /// Pods are to be created.
    PodsCreated { replica_set: String, missing: i32 },
    /// No node takes the pod.
    PodScheduled { pod: String, message: String },
    /// The pod is not ready, with the reason of its container if it has one, e.g. `ImagePullBackOff`.
    PodReady { pod: String, reason: Option<String> },
    /// The pod is ready, but the data plane has not acknowledged it, so it gets no requests.
    PodRouted { pod: String },
    /// The pod has to stay ready for minReadySeconds.
    PodAvailable { pod: String, available_at: Timestamp },
    /// Pods of the old version stay until enough new ones are available.
    OldPodsReplaced { replica_set: String, pods: i32 },
    /// Pods beyond the ReplicaSet's size are to be deleted, which they are when enough others are available.
    PodsDeleted { replica_set: String, surplus: i32 },
}

/// What the rollout waits for, most telling first; nothing when the declared state is reached.
pub(super) fn reasons(seen: &Situation<'_>) -> Vec<WaitingOn> {
    if seen.mode == Mode::Deleted || seen.is_complete() {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if seen.mode == Mode::Paused {
        reasons.push(WaitingOn::Resume);
    }
    seen.new_one().into_iter().for_each(|new| reasons.extend(of_pods(new)));
    for old in seen.old_ones() {
        reasons.extend(of_old(seen, old));
    }
    for member in seen.members.iter().filter(|member| !member.has_observed()) {
        reasons.push(WaitingOn::ReplicaSetObserved { replica_set: member.name().to_owned() });
    }
    reasons.truncate(MOST_REASONS);
    reasons
}

/// When one of the pods becomes available by time alone.
pub(super) fn next_available_at(seen: &Situation<'_>) -> Option<Timestamp> {
    let standings = seen.members.iter().flat_map(|member| &member.pods).map(|(_, standing)| *standing);
    standings.filter_map(available_at).min()
}

fn available_at(standing: Standing) -> Option<Timestamp> {
    match standing {
        Standing::Young { available_at } => Some(available_at),
        Standing::NotReady | Standing::NotRouted | Standing::Available => None,
    }
}

fn of_pods(new: &Member<'_>) -> Vec<WaitingOn> {
    let mut reasons: Vec<_> = new.pods.iter().filter_map(|(pod, standing)| of_pod(pod, *standing)).collect();
    let missing = new.wanted() - new.active();
    if missing > 0 {
        reasons.push(WaitingOn::PodsCreated { replica_set: new.name().to_owned(), missing });
    }
    reasons
}

fn of_pod(pod: &Pod, standing: Standing) -> Option<WaitingOn> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    match standing {
        Standing::Available => None,
        Standing::Young { available_at } => Some(WaitingOn::PodAvailable { pod: name, available_at }),
        Standing::NotRouted => Some(WaitingOn::PodRouted { pod: name }),
        Standing::NotReady => Some(match unschedulable(pod) {
            Some(message) => WaitingOn::PodScheduled { pod: name, message },
            None => WaitingOn::PodReady { pod: name, reason: container_reason(pod) },
        }),
    }
}

fn of_old(seen: &Situation<'_>, old: &Member<'_>) -> Option<WaitingOn> {
    let replica_set = old.name().to_owned();
    let (pods, surplus) = (old.wanted(), old.active() - old.wanted());
    if seen.mode == Mode::Recreate {
        old.may_run.then_some(WaitingOn::OldPodsEnded { replica_set })
    } else if surplus > 0 {
        Some(WaitingOn::PodsDeleted { replica_set, surplus })
    } else {
        (pods > 0).then_some(WaitingOn::OldPodsReplaced { replica_set, pods })
    }
}

fn unschedulable(pod: &Pod) -> Option<String> {
    let scheduled = pods::condition(pod, "PodScheduled")?;
    (scheduled.status == "False").then(|| scheduled.message.clone().unwrap_or_default())
}

/// Why the first container that waits or ended does so.
fn container_reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers.filter_map(|container| container.state.as_ref()).find_map(|state| {
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref().and_then(|it| it.reason.clone()).filter(|it| it != "Completed"))
    })
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resume => write!(f, "The rollout is paused: `kubectl rollout resume` continues it."),
            Self::ReplicaSetObserved { replica_set } => {
                write!(f, "ReplicaSet {replica_set} has not acted on its new size yet.")
            }
            Self::OldPodsEnded { replica_set } => {
                write!(f, "Pods of the old ReplicaSet {replica_set} have not ended yet.")
            }
            Self::PodsCreated { replica_set, missing } => {
                write!(f, "ReplicaSet {replica_set} has yet to create {missing} pods.")
            }
            Self::PodScheduled { pod, message } => write!(f, "Pod {pod} fits on no node: {message}"),
            Self::PodReady { pod, reason: None } => write!(f, "Pod {pod} is not ready."),
            Self::PodReady { pod, reason: Some(reason) } => write!(f, "Pod {pod} is not ready: {reason}."),
            Self::PodRouted { pod } => {
                write!(f, "Pod {pod} is ready, but the data plane has not acknowledged it yet.")
            }
            Self::PodAvailable { pod, available_at } => {
                write!(f, "Pod {pod} must stay ready until {available_at} (minReadySeconds).")
            }
            Self::OldPodsReplaced { replica_set, pods } => {
                write!(f, "The old ReplicaSet {replica_set} keeps {pods} pods until enough new ones are available.")
            }
            Self::PodsDeleted { replica_set, surplus } => {
                write!(f, "ReplicaSet {replica_set} has {surplus} pods to delete when enough others are available.")
            }
        }
    }
}
