//! A ReplicaSet's status. Its observedGeneration says that the size of that generation was acted on, so it is written
//! after the steps, and a rollout waits for it.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::Pod;
use objects::pods;

use super::{Situation, Step};
use crate::availability::Standing;
use crate::owners::{self, Claim};
use crate::target::Target;

/// The step that writes the status, if it changed.
pub(super) fn write(seen: &Situation<'_>) -> Option<Step> {
    let before = seen.replicas.replica_set.status.as_ref();
    let status = status(seen);
    (before != Some(&status))
        .then(|| Step::WriteStatus { replica_set: Target::of(seen.meta), status: Box::new(status) })
}

fn status(seen: &Situation<'_>) -> ReplicaSetStatus {
    let before = seen.replicas.replica_set.status.as_ref();
    let some = |count: i32| (count != 0).then_some(count);
    let counted = |wanted: fn(&Standing) -> bool| some(count(seen.active.iter().filter(|(_, it)| wanted(it)).count()));
    let terminating = |(pod, claim): &&(&Pod, Claim)| *claim == Claim::Ours && pods::is_terminating(pod);
    ReplicaSetStatus {
        replicas: count(seen.active.len()),
        fully_labeled_replicas: some(count(seen.active.iter().filter(|(pod, _)| has_all_labels(seen, pod)).count())),
        ready_replicas: counted(|standing| standing.is_ready()),
        available_replicas: counted(|standing| *standing == Standing::Available),
        terminating_replicas: Some(count(seen.claims.iter().filter(terminating).count())),
        observed_generation: seen.meta.generation,
        conditions: before.and_then(|status| status.conditions.clone()),
    }
}

fn has_all_labels(seen: &Situation<'_>, pod: &Pod) -> bool {
    let template = seen.replicas.replica_set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let wanted = template.and_then(|template| template.metadata.as_ref());
    let labels = owners::labels(&pod.metadata);
    wanted.is_none_or(|wanted| owners::labels(wanted).iter().all(|(key, value)| labels.get(key) == Some(value)))
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
