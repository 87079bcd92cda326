//! Which ReplicaSets belong to the Deployment: those that match are adopted, those that match no longer let go.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::situation::Situation;
use super::step::Step;
use crate::owners::{self, Claim};
use crate::target::Target;

pub(super) fn adopt_and_release(seen: &Situation<'_>) -> Vec<Step> {
    seen.claims.iter().filter_map(|(replica_set, claim)| step(seen, replica_set, *claim)).collect()
}

fn step(seen: &Situation<'_>, replica_set: &ReplicaSet, claim: Claim) -> Option<Step> {
    let deployment = &seen.deployment.metadata;
    let target = Target::of(&replica_set.metadata);
    match claim {
        Claim::Ours | Claim::Foreign => None,
        Claim::Adoptable => {
            let reference = owners::controller_reference("apps/v1", "Deployment", deployment);
            let owner_references = owners::with_reference(&replica_set.metadata, reference);
            Some(Step::Adopt { replica_set: target, owner_references })
        }
        Claim::Releasable => {
            let owner_references = owners::without_references_to(&replica_set.metadata, deployment);
            Some(Step::Release { replica_set: target, owner_references })
        }
    }
}
