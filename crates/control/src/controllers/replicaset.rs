//! ReplicaSets: who asks `decide::replicas`, and who applies its answer.

use decide::replicas::{self, Replicas, Step};
use decide::{owners, replicas::WaitingOn};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PropagationPolicy;
use serde_json::json;
use tracing::debug;

use super::control_loop::ControlLoop;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, snapshot, writes};
use crate::events::{EventType, Subject};

/// One at a time: two ReplicaSets of one Deployment that saw the same surplus of available pods would both spend it.
const AT_ONCE: usize = 1;

pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, replica_set: &ReplicaSet| queue.wake(Key::of(&replica_set.metadata)))
        .wakes_on(|queue, _, deployment: &Deployment| wake_sets_of(queue, &deployment.metadata))
        .wakes_on(|queue, _, pod: &Pod| wake_owner(queue, pod))
        .wakes_on(|queue, _, service: &Service| queue.wake_namespace(service.metadata.namespace.as_deref()))
        .works(AT_ONCE, reconcile);
}

/// One look at a ReplicaSet: snapshot, decision, steps.
async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let Some(replicas) = snapshot(&context, &key).await? else { return Ok(Next::Gone) };
    let decision = replicas::next_steps(&replicas, Timestamp::now());
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        if let Err(error) = apply(&context, &replicas, step).await {
            tell_failure(&context, &replicas, step, &error);
            return Err(error);
        }
    }
    for WaitingOn::PodKept { pod, reason } in &decision.waiting_on {
        debug!(%key, pod, %reason, "a pod stays");
    }
    Ok(Next::after(&decision))
}

async fn snapshot(context: &Context, key: &Key) -> Result<Option<Replicas>, Error> {
    let client = &context.client;
    let Some(replica_set) = snapshot::get::<ReplicaSet>(client, key).await? else { return Ok(None) };
    Ok(Some(Replicas {
        deployment: deployment_of(context, &replica_set.metadata).await?,
        replica_set,
        replica_sets: snapshot::list(client, &key.namespace).await?,
        pods: snapshot::list(client, &key.namespace).await?,
        services: snapshot::list(client, &key.namespace).await?,
    }))
}

/// A Deployment that was made anew under the same name is another one.
async fn deployment_of(context: &Context, meta: &ObjectMeta) -> Result<Option<Deployment>, Error> {
    let Some(owner) = owners::controller_of(meta).filter(|owner| owner.kind == "Deployment") else { return Ok(None) };
    let found = snapshot::get::<Deployment>(&context.client, &Key::beside(meta, &owner.name)).await?;
    Ok(found.filter(|deployment| deployment.metadata.uid.as_ref() == Some(&owner.uid)))
}

async fn apply(context: &Context, replicas: &Replicas, step: &Step) -> Result<(), Error> {
    let namespace = replicas.replica_set.metadata.namespace.as_deref().unwrap_or_default();
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let replica_sets = Api::<ReplicaSet>::namespaced(context.client.clone(), namespace);
    match step {
        Step::Adopt { pod, owner_references } | Step::Release { pod, owner_references } => {
            writes::merge(&pods, pod, json!({"metadata": {"ownerReferences": owner_references}}), step).await
        }
        Step::CreatePod(pod) => {
            let created = writes::create(&pods, pod.as_ref(), step).await?;
            let name = created.metadata.name.unwrap_or_default();
            tell(context, replicas, "SuccessfulCreate", &format!("Created pod: {name}"));
            Ok(())
        }
        Step::DeletePod { pod } => {
            writes::delete(&pods, pod, PropagationPolicy::Background, step).await?;
            tell(context, replicas, "SuccessfulDelete", &format!("Deleted pod: {}", pod.name));
            Ok(())
        }
        Step::WriteStatus { replica_set, status } => {
            let object = ReplicaSet { status: Some(status.as_ref().clone()), ..replicas.replica_set.clone() };
            writes::replace_status(&replica_sets, &replica_set.name, &object, step).await
        }
    }
}

fn tell(context: &Context, replicas: &Replicas, reason: &'static str, message: &str) {
    context.events.record(&Subject::of(&replicas.replica_set), EventType::Normal, reason, message);
}

fn tell_failure(context: &Context, replicas: &Replicas, step: &Step, error: &Error) {
    let reason = match step {
        Step::CreatePod(_) => "FailedCreate",
        Step::DeletePod { .. } => "FailedDelete",
        Step::Adopt { .. } | Step::Release { .. } | Step::WriteStatus { .. } => return,
    };
    if !error.is_overtaken() {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error}: {cause}");
        context.events.record(&Subject::of(&replicas.replica_set), EventType::Warning, reason, &message);
    }
}

/// The Deployment's limits say how many pods its ReplicaSets may delete, and its status tells when more of them have
/// become available.
fn wake_sets_of(queue: &WorkQueue, deployment: &ObjectMeta) {
    let prefix = format!("{}-", deployment.name.as_deref().unwrap_or_default());
    let namespace = deployment.namespace.clone().unwrap_or_default();
    queue.wake_known(|key| key.namespace == namespace && key.name.starts_with(&prefix));
}

/// A pod that nobody controls may be adopted by any ReplicaSet of its namespace.
fn wake_owner(queue: &WorkQueue, pod: &Pod) {
    match owners::controller_of(&pod.metadata) {
        Some(owner) => queue.wake_if_known(Key::beside(&pod.metadata, &owner.name)),
        None => queue.wake_namespace(pod.metadata.namespace.as_deref()),
    }
}
