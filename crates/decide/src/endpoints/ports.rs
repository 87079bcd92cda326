//! A Service's ports as each pod has them: a named targetPort may be another number in another pod, and such pods go
//! into slices of their own.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The pods that have these ports, in the order of their names.
pub(super) struct Group<'a> {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) pods: Vec<&'a Pod>,
}

/// The pods by their ports.
pub(super) fn grouped<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Vec<Group<'a>> {
    let service_ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let service_ports: Vec<_> = service_ports.collect();
    let mut pods: Vec<_> = pods.collect();
    pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let mut groups: Vec<Group<'a>> = Vec::new();
    for pod in pods {
        let ports: Vec<_> = service_ports.iter().filter_map(|port| endpoint_port(port, pod)).collect();
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.pods.push(pod),
            None => groups.push(Group { ports, pods: vec![pod] }),
        }
    }
    groups
}

/// None when no container of the pod has a port of the name.
fn endpoint_port(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol),
        app_protocol: port.app_protocol.clone(),
    })
}

/// The number of a pod's port of this name. Init containers that keep running have ports as well.
pub(crate) fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let same_protocol = |given: Option<&str>| given.unwrap_or("TCP") == protocol;
    let found = ports.find(|port| port.name.as_deref() == Some(name) && same_protocol(port.protocol.as_deref()));
    found.map(|port| port.container_port)
}
