//! Placing pods on nodes: who asks `decide::placement`, and who applies its answer.

use decide::placement::{self, Step};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tracing::debug;

use super::control_loop::ControlLoop;
use super::watches::Change;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, snapshot, writes};
use crate::events::{EventType, Subject};

/// All waiting pods are placed in one look, each on what the ones before it left.
const AT_ONCE: usize = 1;

pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, _: &Node| queue.wake(Key::everything()))
        .wakes_on(wake_for_pod)
        .works(AT_ONCE, reconcile);
}

/// One look at all pods: snapshot, decision, steps.
async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let nodes = snapshot::list_all::<Node>(&context.client).await?;
    let pods = snapshot::list_all::<Pod>(&context.client).await?;
    let decision = placement::next_steps(&nodes, &pods, Timestamp::now());
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        apply(&context, step).await?;
    }
    for reason in &decision.waiting_on {
        debug!(%key, %reason, "waiting");
    }
    Ok(Next::after(&decision))
}

async fn apply(context: &Context, step: &Step) -> Result<(), Error> {
    let pod = step.pod();
    let pods = Api::<Pod>::namespaced(context.client.clone(), &pod.namespace);
    let subject = Subject::of_target("v1", "Pod", pod);
    match step {
        Step::Bind { node, .. } => {
            let bound = bind(&pods, step, node).await;
            writes::done(bound, step)?;
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
            context.events.record(&subject, EventType::Normal, "Scheduled", &message);
        }
        Step::MarkUnschedulable { condition, .. } => {
            // Conditions merge by type, so that those of the node agent stay.
            let status = json!({"conditions": [condition]});
            let change = json!({"metadata": {"resourceVersion": pod.resource_version}, "status": status});
            let marked = pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(change)).await;
            writes::done(marked, step)?;
            let message = condition.message.as_deref().unwrap_or_default();
            context.events.record(&subject, EventType::Warning, "FailedScheduling", message);
        }
    }
    Ok(())
}

/// The uid makes sure that a pod of the same name that came later is not bound instead.
async fn bind(pods: &Api<Pod>, step: &Step, node: &str) -> kube::Result<Value> {
    let pod = step.pod();
    let binding = Binding {
        metadata: ObjectMeta { name: Some(pod.name.clone()), uid: Some(pod.uid.clone()), ..ObjectMeta::default() },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    pods.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await
}

/// Pods that wait for a node, and pods that leave room, matter; what a running pod reports does not.
fn wake_for_pod(queue: &WorkQueue, change: Change, pod: &Pod) {
    let waits = pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none());
    if waits || change == Change::Deleted || objects::pods::is_finished(pod) {
        queue.wake(Key::everything());
    }
}
