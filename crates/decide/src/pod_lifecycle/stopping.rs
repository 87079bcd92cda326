//! What does a pod that is to stop need next: leave to stop, signals, an end of its sandbox, an end of its object.

use jiff::{SignedDuration, Timestamp};

use super::back_off::later;
use super::containers::kill_when_overdue;
use super::snapshot::{ContainerSnapshot, EndReason, Files, Object, PodSnapshot, Sandbox, keeps_running};
use super::steps::{Plan, PodStep, StopReason, WaitingOn};
use crate::safe_to_stop::{StopCause, safe_to_stop};

/// No container gets less between SIGTERM and SIGKILL, unless the deletion is forced; Kubernetes' number.
const SHORTEST_GRACE: SignedDuration = SignedDuration::from_secs(2);
/// Two deadlines this close are the same one, measured at two moments.
const MEASURED_ALIKE: SignedDuration = SignedDuration::from_secs(1);

/// The object is gone, so nobody may be asked and nothing is waited for.
pub(super) fn clear(pod: &PodSnapshot, plan: &mut Plan) {
    if pod.sandbox != Sandbox::Absent {
        plan.step(PodStep::RemoveSandbox);
    }
    if pod.files != Files::Removed {
        plan.step(PodStep::RemoveFiles);
    }
    plan.step(PodStep::Forget);
}

/// The pod's deletion was asked for `since` ago.
pub(super) fn delete(pod: &PodSnapshot, since: SignedDuration, now: Timestamp, plan: &mut Plan) {
    if runs_anything(pod) {
        if may_be_signalled(pod, StopCause::Deletion, since, now, plan) {
            stop_containers(pod, StopReason::PodDeleted, grace_left(pod, since), now, plan);
        }
    } else if pod.sandbox != Sandbox::Absent {
        plan.step(PodStep::RemoveSandbox);
    } else {
        remove_last_traces(pod, plan);
    }
}

fn remove_last_traces(pod: &PodSnapshot, plan: &mut Plan) {
    if pod.files != Files::Removed {
        plan.step(PodStep::RemoveFiles);
    }
    match pod.object {
        Object::Kept => plan.step(PodStep::DeleteObject),
        Object::DeletionSent => plan.wait(WaitingOn::Finalizers),
    }
}

/// The engine goes down and leaves the object for the next one.
pub(super) fn go_down(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) {
    if let Err(reason) = safe_to_stop(&pod.pod, StopCause::Down, now) {
        return plan.wait(WaitingOn::Drain(reason.to_string()));
    }
    if runs_anything(pod) {
        stop_containers(pod, StopReason::EngineGoesDown, objects::pods::grace_period(&pod.pod), now, plan);
    } else if pod.sandbox != Sandbox::Absent {
        plan.step(PodStep::RemoveSandbox);
    } else {
        plan.step(PodStep::Forget);
    }
}

/// None of its containers is to run any more; the object stays until somebody deletes it.
pub(super) fn finish(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) {
    if runs_anything(pod) {
        let reason = match super::nodes_end(pod).map(|end| end.reason) {
            Some(EndReason::DeadlineExceeded) => StopReason::DeadlineExceeded,
            Some(EndReason::Evicted) => StopReason::Evicted,
            Some(EndReason::SysctlForbidden) | None => StopReason::PodFinished,
        };
        // Containers that are left when the others have ended for good serve nobody.
        let serves = reason != StopReason::PodFinished;
        if !serves || may_be_signalled(pod, StopCause::NodesEnd, pod.ending_for.unwrap_or_default(), now, plan) {
            stop_containers(pod, reason, objects::pods::grace_period(&pod.pod), now, plan);
        }
    } else if pod.sandbox != Sandbox::Absent {
        plan.step(PodStep::RemoveSandbox);
    } else if pod.files == Files::Kept {
        plan.step(PodStep::RemoveData);
    } else {
        plan.wait(WaitingOn::Deletion);
    }
}

fn runs_anything(pod: &PodSnapshot) -> bool {
    pod.all_containers().any(|(_, snapshot)| snapshot.is_running())
}

/// Asks with the time at which its going would be `since` old, so that a jump of the wall clock ends no drain.
fn may_be_signalled(
    pod: &PodSnapshot,
    cause: StopCause,
    since: SignedDuration,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let asked_at = later(objects::pods::leaves_since(&pod.pod).unwrap_or(now), since);
    let Err(reason) = safe_to_stop(&pod.pod, cause, asked_at) else { return true };
    if let Some(time) = reason.look_again_at() {
        plan.look_again(later(now, time.duration_since(asked_at)));
    }
    plan.wait(WaitingOn::Drain(reason.to_string()));
    false
}

/// A grace period that somebody chose is for drain and termination together.
fn grace_left(pod: &PodSnapshot, since: SignedDuration) -> SignedDuration {
    let whole = objects::pods::grace_period(&pod.pod);
    if whole <= SignedDuration::ZERO {
        return SignedDuration::ZERO;
    }
    let left = objects::pods::explicit_grace(&pod.pod).map_or(whole, |chosen| chosen - since);
    left.max(SHORTEST_GRACE)
}

/// Containers that serve the others (init containers that keep running) are stopped after them.
fn stop_containers(pod: &PodSnapshot, reason: StopReason, grace: SignedDuration, now: Timestamp, plan: &mut Plan) {
    let running = pod.all_containers().filter(|(_, snapshot)| snapshot.is_running());
    let (serving, served): (Vec<_>, Vec<_>) = running.partition(|(container, _)| keeps_running(container));
    for (container, snapshot) in if served.is_empty() { serving } else { served } {
        if is_stopping_within(snapshot, later(now, grace)) {
            kill_when_overdue(container, snapshot, now, plan);
        } else {
            plan.step(PodStep::StopContainer { container: container.name.clone(), reason, grace });
        }
    }
}

/// A later deletion can only shorten the grace period.
fn is_stopping_within(snapshot: &ContainerSnapshot, deadline: Timestamp) -> bool {
    snapshot.stopping.is_some_and(|stopping| stopping.deadline <= later(deadline, MEASURED_ALIKE))
}
