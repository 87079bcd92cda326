//! Which pods does a ReplicaSet create, delete, adopt and let go? It only keeps its size; why it has that size is for
//! `rollout` to know.

mod ranking;
mod status;
mod step;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use objects::pods;

use crate::Decision;
use crate::availability::{self, Standing};
use crate::owners::{self, Claim};
use crate::rollout;
use crate::safe_to_stop::{Floor, StopCause, safe_to_stop};
use crate::target::Target;

pub use step::{Step, WaitingOn};

/// Pods created or deleted in one look. It bounds what a wrong size can do before the next look, and one look's length.
pub const BURST: usize = 50;

/// A ReplicaSet and everything of its namespace that matters to it.
#[derive(Clone, Debug)]
pub struct Replicas {
    pub replica_set: ReplicaSet,
    /// The Deployment that controls it, if any: it says how many pods must stay available.
    pub deployment: Option<Deployment>,
    /// All ReplicaSets of the namespace.
    pub replica_sets: Vec<ReplicaSet>,
    /// All pods of the namespace. Only one ReplicaSet may decide on them at a time: two that saw the same surplus would
    /// both spend it.
    pub pods: Vec<Pod>,
    /// All Services of the namespace.
    pub services: Vec<Service>,
}

/// What the ReplicaSet does next. Claiming pods comes first and alone, since it changes how many there are.
#[must_use]
pub fn next_steps(replicas: &Replicas, now: Timestamp) -> Decision<Step, WaitingOn> {
    let seen = Situation::of(replicas, now);
    let claims = adopt_and_release(&seen);
    if !claims.is_empty() {
        return Decision { steps: claims, waiting_on: Vec::new(), look_again_at: None };
    }
    let (mut steps, waiting_on) = resize(&seen);
    steps.extend(status::write(&seen));
    Decision { steps, waiting_on, look_again_at: seen.next_available_at() }
}

struct Situation<'a> {
    replicas: &'a Replicas,
    meta: &'a ObjectMeta,
    now: Timestamp,
    wanted: usize,
    /// Every pod of the namespace, with what it is to this ReplicaSet.
    claims: Vec<(&'a Pod, Claim)>,
    /// Its pods that are neither terminating nor finished.
    active: Vec<(&'a Pod, Standing)>,
    floor: Floor,
}

impl<'a> Situation<'a> {
    fn of(replicas: &'a Replicas, now: Timestamp) -> Self {
        let meta = &replicas.replica_set.metadata;
        let spec = replicas.replica_set.spec.clone().unwrap_or_default();
        let claim = |pod: &'a Pod| (pod, owners::claim(&pod.metadata, meta, &spec.selector));
        let claims: Vec<_> = replicas.pods.iter().filter(|pod| !pods::is_finished(pod)).map(claim).collect();
        let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
        let standing = |pod| (pod, availability::standing(pod, min_ready_seconds, &replicas.services, now));
        let mine = claims.iter().filter(|(pod, claim)| *claim == Claim::Ours && !pods::is_leaving(pod));
        let active: Vec<_> = mine.map(|(pod, _)| standing(pod)).collect();
        let wanted = spec.replicas.unwrap_or(1);
        let family = replicas.pods.iter().filter(|pod| !pods::is_leaving(pod) && replicas.is_family(pod));
        let available = family.map(|pod| standing(pod).1).filter(|it| *it == Standing::Available).count();
        let floor = Floor {
            available: i32::try_from(available).unwrap_or(i32::MAX),
            at_least: replicas.deployment.as_ref().map_or(wanted, rollout::floor),
        };
        Self { replicas, meta, now, wanted: usize::try_from(wanted).unwrap_or(0), claims, active, floor }
    }

    fn next_available_at(&self) -> Option<Timestamp> {
        let times = self.active.iter().filter_map(|(_, standing)| match standing {
            Standing::Young { available_at } => Some(*available_at),
            Standing::NotReady | Standing::NotRouted | Standing::Available => None,
        });
        times.min()
    }
}

impl Replicas {
    /// Whether the pod counts for the floor: it belongs to this ReplicaSet or to another of the same Deployment.
    fn is_family(&self, pod: &Pod) -> bool {
        let mut sets = self.replica_sets.iter().map(|it| &it.metadata).filter(|it| self.is_sibling(it));
        owners::is_controlled_by(&pod.metadata, &self.replica_set.metadata)
            || sets.any(|it| owners::is_controlled_by(&pod.metadata, it))
    }

    fn is_sibling(&self, meta: &ObjectMeta) -> bool {
        self.deployment.as_ref().is_some_and(|deployment| owners::is_controlled_by(meta, &deployment.metadata))
    }
}

fn adopt_and_release(seen: &Situation<'_>) -> Vec<Step> {
    let step = |(pod, claim): &(&Pod, Claim)| {
        let target = Target::of(&pod.metadata);
        match claim {
            Claim::Ours | Claim::Foreign => None,
            Claim::Adoptable => {
                let reference = owners::controller_reference("apps/v1", "ReplicaSet", seen.meta);
                Some(Step::Adopt { pod: target, owner_references: owners::with_reference(&pod.metadata, reference) })
            }
            Claim::Releasable => {
                let owner_references = owners::without_references_to(&pod.metadata, seen.meta);
                Some(Step::Release { pod: target, owner_references })
            }
        }
    };
    seen.claims.iter().filter_map(step).collect()
}

fn resize(seen: &Situation<'_>) -> (Vec<Step>, Vec<WaitingOn>) {
    if owners::is_going(seen.meta) {
        return Default::default();
    }
    match seen.wanted.checked_sub(seen.active.len()) {
        Some(missing) => (create(seen, missing.min(BURST)), Vec::new()),
        None => delete(seen),
    }
}

fn create(seen: &Situation<'_>, count: usize) -> Vec<Step> {
    std::iter::repeat_with(|| Step::CreatePod(Box::new(new_pod(&seen.replicas.replica_set)))).take(count).collect()
}

fn new_pod(replica_set: &ReplicaSet) -> Pod {
    let spec = replica_set.spec.as_ref();
    let template = spec.and_then(|spec| spec.template.clone()).unwrap_or_default();
    let name = replica_set.metadata.name.as_deref().unwrap_or_default();
    let template_metadata = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: replica_set.metadata.namespace.clone(),
        labels: template_metadata.labels,
        annotations: template_metadata.annotations,
        finalizers: template_metadata.finalizers,
        owner_references: Some(vec![owners::controller_reference("apps/v1", "ReplicaSet", &replica_set.metadata)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec, status: None }
}

/// The least useful pods go first; one that may not go is passed over.
fn delete(seen: &Situation<'_>) -> (Vec<Step>, Vec<WaitingOn>) {
    let mut floor = seen.floor;
    let mut steps = Vec::new();
    let mut waiting_on = Vec::new();
    let surplus = (seen.active.len() - seen.wanted).min(BURST);
    for (pod, standing) in ranking::least_useful_first(&seen.active) {
        if steps.len() == surplus {
            break;
        }
        match safe_to_stop(pod, StopCause::ScaleDown { standing, floor }, seen.now) {
            Ok(()) => {
                steps.push(Step::DeletePod { pod: Target::of(&pod.metadata) });
                floor.available -= i32::from(standing == Standing::Available);
            }
            Err(reason) => {
                waiting_on.push(WaitingOn::PodKept { pod: pod.metadata.name.clone().unwrap_or_default(), reason });
            }
        }
    }
    (steps, waiting_on)
}

#[cfg(test)]
mod tests;
