//! Ports of pods that are reached at the machine's own addresses (`hostPort`): each is a Service of its own with one
//! endpoint, under a name that no Service can have.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use decide::balancing::EndpointState;
use decide::draining::DrainStep;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use objects::pods::{is_finished, serving_containers};

use super::{Plan, Snapshot, address_of, template_hash, uid_of};
use crate::config::{Affinity, Endpoint, Listener, PodUid, Service, ServicePort, Speaks};

/// What stands before the pod's name.
const PREFIX: &str = "pod:";

/// The pod of which this is a port, if it is none of a Service.
pub(in crate::routing) fn pod_of(service: &Service) -> Option<&str> {
    service.name.strip_prefix(PREFIX)
}

impl Plan {
    /// Adds those that nobody else has.
    pub(super) fn add_host_ports(&mut self, snapshot: &Snapshot, step_of: &dyn Fn(&PodUid) -> Option<DrainStep>) {
        let in_own_network = |pod: &&Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
        let wants_any = |pod: &&Arc<Pod>| !is_finished(pod) && host_ports(pod).next().is_some();
        let pods = snapshot.pods.values().filter(in_own_network).filter(wants_any);
        let mut pods: Vec<_> = pods.map(|pod| (state(step_of(&uid_of(pod))), pod)).collect();
        if pods.is_empty() {
            return;
        }
        let ingress = [self.ingress.http, self.ingress.https].into_iter().flatten().map(Listener::tcp);
        let of_services = self.services.iter().flat_map(|service| service.listeners());
        let mut taken: BTreeSet<Listener> = of_services.chain(ingress).collect();
        let mut taken_udp: BTreeSet<Listener> = self.datagrams.iter().flat_map(|service| service.listeners()).collect();
        // Whoever goes gives its port to whoever stays, rather than the other way round.
        pods.sort_by_key(|(state, _)| Reverse(*state));
        for (state, pod) in pods {
            let Some(ip) = address_of(pod) else { continue };
            for port in host_ports(pod) {
                let Some(service) = service(pod, port, ip, state) else { continue };
                let (all, taken) = match port.protocol.as_deref() {
                    None | Some("TCP") => (&mut self.services, &mut taken),
                    Some("UDP") => (&mut self.datagrams, &mut taken_udp),
                    Some(_) => continue,
                };
                let is_reserved = |listener: Listener| snapshot.is_for_mesh(listener.address.port());
                if !service.listeners().any(is_reserved) && service.listeners().all(|listener| taken.insert(listener)) {
                    let known = self.states.entry(uid_of(pod)).or_insert(state);
                    *known = (*known).max(state);
                    all.push(Arc::new(service));
                }
            }
        }
    }
}

/// It takes connections ready or not, since nobody else can take them.
fn state(step: Option<DrainStep>) -> EndpointState {
    match step {
        None => EndpointState::Ready,
        Some(DrainStep::Deprioritise) => EndpointState::Deprioritised,
        Some(DrainStep::Withdraw | DrainStep::EndLong | DrainStep::Drained(_)) => EndpointState::Withdrawn,
    }
}

fn host_ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let ports = serving_containers(pod).flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

fn service(pod: &Pod, port: &ContainerPort, ip: IpAddr, state: EndpointState) -> Option<Service> {
    let number = u16::try_from(port.host_port?).ok()?;
    let at: Option<IpAddr> =
        port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified());
    let name = pod.metadata.name.clone().unwrap_or_default();
    let endpoint = Endpoint {
        ip,
        port: u16::try_from(port.container_port).ok()?,
        pod: uid_of(pod),
        pod_name: name.clone(),
        pod_version: template_hash(pod).unwrap_or_default(),
        state,
    };
    Some(Service {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: format!("{PREFIX}{name}"),
        addresses: at.into_iter().collect(),
        answers: Vec::new(),
        hosts: Vec::new(),
        named_ports: Vec::new(),
        affinity: Affinity::None,
        sticky_cookie: None,
        proxy_protocol: None,
        max_request_body: None,
        is_in_mesh: false,
        ports: vec![ServicePort {
            port: number,
            node_port: at.is_none().then_some(number),
            name: port.name.clone().unwrap_or_default(),
            speaks: Speaks::Opaque,
            endpoints: vec![endpoint],
            elsewhere: Vec::new(),
        }],
    })
}
