//! How far a Deployment's rollout is, and what an undo goes back to, as `kubectl rollout` reads them.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

const REVISION: &str = "deployment.kubernetes.io/revision";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The controller has not seen the newest change.
    Unobserved,
    Updating,
    RetiringOld,
    WaitingForAvailable,
    DeadlineExceeded,
    Complete,
}

pub(crate) fn progress(deployment: &Deployment) -> Progress {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let [replicas, updated, available] =
        [status.replicas, status.updated_replicas, status.available_replicas].map(Option::unwrap_or_default);
    let conditions = status.conditions.unwrap_or_default();
    if deployment.metadata.generation > status.observed_generation {
        Progress::Unobserved
    } else if conditions.iter().any(|condition| condition.reason.as_deref() == Some("ProgressDeadlineExceeded")) {
        Progress::DeadlineExceeded
    } else if updated < wanted {
        Progress::Updating
    } else if replicas > updated {
        Progress::RetiringOld
    } else if available < updated {
        Progress::WaitingForAvailable
    } else {
        Progress::Complete
    }
}

/// The pod template of the revision before the current one.
pub(crate) fn previous_template(deployment: &Deployment, replica_sets: &[ReplicaSet]) -> Option<PodTemplateSpec> {
    let current = revision(deployment)?;
    let owned = replica_sets.iter().filter(|set| is_owned(set, deployment));
    let previous =
        owned.filter(|set| revision(*set).is_some_and(|number| number < current)).max_by_key(|set| revision(*set))?;
    let mut template = previous.spec.as_ref()?.template.clone()?;
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(TEMPLATE_HASH);
    }
    Some(template)
}

fn is_owned(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let owner = deployment.metadata.uid.as_deref();
    set.owner_references().iter().any(|reference| Some(reference.uid.as_str()) == owner)
}

fn revision(object: &impl ResourceExt) -> Option<u64> {
    object.annotations().get(REVISION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn deployment(status: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "app", "uid": "u", "generation": 2, "annotations": {REVISION: "10"}},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_complete_when_every_pod_is_new_and_available_and_no_old_one_is_left() {
        let late = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        let cases = [
            (json!({}), Progress::Unobserved),
            (
                json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                Progress::Unobserved,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1, "conditions": late}),
                Progress::DeadlineExceeded,
            ),
            (json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1}), Progress::Updating),
            (json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3}), Progress::RetiringOld),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}),
                Progress::WaitingForAvailable,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                Progress::Complete,
            ),
        ];
        for (status, expect) in cases {
            assert_eq!(progress(&deployment(status.clone())), expect, "{status}");
        }
    }

    fn replica_set(revision: &str, owner: &str, image: &str) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": image, "annotations": {REVISION: revision}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app", "uid": owner}]},
            "spec": {"selector": {}, "template": {
                "metadata": {"labels": {"app": "app", TEMPLATE_HASH: "abc"}},
                "spec": {"containers": [{"name": "app", "image": image}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn an_undo_goes_to_the_highest_revision_below_the_current_one_of_the_same_deployment() {
        let sets = [
            replica_set("10", "u", "current"),
            replica_set("9", "u", "previous"),
            replica_set("2", "u", "older"),
            replica_set("9", "other", "somebody else's"),
        ];
        let template = previous_template(&deployment(json!({})), &sets).unwrap();
        assert_eq!(template.spec.unwrap().containers[0].image.as_deref(), Some("previous"));
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["app"]);
    }

    #[test]
    fn a_first_revision_has_nothing_to_go_back_to() {
        assert_eq!(previous_template(&deployment(json!({})), &[replica_set("10", "u", "current")]), None);
    }
}
