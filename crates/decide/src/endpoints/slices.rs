//! Endpoints in slices: an endpoint stays in the slice it is in, so that a change of one pod rewrites one slice.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ports::Group;
use super::step::Step;
use super::{MAX_ENDPOINTS, endpoint, last_change};
use crate::owners::{self, annotation};
use crate::target::Target;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What turns the existing slices into slices of these groups. Without any group one empty slice stands. A slice that
/// has lost its use gets another before a new one is made.
pub(super) fn steps(service: &Service, groups: Vec<Group<'_>>, existing: &[EndpointSlice]) -> Vec<Step> {
    let mut unused: Vec<_> = existing.iter().filter(|slice| is_ours(service, slice)).collect();
    unused.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for group in groups {
        wanted.extend(fill(service, group, &mut unused));
    }
    if wanted.is_empty() {
        wanted.push((None, slice(service, None, Vec::new(), last_change(service, &[]))));
    }
    let mut unused = unused.into_iter();
    for (existing, _) in wanted.iter_mut().filter(|(existing, _)| existing.is_none()) {
        *existing = unused.next();
    }
    let writes = wanted.into_iter().filter_map(|(existing, wanted)| write(existing, wanted));
    let deletes = unused.map(|slice| Step::Delete { slice: Target::of(&slice.metadata) });
    writes.chain(deletes).collect()
}

type Wanted<'a> = (Option<&'a EndpointSlice>, EndpointSlice);

/// Puts a group's endpoints where they are already, then where there is room, then into new slices.
fn fill<'a>(service: &Service, group: Group<'_>, unused: &mut Vec<&'a EndpointSlice>) -> Vec<Wanted<'a>> {
    let same_ports = |slice: &mut &EndpointSlice| slice.ports.as_deref().unwrap_or_default() == group.ports;
    let own: Vec<_> = unused.extract_if(.., same_ports).collect();
    let change = last_change(service, &group.pods);
    let mut left = group.pods;
    let mut parts: Vec<(Option<&'a EndpointSlice>, Vec<&Pod>)> = Vec::new();
    for slice in own {
        let (here, elsewhere): (Vec<_>, Vec<_>) = left.into_iter().partition(|pod| contains(slice, pod));
        left = elsewhere;
        parts.push((Some(slice), here));
    }
    for (_, pods) in &mut parts {
        let room = MAX_ENDPOINTS.saturating_sub(pods.len()).min(left.len());
        pods.extend(left.drain(..room));
    }
    parts.extend(left.chunks(MAX_ENDPOINTS).map(|chunk| (None, chunk.to_vec())));
    unused.extend(parts.extract_if(.., |(_, pods)| pods.is_empty()).filter_map(|(slice, _)| slice));
    let wanted = |(existing, pods): (_, Vec<&Pod>)| (existing, slice(service, Some(&group.ports), pods, change));
    parts.into_iter().map(wanted).collect()
}

fn contains(slice: &EndpointSlice, pod: &Pod) -> bool {
    let mut references = slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.target_ref.as_ref());
    references.any(|reference| reference.uid == pod.metadata.uid)
}

fn is_ours(service: &Service, slice: &EndpointSlice) -> bool {
    let labels = owners::labels(&slice.metadata);
    slice.metadata.namespace == service.metadata.namespace
        && labels.get(SERVICE_NAME) == service.metadata.name.as_ref()
        && labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
        && !owners::is_going(&slice.metadata)
}

fn slice(
    service: &Service,
    ports: Option<&[EndpointPort]>,
    mut pods: Vec<&Pod>,
    change: Option<Timestamp>,
) -> EndpointSlice {
    pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let spec = service.spec.clone().unwrap_or_default();
    let endpoints: Vec<Endpoint> = pods.into_iter().map(|pod| endpoint(&spec, name, pod)).collect();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels(service, name)),
        annotations: change.map(|change| BTreeMap::from([(LAST_CHANGE.to_owned(), change.to_string())])),
        owner_references: Some(vec![owners::controller_reference("v1", "Service", &service.metadata)]),
        ..ObjectMeta::default()
    };
    EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints).filter(|endpoints| !endpoints.is_empty()),
        ports: ports.map(<[_]>::to_vec),
    }
}

fn labels(service: &Service, name: &str) -> BTreeMap<String, String> {
    let mut labels = owners::labels(&service.metadata).clone();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn write(existing: Option<&EndpointSlice>, mut wanted: EndpointSlice) -> Option<Step> {
    let Some(existing) = existing else { return Some(Step::Create(Box::new(wanted))) };
    if says_the_same(existing, &wanted) {
        return None;
    }
    // A fact that is gone must not make the time of the last change go back.
    if annotation(&existing.metadata, LAST_CHANGE) > annotation(&wanted.metadata, LAST_CHANGE) {
        wanted.metadata.annotations.clone_from(&existing.metadata.annotations);
    }
    wanted.metadata = ObjectMeta {
        labels: wanted.metadata.labels,
        annotations: wanted.metadata.annotations,
        owner_references: wanted.metadata.owner_references,
        ..existing.metadata.clone()
    };
    Some(Step::Update(Box::new(wanted)))
}

/// The time of the last change alone is no change.
fn says_the_same(existing: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let endpoints = |slice: &EndpointSlice| slice.endpoints.clone().unwrap_or_default();
    let ports = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
    endpoints(existing) == endpoints(wanted)
        && ports(existing) == ports(wanted)
        && existing.metadata.labels == wanted.metadata.labels
}
