//! What does a pod's node do for it next, and what does its status say? Knows nothing of processes, images or links:
//! the node tells what it sees as a [`PodSnapshot`] and applies the steps.

mod back_off;
mod conditions;
mod container_status;
mod containers;
mod snapshot;
mod status;
mod steps;
mod stopping;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

use crate::Decision;

pub use back_off::BackOff;
pub use snapshot::{
    ContainerSnapshot, EndReason, Exit, ExitReason, Failure, FailureReason, Files, ImageState, Instance, Kill,
    NetworkPolicies, NodesEnd, Object, PodSnapshot, PostStart, Running, Sandbox, Stop, Stopping, Volumes, find_status,
};
pub use status::status;
pub use steps::{PodStep, StopReason, WaitingOn};

use steps::Plan;

/// What to do for the pod now.
#[must_use]
pub fn next_steps(pod: &PodSnapshot, now: Timestamp) -> Decision<PodStep, WaitingOn> {
    let mut plan = Plan::nothing();
    match &pod.stop {
        Some(Stop::Vanished) => stopping::clear(pod, &mut plan),
        Some(Stop::Deleted { since }) => stopping::delete(pod, *since, now, &mut plan),
        Some(Stop::Down { .. }) => stopping::go_down(pod, now, &mut plan),
        None if is_over(pod) => stopping::finish(pod, now, &mut plan),
        None => {
            containers::run(pod, now, &mut plan);
            look_at_the_deadline(pod, now, &mut plan);
        }
    }
    plan
}

/// Whether none of its containers is to run any more, whoever asks.
fn is_over(pod: &PodSnapshot) -> bool {
    objects::pods::is_finished(&pod.pod) || nodes_end(pod).is_some() || containers::all_ended_for_good(pod)
}

/// Why the node ends the pod, if it does. What is on record holds, whatever is seen later.
fn nodes_end(pod: &PodSnapshot) -> Option<NodesEnd> {
    let status = pod.pod.status.as_ref();
    let recorded = status.and_then(|status| EndReason::of_word(status.reason.as_deref()?)).map(|reason| NodesEnd {
        reason,
        message: status.and_then(|status| status.message.clone()).unwrap_or_default(),
    });
    let deadline = || {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        let is_over = time_left(pod).is_some_and(|left| left <= SignedDuration::ZERO);
        is_over.then_some(NodesEnd { reason: EndReason::DeadlineExceeded, message })
    };
    // What runs was let in by an engine of other rules, and goes on.
    let forbidden = || {
        if pod.sandbox != Sandbox::Absent || pod.all_containers().any(|(_, it)| it.instance != Instance::None) {
            return None;
        }
        let message = crate::sysctls::forbidden(&pod.pod)?;
        Some(NodesEnd { reason: EndReason::SysctlForbidden, message })
    };
    recorded.or_else(deadline).or_else(forbidden).or_else(|| pod.nodes_end.clone())
}

fn time_left(pod: &PodSnapshot) -> Option<SignedDuration> {
    let allowed = pod.spec()?.active_deadline_seconds?;
    Some(SignedDuration::from_secs(allowed) - pod.active_for?)
}

fn look_at_the_deadline(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) {
    if let Some(left) = time_left(pod) {
        plan.look_again(back_off::later(now, left));
    }
}
