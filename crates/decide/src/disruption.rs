//! How many of an application's pods may be taken down on purpose, and may this one be? PodDisruptionBudgets count the
//! pods that they are about; an eviction asks them (Kubernetes, "Specifying a Disruption Budget for your Application").

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use objects::counts::{self, Rounding};
use objects::{pods, selector};

use crate::owners::controller_of;

/// A pod that was given leave to go and hasn't gone by then counts again; Kubernetes' number.
const LEAVE_LASTS: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// A budget with everything that it counts.
#[derive(Clone, Debug)]
pub struct Disruption {
    pub budget: PodDisruptionBudget,
    /// All of its namespace, as are the others.
    pub pods: Vec<Pod>,
    pub replica_sets: Vec<ReplicaSet>,
    pub deployments: Vec<Deployment>,
}

impl Disruption {
    /// The status that the budget is to have, and when that changes although nothing happens.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> (PodDisruptionBudgetStatus, Option<Timestamp>) {
        let pods: Vec<&Pod> = self.pods.iter().filter(|pod| is_about(&self.budget, pod)).collect();
        let old = self.budget.status.clone().unwrap_or_default();
        let on_leave = on_leave(&old, &pods, now);
        let is_healthy =
            |pod: &&&Pod| pods::is_ready(pod) && !pods::is_leaving(pod) && !on_leave.contains_key(name_of(pod));
        let current = count(pods.iter().filter(is_healthy).count());
        let expected = self.expected(&pods);
        let desired = self.desired(expected);
        let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
        let look_again = on_leave.values().filter_map(|since| since.0.checked_add(LEAVE_LASTS).ok()).min();
        let status = PodDisruptionBudgetStatus {
            conditions: Some(vec![condition(&self.budget, allowed, now)]),
            current_healthy: Some(current),
            desired_healthy: Some(desired),
            disrupted_pods: (!on_leave.is_empty()).then_some(on_leave),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected),
            observed_generation: self.budget.metadata.generation,
        };
        (status, look_again)
    }

    /// A share is one of the pods that their owners want, a number one of the pods that there are.
    fn expected(&self, pods: &[&Pod]) -> i32 {
        let spec = self.budget.spec.clone().unwrap_or_default();
        if spec.max_unavailable.is_none() && !matches!(spec.min_available, Some(IntOrString::String(_))) {
            return count(pods.len());
        }
        let mut wanted: BTreeMap<&str, i32> = BTreeMap::new();
        for pod in pods {
            let Some((owner, replicas)) = self.owner_of(pod) else { continue };
            wanted.insert(owner, replicas);
        }
        wanted.values().sum()
    }

    /// Whoever scales the pod's ReplicaSet, or else that itself, with what it wants.
    fn owner_of(&self, pod: &Pod) -> Option<(&str, i32)> {
        let owner = controller_of(&pod.metadata)?;
        let replica_set = self.replica_sets.iter().find(|it| it.metadata.uid.as_deref() == Some(&owner.uid))?;
        let of_replica_set = controller_of(&replica_set.metadata);
        let deployment = of_replica_set
            .and_then(|owner| self.deployments.iter().find(|it| it.metadata.uid.as_deref() == Some(&owner.uid)));
        match deployment {
            Some(deployment) => {
                Some((deployment.metadata.uid.as_deref()?, deployment.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            None => Some((replica_set.metadata.uid.as_deref()?, replica_set.spec.as_ref()?.replicas.unwrap_or(1))),
        }
    }

    fn desired(&self, expected: i32) -> i32 {
        let spec = self.budget.spec.clone().unwrap_or_default();
        // Validation refuses what is neither a number nor a percentage.
        let share = |count: &IntOrString| counts::resolve(count, expected, Rounding::Up).unwrap_or(0);
        match (&spec.max_unavailable, &spec.min_available) {
            (Some(unavailable), _) => (expected - share(unavailable)).max(0),
            (None, Some(available)) => share(available),
            (None, None) => 0,
        }
    }
}

/// Leave to evict a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Leave {
    /// No budget counts it.
    Free,
    /// This budget counts it, and has one less to give then.
    Counted(Box<PodDisruptionBudget>),
}

/// Why a pod may not be evicted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLeave {
    /// Several budgets are about it.
    Several,
    /// The budget's counts are older than the budget.
    NotCounted { budget: String },
    /// It has nothing to give.
    Exhausted { budget: String, desired: i32, current: i32 },
}

/// Whether a pod may be evicted, as far as its namespace's budgets say.
///
/// # Errors
/// The reason not to.
pub fn may_evict(pod: &Pod, budgets: &[PodDisruptionBudget], now: Timestamp) -> Result<Leave, NoLeave> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pods::is_finished(pod) || phase == Some("Pending") || pods::is_leaving(pod) {
        return Ok(Leave::Free);
    }
    let mut about = budgets.iter().filter(|budget| is_about(budget, pod));
    match (about.next(), about.next()) {
        (None, _) => Ok(Leave::Free),
        (Some(_), Some(_)) => Err(NoLeave::Several),
        (Some(budget), None) if !pods::is_ready(pod) && spares_unready(budget) => Ok(Leave::Free),
        (Some(budget), None) => give_leave(pod, budget, now),
    }
}

/// Whether pods that aren't Ready may go without being counted.
fn spares_unready(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (desired, current) = (status.desired_healthy.unwrap_or(0), status.current_healthy.unwrap_or(0));
    policy == Some("AlwaysAllow") || (desired > 0 && current >= desired)
}

fn give_leave(pod: &Pod, budget: &PodDisruptionBudget, now: Timestamp) -> Result<Leave, NoLeave> {
    let mut given = budget.clone();
    let status = given.status.get_or_insert_default();
    let name = || budget.metadata.name.clone().unwrap_or_default();
    if status.observed_generation < budget.metadata.generation {
        return Err(NoLeave::NotCounted { budget: name() });
    }
    let allowed = status.disruptions_allowed.unwrap_or(0) - 1;
    if allowed < 0 {
        let (desired, current) = (status.desired_healthy.unwrap_or(0), status.current_healthy.unwrap_or(0));
        return Err(NoLeave::Exhausted { budget: name(), desired, current });
    }
    status.disruptions_allowed = Some(allowed);
    status.disrupted_pods.get_or_insert_default().insert(name_of(pod).to_owned(), Time(now));
    status.conditions = Some(vec![condition(budget, allowed, now)]);
    Ok(Leave::Counted(Box::new(given)))
}

/// A budget without a selector is about nothing, one with an empty selector about everything.
fn is_about(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    budget.metadata.namespace == pod.metadata.namespace && selector.is_some_and(|it| selector::matches(it, &labels))
}

/// Pods that were given leave and are about to go.
fn on_leave(old: &PodDisruptionBudgetStatus, pods: &[&Pod], now: Timestamp) -> BTreeMap<String, Time> {
    let stays = |name: &String, since: &Time| {
        let pod = pods.iter().find(|pod| name_of(pod) == name);
        pod.is_some_and(|pod| !pods::is_leaving(pod)) && now.duration_since(since.0) < LEAVE_LASTS
    };
    let mut on_leave = old.disrupted_pods.clone().unwrap_or_default();
    on_leave.retain(|name, since| stays(name, since));
    on_leave
}

fn condition(budget: &PodDisruptionBudget, allowed: i32, now: Timestamp) -> Condition {
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = budget.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let same = conditions.into_iter().find(|old| old.type_ == ALLOWED && old.status == status);
    Condition {
        last_transition_time: same.map_or(Time(now), |old| old.last_transition_time.clone()),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: ALLOWED.to_owned(),
    }
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
