//! PodDisruptionBudgets: who asks `decide::disruption`, and who writes its answer.

use decide::disruption::Disruption;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;

use super::control_loop::ControlLoop;
use super::work_queue::{Key, Next};
use super::{Context, Error, snapshot, writes};

/// Budgets are independent of each other; this many share the API at a time.
const AT_ONCE: usize = 2;

/// A pod may have been counted by its former labels, so it wakes every budget of its namespace.
pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, budget: &PodDisruptionBudget| queue.wake(Key::of(&budget.metadata)))
        .wakes_on(|queue, _, pod: &Pod| queue.wake_namespace(pod.metadata.namespace.as_deref()))
        .wakes_on(|queue, _, deployment: &Deployment| queue.wake_namespace(deployment.metadata.namespace.as_deref()))
        .works(AT_ONCE, reconcile);
}

async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let client = &context.client;
    let Some(budget) = snapshot::get::<PodDisruptionBudget>(client, &key).await? else { return Ok(Next::Gone) };
    let disruption = Disruption {
        pods: snapshot::list::<Pod>(client, &key.namespace).await?,
        replica_sets: snapshot::list::<ReplicaSet>(client, &key.namespace).await?,
        deployments: snapshot::list::<Deployment>(client, &key.namespace).await?,
        budget,
    };
    let (status, look_again_at) = disruption.status(Timestamp::now());
    if disruption.budget.status.as_ref() != Some(&status) {
        let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), &key.namespace);
        let counted = PodDisruptionBudget { status: Some(status), ..disruption.budget };
        writes::replace_status(&budgets, &key.name, &counted, &"write the budget's status").await?;
    }
    Ok(look_again_at.map_or(Next::WhenWoken, Next::At))
}
