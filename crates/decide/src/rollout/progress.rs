//! Is the rollout done, moving or stuck? The Progressing condition, and the deadline after which it is stuck. Its
//! message is Kubernetes', followed by what is awaited; the ReplicaSet it names tells whether it is about the present
//! template.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::situation::{Mode, Situation};
use super::status::transition;
use super::step::Step;
use super::waiting::WaitingOn;

pub(super) const PROGRESSING: &str = "Progressing";

const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const UPDATED: &str = "ReplicaSetUpdated";
const DONE: &str = "NewReplicaSetAvailable";
const STUCK: &str = "ProgressDeadlineExceeded";

/// What one look at the rollout found.
pub(super) struct Told<'a> {
    pub(super) before: &'a DeploymentStatus,
    pub(super) now: &'a DeploymentStatus,
    pub(super) steps: &'a [Step],
    pub(super) waiting_on: &'a [WaitingOn],
}

/// The condition as it is to be written; None for a Deployment that has no progress deadline.
pub(super) fn progressing(seen: &Situation<'_>, told: &Told<'_>) -> Option<DeploymentCondition> {
    let limit = deadline_after(seen)?;
    let name = seen.new_name();
    let about_this = current(told.before).filter(|current| mentions(current, &name));
    let creates = told.steps.iter().any(|step| matches!(step, Step::CreateReplicaSet(_)));
    let state = match about_this {
        _ if seen.mode == Mode::Paused => State::Paused,
        _ if creates => State::Created,
        _ if seen.is_complete() => State::Done,
        None if seen.new_one().is_some() => State::Found,
        None => State::Moving,
        Some(current) if has_reason(current, DONE) && told.now.replicas == told.now.updated_replicas => State::Done,
        Some(_) if moved(told.before, told.now) => State::Moving,
        Some(current) if is_stuck(current, limit, seen.now) => State::Stuck,
        Some(current) => return Some(with_message(current, &name, told.waiting_on)),
    };
    Some(condition(seen, told, state, &name))
}

/// When the rollout counts as stuck if nothing moves. `status` is the one about to be written.
pub(super) fn deadline(seen: &Situation<'_>, status: &DeploymentStatus) -> Option<Timestamp> {
    let current = current(status)?;
    let waits = [CREATED, FOUND, UPDATED].iter().any(|reason| has_reason(current, reason));
    if !waits {
        return None;
    }
    last_moved(current)?.checked_add(deadline_after(seen)?).ok()
}

/// The condition in a status.
pub(super) fn current(status: &DeploymentStatus) -> Option<&DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == PROGRESSING)
}

#[derive(Clone, Copy)]
enum State {
    Paused,
    Created,
    Found,
    Moving,
    Done,
    Stuck,
}

fn condition(seen: &Situation<'_>, told: &Told<'_>, state: State, name: &str) -> DeploymentCondition {
    let (status, reason) = match state {
        State::Paused => ("Unknown", "DeploymentPaused"),
        State::Created => ("True", CREATED),
        State::Found => ("True", FOUND),
        State::Moving => ("True", UPDATED),
        State::Done => ("True", DONE),
        State::Stuck => ("False", STUCK),
    };
    let current = current(told.before);
    let message = message(reason, name, told.waiting_on);
    let unchanged =
        current.filter(|it| it.status == status && has_reason(it, reason) && !matches!(state, State::Moving));
    let updated =
        unchanged.filter(|it| it.message.as_ref() == Some(&message)).and_then(|it| it.last_update_time.clone());
    DeploymentCondition {
        type_: PROGRESSING.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(updated.unwrap_or(Time(seen.now))),
        last_transition_time: Some(transition(current, status, seen)),
    }
}

/// The same condition with today's reason for waiting; the clock of the deadline runs on.
fn with_message(current: &DeploymentCondition, name: &str, waiting_on: &[WaitingOn]) -> DeploymentCondition {
    let reason = current.reason.as_deref().unwrap_or_default();
    DeploymentCondition { message: Some(message(reason, name, waiting_on)), ..current.clone() }
}

fn message(reason: &str, name: &str, waiting_on: &[WaitingOn]) -> String {
    let kubernetes = match reason {
        CREATED => format!("Created new replica set \"{name}\""),
        FOUND => format!("Found new replica set \"{name}\""),
        UPDATED => format!("ReplicaSet \"{name}\" is progressing."),
        DONE => return format!("ReplicaSet \"{name}\" has successfully progressed."),
        STUCK => format!("ReplicaSet \"{name}\" has timed out progressing."),
        _ => return "Deployment is paused".to_owned(),
    };
    match waiting_on.first() {
        Some(awaited) => format!("{kubernetes} {awaited}"),
        None => kubernetes,
    }
}

fn mentions(condition: &DeploymentCondition, replica_set: &str) -> bool {
    condition.message.as_ref().is_some_and(|message| message.contains(&format!("\"{replica_set}\"")))
}

fn has_reason(condition: &DeploymentCondition, reason: &str) -> bool {
    condition.reason.as_deref() == Some(reason)
}

/// Whether anything got better since the status was last written.
fn moved(before: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(before.updated_replicas)
        || old(status) < old(before)
        || count(status.ready_replicas) > count(before.ready_replicas)
        || count(status.available_replicas) > count(before.available_replicas)
}

fn is_stuck(current: &DeploymentCondition, limit: SignedDuration, now: Timestamp) -> bool {
    if has_reason(current, DONE) {
        return false;
    }
    let deadline = last_moved(current).and_then(|moved| moved.checked_add(limit).ok());
    has_reason(current, STUCK) || deadline.is_some_and(|deadline| deadline <= now)
}

fn last_moved(condition: &DeploymentCondition) -> Option<Timestamp> {
    condition.last_update_time.as_ref().map(|time| time.0)
}

/// Kubernetes takes the largest number for "never".
fn deadline_after(seen: &Situation<'_>) -> Option<SignedDuration> {
    let seconds = seen.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(seconds.into()))
}
