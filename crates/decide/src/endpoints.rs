//! Which addresses stand behind a Service, and in what state? EndpointSlices as Kubernetes fills them: Ready pods, not
//! acknowledged ones, since this is what the data plane is told.

mod ports;
mod slices;
mod step;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use objects::{pods, selector};

use crate::Decision;
use crate::owners;

pub(crate) use ports::named_port;
pub use step::{Step, WaitingOn};

/// Endpoints of one slice at most, as Kubernetes has it: a change rewrites one slice only.
pub const MAX_ENDPOINTS: usize = 100;

/// Whether the Service gives work to pods like this one.
#[must_use]
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let in_namespace = service.metadata.namespace == pod.metadata.namespace;
    in_namespace && pod_selector(service).is_some_and(|it| selector::matches_map(it, owners::labels(&pod.metadata)))
}

/// What makes the slices say what the pods are. `pods` and `existing` are all of the Service's namespace; a Service
/// without a selector is filled by somebody else.
#[must_use]
pub fn next_steps(service: &Service, pods: &[Pod], existing: &[EndpointSlice]) -> Decision<Step, WaitingOn> {
    let nothing = Decision { steps: Vec::new(), waiting_on: Vec::new(), look_again_at: None };
    if pod_selector(service).is_none() || owners::is_going(&service.metadata) {
        return nothing;
    }
    let selected: Vec<_> = pods.iter().filter(|pod| selects(service, pod)).collect();
    let waiting_on = selected.iter().filter_map(|pod| WaitingOn::of(pod)).collect();
    let groups = ports::grouped(service, selected.into_iter().filter(|pod| has_endpoint(pod)));
    Decision { steps: slices::steps(service, groups, existing), waiting_on, ..nothing }
}

fn pod_selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

fn has_endpoint(pod: &Pod) -> bool {
    !pods::is_finished(pod) && address(pod).is_some()
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|address| !address.is_empty())
}

/// A pod as an endpoint. A terminating one still serves while it is Ready, but is not ready for new work; for a
/// Service that publishes all addresses everything is ready.
fn endpoint(service: &ServiceSpec, service_name: &str, pod: &Pod) -> Endpoint {
    let spec = pod.spec.as_ref();
    let serving = pods::is_ready(pod);
    let terminating = pods::is_leaving(pod);
    let published = service.publish_not_ready_addresses == Some(true);
    let in_subdomain = spec.is_some_and(|spec| spec.subdomain.as_deref() == Some(service_name));
    Endpoint {
        addresses: address(pod).map(str::to_owned).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(published || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.filter(|_| in_subdomain).and_then(|spec| spec.hostname.clone()).filter(|it| !it.is_empty()),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// When the newest of the facts that the slices tell became true; what reads them can measure how late it is told.
fn last_change(service: &Service, pods: &[&Pod]) -> Option<Timestamp> {
    let ready =
        |pod: &Pod| pods::condition(pod, "Ready").and_then(|ready| Some(ready.last_transition_time.as_ref()?.0));
    let changes = pods.iter().flat_map(|pod| [ready(pod), pods::deleted_at(pod)]).flatten();
    changes.chain(service.metadata.creation_timestamp.as_ref().map(|time| time.0)).max()
}

#[cfg(test)]
mod tests;
