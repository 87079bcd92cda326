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
    ContainerSnapshot, Exit, ExitReason, Failure, FailureReason, Files, ImageState, Instance, Kill, NetworkPolicies,
    Object, PodSnapshot, PostStart, Running, Sandbox, Stop, Stopping, Volumes, find_status,
};
pub use status::status;
pub use steps::{PodStep, StopReason, WaitingOn};

use steps::Plan;

/// The reason of a pod that ran longer than its activeDeadlineSeconds.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

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
    objects::pods::is_finished(&pod.pod) || is_deadline_exceeded(pod) || containers::all_ended_for_good(pod)
}

fn is_deadline_exceeded(pod: &PodSnapshot) -> bool {
    let recorded = pod.pod.status.as_ref().and_then(|status| status.reason.as_deref());
    recorded == Some(DEADLINE_EXCEEDED) || time_left(pod).is_some_and(|left| left <= SignedDuration::ZERO)
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
