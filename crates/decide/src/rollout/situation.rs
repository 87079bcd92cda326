//! A rollout's snapshot, sorted: which ReplicaSet is the new one, which are old, how their pods stand.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use objects::{hash, pods};

use super::Rollout;
use super::rolling::Limits;
use crate::availability::{self, Standing};
use crate::owners::{self, Claim};

/// Label that tells the pods of a Deployment's ReplicaSets apart.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// How the rollout works at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Deleted,
    Paused,
    RollingUpdate,
    Recreate,
}

pub(super) struct Situation<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) spec: DeploymentSpec,
    pub(super) mode: Mode,
    pub(super) limits: Limits,
    pub(super) now: Timestamp,
    /// Every ReplicaSet of the namespace, with what it is to this Deployment.
    pub(super) claims: Vec<(&'a ReplicaSet, Claim)>,
    /// The Deployment's ReplicaSets, oldest first.
    pub(super) members: Vec<Member<'a>>,
}

/// A ReplicaSet of the Deployment with its pods.
pub(super) struct Member<'a> {
    pub(super) replica_set: &'a ReplicaSet,
    pub(super) is_new: bool,
    /// Pods that are neither terminating nor finished, by name.
    pub(super) pods: Vec<(&'a Pod, Standing)>,
    pub(super) terminating: i32,
    /// Whether any container may still run, in terminating pods too.
    pub(super) may_run: bool,
}

impl<'a> Situation<'a> {
    pub(super) fn of(rollout: &'a Rollout, now: Timestamp) -> Self {
        let deployment = &rollout.deployment;
        let spec = deployment.spec.clone().unwrap_or_default();
        let claim = |it: &'a ReplicaSet| (it, owners::claim(&it.metadata, &deployment.metadata, &spec.selector));
        let claims: Vec<_> = rollout.replica_sets.iter().map(claim).collect();
        let mut owned: Vec<_> = claims.iter().filter(|(_, claim)| *claim == Claim::Ours).map(|(it, _)| *it).collect();
        owned.sort_by_key(|it| (it.metadata.creation_timestamp.as_ref().map(|time| time.0), &it.metadata.name));
        let new = owned.iter().position(|it| has_template(it, &spec.template));
        let member = |(index, it): (usize, &&'a ReplicaSet)| Member::of(it, new == Some(index), rollout, &spec, now);
        let members = owned.iter().enumerate().map(member).collect();
        Self { deployment, mode: mode(deployment, &spec), limits: Limits::of(&spec), spec, now, claims, members }
    }

    pub(super) fn new_one(&self) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.is_new)
    }

    /// Oldest first.
    pub(super) fn old_ones(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(|member| !member.is_new)
    }

    pub(super) fn total(&self, count: impl Fn(&Member<'a>) -> i32) -> i32 {
        self.members.iter().map(count).sum()
    }

    /// How many pods may be added now: none while a ReplicaSet has not acted on its last size, since it may be creating
    /// pods for an earlier, larger one.
    pub(super) fn room(&self) -> i32 {
        if self.members.iter().all(Member::has_observed) { self.free().max(0) } else { 0 }
    }

    /// The largest size that makes nobody create a pod beyond the ceiling; pods that are there already may stay.
    pub(super) fn largest_size(&self, member: &Member<'a>) -> i32 {
        (member.reserved() + self.free().min(self.room())).max(member.active())
    }

    /// Pods missing to the ceiling; negative beyond it.
    fn free(&self) -> i32 {
        self.limits.ceiling() - self.total(Member::reserved)
    }

    /// The name of the ReplicaSet for the Deployment's present template.
    pub(super) fn new_name(&self) -> String {
        match self.new_one() {
            Some(new) => new.name().to_owned(),
            None => format!("{}-{}", self.name(), self.template_hash()),
        }
    }

    pub(super) fn template_hash(&self) -> String {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        hash::template_hash(&self.spec.template, collisions)
    }

    pub(super) fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether the declared state is reached.
    pub(super) fn is_complete(&self) -> bool {
        let replicas = self.limits.replicas;
        let old_gone = self.old_ones().all(|old| old.wanted() == 0 && old.active() == 0);
        let sizes = |new: &Member<'_>| [new.wanted(), new.active(), new.available()];
        old_gone && self.new_one().is_some_and(|new| sizes(new) == [replicas; 3])
    }
}

impl<'a> Member<'a> {
    fn of(it: &'a ReplicaSet, is_new: bool, rollout: &'a Rollout, spec: &DeploymentSpec, now: Timestamp) -> Self {
        let mine = || rollout.pods.iter().filter(|pod| owners::is_controlled_by(&pod.metadata, &it.metadata));
        let unfinished = || mine().filter(|pod| !pods::is_finished(pod));
        let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
        let standing = |pod| (pod, availability::standing(pod, min_ready_seconds, &rollout.services, now));
        let mut active: Vec<_> = unfinished().filter(|pod| !pods::is_leaving(pod)).map(standing).collect();
        active.sort_by(|(one, _), (other, _)| one.metadata.name.cmp(&other.metadata.name));
        let terminating = count(unfinished().filter(|pod| pods::is_leaving(pod)).count());
        Self { replica_set: it, is_new, pods: active, terminating, may_run: unfinished().next().is_some() }
    }

    pub(super) fn name(&self) -> &str {
        self.replica_set.metadata.name.as_deref().unwrap_or_default()
    }

    /// The size it was given.
    pub(super) fn wanted(&self) -> i32 {
        self.replica_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub(super) fn active(&self) -> i32 {
        count(self.pods.len())
    }

    pub(super) fn ready(&self) -> i32 {
        count(self.pods.iter().filter(|(_, standing)| standing.is_ready()).count())
    }

    pub(super) fn available(&self) -> i32 {
        count(self.pods.iter().filter(|(_, standing)| *standing == Standing::Available).count())
    }

    /// Pods it has or is about to have.
    pub(super) fn reserved(&self) -> i32 {
        self.wanted().max(self.active())
    }

    /// Pods that it goes on having: beyond its size those that it could not spare when it acted on that size.
    pub(super) fn staying(&self) -> i32 {
        if self.has_observed() { self.reserved() } else { self.wanted() }
    }

    /// Available pods that are left once it has its size.
    pub(super) fn kept_available(&self) -> i32 {
        self.wanted().min(self.available())
    }

    /// Whether the ReplicaSet's controller has acted on its present size.
    pub(super) fn has_observed(&self) -> bool {
        let observed = self.replica_set.status.as_ref().and_then(|status| status.observed_generation);
        observed.unwrap_or(0) >= self.replica_set.metadata.generation.unwrap_or(0)
    }
}

/// Whether old pods end before new ones are made.
pub(super) fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn mode(deployment: &Deployment, spec: &DeploymentSpec) -> Mode {
    if owners::is_going(&deployment.metadata) {
        Mode::Deleted
    } else if spec.paused == Some(true) {
        Mode::Paused
    } else if is_recreate(spec) {
        Mode::Recreate
    } else {
        Mode::RollingUpdate
    }
}

/// Whether the ReplicaSet was made of this template; the hash label that it was given does not count.
fn has_template(replica_set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let of_set = replica_set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    of_set.is_some_and(|it| it.spec == template.spec && metadata_without_hash(it) == metadata_without_hash(template))
}

fn metadata_without_hash(template: &PodTemplateSpec) -> ObjectMeta {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.remove(TEMPLATE_HASH);
    metadata.creation_timestamp = None;
    metadata
}
