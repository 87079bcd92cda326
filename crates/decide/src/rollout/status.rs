//! The Deployment's status, written in the same look as the steps it goes with.

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::progress::{self, Told};
use super::situation::{Member, Mode, Situation, is_recreate};
use super::step::Step;
use super::waiting::{self, WaitingOn};
use crate::Decision;
use crate::target::Target;

const AVAILABLE: &str = "Available";

/// The whole decision: the steps, the status if it changed, and what is awaited.
pub(super) fn concluded(seen: &Situation<'_>, mut steps: Vec<Step>) -> Decision<Step, WaitingOn> {
    let waiting_on = waiting::reasons(seen);
    let status = status(seen, &steps, &waiting_on);
    let look_again_at = waiting::next_available_at(seen).into_iter().chain(progress::deadline(seen, &status)).min();
    // A step that writes the Deployment itself makes the status wait for the next look, or it would be refused as old.
    if !steps.iter().any(writes_deployment) && seen.deployment.status.as_ref() != Some(&status) {
        let deployment = Target::of(&seen.deployment.metadata);
        steps.push(Step::WriteStatus { deployment, status: Box::new(status) });
    }
    Decision { steps, waiting_on, look_again_at }
}

/// The same status with a collision counted, so that the template's hash comes out differently.
pub(super) fn with_another_hash(seen: &Situation<'_>) -> Step {
    let mut status = seen.deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    Step::WriteStatus { deployment: Target::of(&seen.deployment.metadata), status: Box::new(status) }
}

fn status(seen: &Situation<'_>, steps: &[Step], waiting_on: &[WaitingOn]) -> DeploymentStatus {
    let before = seen.deployment.status.clone().unwrap_or_default();
    let some = |count: i32| (count != 0).then_some(count);
    let available = seen.total(Member::available);
    let mut status = DeploymentStatus {
        observed_generation: seen.deployment.metadata.generation,
        replicas: some(seen.total(Member::active)),
        updated_replicas: some(seen.new_one().map_or(0, Member::active)),
        ready_replicas: some(seen.total(Member::ready)),
        available_replicas: some(available),
        unavailable_replicas: some((seen.total(Member::wanted) - available).max(0)),
        terminating_replicas: Some(seen.total(|member| member.terminating)),
        collision_count: before.collision_count,
        conditions: before.conditions.clone(),
    };
    let conditions = status.conditions.take().unwrap_or_default();
    let progressing = match seen.mode {
        Mode::Deleted => progress::current(&before).cloned(),
        Mode::Paused | Mode::RollingUpdate | Mode::Recreate => {
            let told = Told { before: &before, now: &status, steps, waiting_on };
            progress::progressing(seen, &told)
        }
    };
    let conditions = with_condition(conditions, AVAILABLE, Some(availability(seen, &before, available)));
    let conditions = with_condition(conditions, progress::PROGRESSING, progressing);
    status.conditions = Some(conditions);
    status
}

fn availability(seen: &Situation<'_>, before: &DeploymentStatus, available: i32) -> DeploymentCondition {
    let minimum = if is_recreate(&seen.spec) { seen.limits.replicas } else { seen.limits.floor() };
    let (status, reason, message) = if available >= minimum {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let current = before.conditions.iter().flatten().find(|condition| condition.type_ == AVAILABLE);
    match current {
        Some(current) if current.status == status && current.reason.as_deref() == Some(reason) => current.clone(),
        Some(_) | None => DeploymentCondition {
            type_: AVAILABLE.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(seen.now)),
            last_transition_time: Some(transition(current, status, seen)),
        },
    }
}

/// When the condition's status last changed, if it is to be `status`.
pub(super) fn transition(current: Option<&DeploymentCondition>, status: &str, seen: &Situation<'_>) -> Time {
    let same = current.filter(|current| current.status == status);
    same.and_then(|current| current.last_transition_time.clone()).unwrap_or(Time(seen.now))
}

/// Conditions keep their places, so that nothing is written when nothing changed.
fn with_condition(
    mut conditions: Vec<DeploymentCondition>,
    type_: &str,
    condition: Option<DeploymentCondition>,
) -> Vec<DeploymentCondition> {
    let place = conditions.iter().position(|it| it.type_ == type_);
    match (place, condition) {
        (Some(place), Some(condition)) => conditions[place] = condition,
        (Some(place), None) => drop(conditions.remove(place)),
        (None, Some(condition)) => conditions.push(condition),
        (None, None) => {}
    }
    conditions
}

fn writes_deployment(step: &Step) -> bool {
    match step {
        Step::RecordRevision { .. } | Step::WriteStatus { .. } => true,
        Step::Adopt { .. }
        | Step::Release { .. }
        | Step::UpdateReplicaSet { .. }
        | Step::CreateReplicaSet(_)
        | Step::ScaleReplicaSet { .. }
        | Step::DeleteReplicaSet { .. } => false,
    }
}
