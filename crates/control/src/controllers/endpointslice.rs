//! EndpointSlices of Services: who asks `decide::endpoints`, and who applies its answer.

use decide::endpoints::{self, Step};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PropagationPolicy;
use tracing::debug;

use super::control_loop::ControlLoop;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, snapshot, writes};

/// Services are independent of each other; this many share the API at a time.
const AT_ONCE: usize = 4;

/// Label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A pod may have been selected by its former labels, so it wakes every Service of its namespace.
pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, service: &Service| queue.wake(Key::of(&service.metadata)))
        .wakes_on(|queue, _, slice: &EndpointSlice| wake_service(queue, slice))
        .wakes_on(|queue, _, pod: &Pod| queue.wake_namespace(pod.metadata.namespace.as_deref()))
        .works(AT_ONCE, reconcile);
}

/// One look at a Service: snapshot, decision, steps.
async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let client = &context.client;
    let Some(service) = snapshot::get::<Service>(client, &key).await? else { return Ok(Next::Gone) };
    let pods = snapshot::list::<Pod>(client, &key.namespace).await?;
    let slices = snapshot::list::<EndpointSlice>(client, &key.namespace).await?;
    let decision = endpoints::next_steps(&service, &pods, &slices);
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        apply(&Api::namespaced(client.clone(), &key.namespace), step).await?;
    }
    Ok(Next::after(&decision))
}

async fn apply(slices: &Api<EndpointSlice>, step: &Step) -> Result<(), Error> {
    match step {
        Step::Create(slice) => writes::create(slices, slice.as_ref(), step).await.map(drop),
        Step::Update(slice) => {
            let name = slice.metadata.name.clone().unwrap_or_default();
            writes::replace(slices, &name, slice.as_ref(), step).await
        }
        Step::Delete { slice } => writes::delete(slices, slice, PropagationPolicy::Background, step).await,
    }
}

fn wake_service(queue: &WorkQueue, slice: &EndpointSlice) {
    let labels = slice.metadata.labels.as_ref();
    if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
        queue.wake_if_known(Key::beside(&slice.metadata, service));
    }
}
