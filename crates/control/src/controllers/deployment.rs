//! Deployments: who asks `decide::rollout`, and who applies its answer. Why a rollout waits is told in the message of
//! the Progressing condition, after Kubernetes' own words; no event repeats it.

use decide::owners;
use decide::rollout::{self, Rollout, Step};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::PropagationPolicy;
use serde_json::json;
use tracing::debug;

use super::control_loop::ControlLoop;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, snapshot, writes};
use crate::events::{EventType, Subject};

/// Deployments are independent of each other; this many share the API at a time.
const AT_ONCE: usize = 4;

pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, deployment: &Deployment| queue.wake(Key::of(&deployment.metadata)))
        .wakes_on(|queue, _, replica_set: &ReplicaSet| wake_owner(queue, replica_set))
        .wakes_on(|queue, _, pod: &Pod| wake_owner_of_pod(queue, pod))
        .wakes_on(|queue, _, service: &Service| queue.wake_namespace(service.metadata.namespace.as_deref()))
        .works(AT_ONCE, reconcile);
}

/// One look at a Deployment: snapshot, decision, steps. What it waits for is in the status that the steps write.
async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let Some(rollout) = snapshot(&context, &key).await? else { return Ok(Next::Gone) };
    let decision = rollout::next_steps(&rollout, Timestamp::now());
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        apply(&context, &rollout, step).await?;
        if let Some(note) = step.note() {
            context.events.record(&Subject::of(&rollout.deployment), EventType::Normal, note.reason, &note.message);
        }
    }
    for reason in &decision.waiting_on {
        debug!(%key, %reason, "waiting");
    }
    Ok(Next::after(&decision))
}

async fn snapshot(context: &Context, key: &Key) -> Result<Option<Rollout>, Error> {
    let client = &context.client;
    let Some(deployment) = snapshot::get(client, key).await? else { return Ok(None) };
    Ok(Some(Rollout {
        deployment,
        replica_sets: snapshot::list(client, &key.namespace).await?,
        pods: snapshot::list(client, &key.namespace).await?,
        services: snapshot::list(client, &key.namespace).await?,
    }))
}

async fn apply(context: &Context, rollout: &Rollout, step: &Step) -> Result<(), Error> {
    let namespace = rollout.deployment.metadata.namespace.as_deref().unwrap_or_default();
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), namespace);
    let replica_sets = Api::<ReplicaSet>::namespaced(context.client.clone(), namespace);
    match step {
        Step::Adopt { replica_set, owner_references } | Step::Release { replica_set, owner_references } => {
            let change = json!({"metadata": {"ownerReferences": owner_references}});
            writes::merge(&replica_sets, replica_set, change, step).await
        }
        Step::RecordRevision { deployment, .. } => {
            let change = json!({"metadata": {"annotations": step.annotations()}});
            writes::merge(&deployments, deployment, change, step).await
        }
        Step::UpdateReplicaSet { replica_set, min_ready_seconds, .. } => {
            let spec = json!({"minReadySeconds": min_ready_seconds});
            let change = json!({"metadata": {"annotations": step.annotations()}, "spec": spec});
            writes::merge(&replica_sets, replica_set, change, step).await
        }
        Step::CreateReplicaSet(replica_set) => {
            writes::create(&replica_sets, replica_set.as_ref(), step).await.map(drop)
        }
        Step::ScaleReplicaSet { replica_set, to, .. } => {
            let change = json!({"metadata": {"annotations": step.annotations()}, "spec": {"replicas": to}});
            writes::merge(&replica_sets, replica_set, change, step).await
        }
        Step::DeleteReplicaSet { replica_set } => {
            writes::delete(&replica_sets, replica_set, PropagationPolicy::Background, step).await
        }
        Step::WriteStatus { deployment, status } => {
            let object = Deployment { status: Some(status.as_ref().clone()), ..rollout.deployment.clone() };
            writes::replace_status(&deployments, &deployment.name, &object, step).await
        }
    }
}

/// A ReplicaSet that nobody controls may be adopted by any Deployment of its namespace.
fn wake_owner(queue: &WorkQueue, replica_set: &ReplicaSet) {
    match owners::controller_of(&replica_set.metadata) {
        Some(owner) => queue.wake(Key::beside(&replica_set.metadata, &owner.name)),
        None => queue.wake_namespace(replica_set.metadata.namespace.as_deref()),
    }
}

/// Counts of pods arrive with their ReplicaSet's status; pods themselves only tell sooner why they are not ready, so
/// it is enough to know the Deployment by the name it gave its ReplicaSet.
fn wake_owner_of_pod(queue: &WorkQueue, pod: &Pod) {
    let owner = owners::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
    if let Some((deployment, _)) = owner.and_then(|owner| owner.name.rsplit_once('-')) {
        queue.wake_if_known(Key::beside(&pod.metadata, deployment));
    }
}
