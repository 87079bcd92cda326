//! What the data plane is to do, from what the API holds. Pure.

mod balanced;
pub(super) mod host_ports;
mod naming;
mod planner;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use decide::balancing::EndpointState;
use decide::draining::DrainStep;
use decide::exposure::front_of;
use decide::mesh::{self, Expected};
use decide::network_policy::{Policies, compile};
use decide::protocol::speaks_at;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use objects::names;
use objects::pods::{condition, is_finished, is_ready, leaves_since};
use objects::quantity;
use objects::ranges::Range;
use objects::selector::matches_map;
use objects::validation::is_cookie_name;

use super::ingress::ingress;
use crate::config::{self, Affinity, Base, DataPlaneConfig, Listener, PodUid, ProxyProtocol, Transport};
use crate::mesh::{Here, Machines};
use crate::tailnet::Peers;
use crate::watch::Objects;
pub(super) use planner::Planner;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What the API holds. Each kind may be older than the others; what does not fit together is left out until it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) services: Objects<Service>,
    pub(super) slices: Objects<EndpointSlice>,
    pub(super) pods: Objects<Pod>,
    pub(super) ingresses: Objects<Ingress>,
    pub(super) ingress_classes: Objects<IngressClass>,
    /// Those that hold certificates.
    pub(super) secrets: Objects<Secret>,
    pub(super) policies: Objects<NetworkPolicy>,
    pub(super) namespaces: Objects<Namespace>,
    /// The addresses of names on the tailnet.
    pub(super) peers: Peers,
    /// The other machines of the mesh.
    pub(super) machines: Arc<Machines>,
    /// Ports of this machine that are for other machines alone: whoever listened there could pass for its engine.
    pub(super) mesh_ports: Option<RangeInclusive<u16>>,
    /// Where the API is.
    pub(super) api: Option<SocketAddr>,
    /// Where load balancers take connections.
    pub(super) host: Option<IpAddr>,
    /// Addresses that only Services have.
    pub(super) service_range: Option<Range>,
}

impl Snapshot {
    /// Whether this is the other, not only its like.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.services, &other.services)
            && Arc::ptr_eq(&self.slices, &other.slices)
            && Arc::ptr_eq(&self.pods, &other.pods)
            && Arc::ptr_eq(&self.ingresses, &other.ingresses)
            && Arc::ptr_eq(&self.ingress_classes, &other.ingress_classes)
            && Arc::ptr_eq(&self.secrets, &other.secrets)
            && Arc::ptr_eq(&self.policies, &other.policies)
            && Arc::ptr_eq(&self.namespaces, &other.namespaces)
            && self.peers == other.peers
            && Arc::ptr_eq(&self.machines, &other.machines)
            && (self.host, self.service_range) == (other.host, other.service_range)
    }

    /// Whether a port of this machine is for other machines alone.
    pub(super) fn is_for_mesh(&self, port: u16) -> bool {
        self.mesh_ports.as_ref().is_some_and(|ports| ports.contains(&port))
    }

    /// The pods by their addresses.
    pub(super) fn addresses(&self) -> BTreeMap<Ipv4Addr, PodUid> {
        let address = |pod: &Arc<Pod>| Some((pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?, uid_of(pod)));
        self.pods.values().filter(|pod| !is_finished(pod)).filter_map(address).collect()
    }
}

/// A configuration without its version, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) services: Vec<Arc<config::Service>>,
    /// The same Services with their ports for UDP, of which the proxy knows nothing.
    pub(super) datagrams: Vec<Arc<config::Service>>,
    pub(super) aliases: Vec<config::Alias>,
    /// The Services for which each pod is ready here.
    pub(super) routed: BTreeMap<PodUid, BTreeSet<String>>,
    /// The most that each pod is named with.
    pub(super) states: BTreeMap<PodUid, EndpointState>,
    /// Pods whose long connections are to end now.
    pub(super) end_long: BTreeSet<PodUid>,
    pub(super) ingress: config::Ingress,
    pub(super) policies: Policies,
    pub(super) mesh: config::Mesh,
    /// What was known of other machines when it was made.
    pub(super) revision: u64,
    /// The `resourceVersion` of each NetworkPolicy that `policies` were made of.
    pub(super) policy_versions: BTreeSet<Option<String>>,
    /// Pods that wait for policies, and the addresses for which `policies` were made.
    pub(super) asking: BTreeMap<PodUid, String>,
}

impl Plan {
    pub(super) fn config(&self, version: u64, base: &Base) -> DataPlaneConfig {
        let Base { dns, metrics, access_log, connections_per_client, tailnet } = base.clone();
        let mut config = DataPlaneConfig {
            version,
            listen: BTreeSet::new(),
            services: self.services.clone(),
            aliases: self.aliases.clone(),
            end_long: self.end_long.clone(),
            dns,
            ingress: self.ingress.clone(),
            policies: self.policies.clone(),
            metrics,
            access_log,
            connections_per_client,
            tailnet,
            mesh: self.mesh.clone(),
        };
        config.listen = config.wanted_listeners();
        config
    }

    pub(super) fn sends_the_same_as(&self, other: &Plan) -> bool {
        std::ptr::eq(self, other)
            || self.services == other.services
                && self.datagrams == other.datagrams
                && self.aliases == other.aliases
                && self.end_long == other.end_long
                && self.ingress == other.ingress
                && self.policies == other.policies
                && self.mesh == other.mesh
    }

    /// Services that use a pod at a port where nobody else is ready who stays.
    pub(super) fn without_another(&self, uid: &PodUid, leaving: &BTreeSet<PodUid>) -> Vec<String> {
        let is_alone = |port: &config::ServicePort| {
            let others = port.endpoints.iter().filter(|endpoint| !leaving.contains(&endpoint.pod));
            let uses_it = port.endpoints.iter().any(|endpoint| endpoint.pod == *uid);
            let is_well = |state: EndpointState| state >= EndpointState::Elsewhere;
            let is_elsewhere = port.elsewhere.iter().any(|elsewhere| is_well(elsewhere.state));
            uses_it && !is_elsewhere && !others.into_iter().any(|endpoint| is_well(endpoint.state))
        };
        let services = self.services.iter().chain(&self.datagrams);
        services.filter(|service| service.ports.iter().any(is_alone)).map(|service| service.key()).collect()
    }

    /// Services of the mesh that use a pod at a port where no other stays, and where other machines expect one.
    pub(super) fn expected_elsewhere(
        &self,
        uid: &PodUid,
        leaving: &BTreeSet<PodUid>,
        expected: &Expected,
    ) -> Vec<String> {
        let in_mesh = self.services.iter().filter(|service| service.is_in_mesh && *expected != Expected::default());
        let is_last = |service: &&Arc<config::Service>| {
            service.ports.iter().any(|port| {
                let uses_it = port.endpoints.iter().any(|endpoint| endpoint.pod == *uid);
                let is_last = || {
                    let mut others = port.endpoints.iter().filter(|endpoint| !leaving.contains(&endpoint.pod));
                    !others.any(|endpoint| endpoint.state == EndpointState::Ready)
                };
                uses_it && is_last() && expected.is_at(&service.key(), port.port)
            })
        };
        in_mesh.filter(is_last).map(|service| service.key()).collect()
    }

    /// Other machines still take what comes here, and how much of it is in flight is counted.
    pub(super) fn report_what_is_passed_on(&mut self) {
        for service in &mut self.services {
            for port in Arc::make_mut(service).ports.iter_mut() {
                for elsewhere in &mut port.elsewhere {
                    elsewhere.state = elsewhere.state.min(EndpointState::Deprioritised);
                }
            }
        }
    }

    /// What the mesh has to know of it.
    pub(super) fn here(&self) -> Here {
        let ready = |port: &config::ServicePort| {
            let pods = port.endpoints.iter().filter(|endpoint| !endpoint.pod_name.is_empty());
            let ready = pods.filter(|endpoint| endpoint.state == EndpointState::Ready).count();
            mesh::Port { port: port.port, ready: u32::try_from(ready).unwrap_or(u32::MAX) }
        };
        // Nothing leads from another machine to a headless Service, or to a port for UDP.
        let in_mesh = self.services.iter().filter(|service| service.is_in_mesh && !service.addresses.is_empty());
        let services: BTreeMap<_, Vec<_>> =
            in_mesh.map(|service| (service.key(), service.ports.iter().map(ready).collect())).collect();
        let datagrams = self.datagrams.iter().filter(|service| service.ports.iter().any(|port| ready(port).ready > 0));
        let routed = self.routed.values().flatten().filter(|key| !services.contains_key(*key)).cloned();
        let only_here = routed.chain(datagrams.map(|service| service.key())).collect();
        Here { revision: self.revision, services, only_here }
    }

    /// Whether connections to a listener come to this Service.
    pub(super) fn serves(&self, key: &str, listener: &Listener) -> bool {
        let services = match listener.transport {
            Transport::Tcp => &self.services,
            Transport::Udp => &self.datagrams,
        };
        let places = |service: &config::Service| {
            service.ports.iter().any(|port| service.addresses_of(port).any(|at| at == listener.address))
        };
        services.iter().any(|service| service.key() == key && places(service))
    }
}

/// Everything that the data plane is to do. `leaving` has the step that each pod is at that goes away; `parts` are what
/// each Service has in it.
fn plan<'p>(
    snapshot: &Snapshot,
    leaving: &BTreeMap<PodUid, DrainStep>,
    parts: impl Iterator<Item = (&'p String, &'p Part)>,
) -> Plan {
    let ending = leaving.iter().filter(|(_, step)| **step == DrainStep::EndLong).map(|(uid, _)| uid.clone());
    let aliases = naming::aliases(snapshot);
    let mut plan = Plan { end_long: ending.collect(), aliases, ..Plan::default() };
    for (key, part) in parts {
        plan.add(key, part);
    }
    settle_conflicts(&mut plan.services, snapshot);
    settle_conflicts(&mut plan.datagrams, snapshot);
    plan.ingress = ingress(snapshot, &plan.services);
    plan.add_host_ports(snapshot, &|uid| leaving.get(uid).copied());
    plan.mesh = snapshot.machines.mesh();
    plan.revision = snapshot.machines.revision;
    plan.policies = policies(snapshot);
    plan.policy_versions = snapshot.policies.values().map(|policy| policy.metadata.resource_version.clone()).collect();
    let asking = |pod: &Arc<Pod>| Some((uid_of(pod), asks_for_policies(pod)?.to_owned()));
    plan.asking = snapshot.pods.values().filter_map(asking).collect();
    plan
}

fn policies(snapshot: &Snapshot) -> Policies {
    let Snapshot { policies, pods, namespaces, .. } = snapshot;
    compile(policies.values().map(Arc::as_ref), pods.values().map(Arc::as_ref), namespaces.values().map(Arc::as_ref))
}

/// Keys of the Services that select a pod.
pub(super) fn selecting(services: &Objects<Service>, pod: &Pod) -> BTreeSet<String> {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selects = |service: &Arc<Service>| {
        service.metadata.namespace == pod.metadata.namespace
            && has_endpoints(service)
            && service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|it| matches_map(it, &labels))
    };
    services.iter().filter(|(_, service)| selects(service)).map(|(key, _)| key.clone()).collect()
}

/// The address of a pod whose containers wait until the policies about it are in force.
pub(super) fn asks_for_policies(pod: &Pod) -> Option<&str> {
    let asks = condition(pod, names::POLICIES_IN_FORCE).is_some_and(|condition| condition.status != "True");
    pod.status.as_ref().filter(|_| asks)?.pod_ip.as_deref()
}

/// A pod's uid; the empty one for an object that never was in the API.
pub(super) fn uid_of(pod: &Pod) -> PodUid {
    PodUid(pod.metadata.uid.clone().unwrap_or_default())
}

fn has_endpoints(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("ExternalName"))
}

/// One that is ours: a class names another implementation.
pub(super) fn is_load_balancer(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
}

fn affinity(service: &Service) -> Affinity {
    match service.spec.as_ref().and_then(|spec| spec.session_affinity.as_deref()) {
        Some("ClientIP") => Affinity::ClientIp,
        Some(_) | None => Affinity::None,
    }
}

/// One Service with all that belongs to it.
struct Routes<'a> {
    snapshot: &'a Snapshot,
    leaving: &'a BTreeMap<PodUid, DrainStep>,
    service: &'a Service,
    slices: &'a [Arc<EndpointSlice>],
    /// Whether the tailnet's daemon is to find it.
    has_front: bool,
}

/// What one Service has in a plan.
#[derive(Clone, Debug)]
struct Part {
    service: Arc<config::Service>,
    datagrams: Option<Arc<config::Service>>,
    ready: BTreeSet<PodUid>,
    states: BTreeMap<PodUid, EndpointState>,
}

/// An endpoint of a slice that may be used.
struct Usable<'a> {
    ip: IpAddr,
    uid: PodUid,
    pod: Option<&'a Pod>,
    state: EndpointState,
}

impl Plan {
    fn add(&mut self, key: &str, part: &Part) {
        for ready in &part.ready {
            self.routed.entry(ready.clone()).or_default().insert(key.to_owned());
        }
        for (pod, state) in &part.states {
            let known = self.states.entry(pod.clone()).or_insert(*state);
            *known = (*known).max(*state);
        }
        self.datagrams.extend(part.datagrams.clone());
        self.services.push(Arc::clone(&part.service));
    }
}

impl Part {
    fn of(routes: &Routes<'_>) -> Self {
        let cluster = routes.addresses();
        let usable = routes.slices.iter().flat_map(|slice| routes.usable(slice));
        let ready = usable.filter(|usable| usable.pod.is_some() && usable.state == EndpointState::Ready);
        let ready = ready.map(|usable| usable.uid).collect();
        let answers = if cluster.is_empty() { routes.named_addresses() } else { cluster.clone() };
        let ports = |protocol| if cluster.is_empty() { Vec::new() } else { routes.ports(protocol) };
        let (ports, udp_ports) = (ports("TCP"), ports("UDP"));
        // Nothing leads to the pods of a headless Service but their own addresses.
        let outer = if cluster.is_empty() { Vec::new() } else { routes.outer_addresses() };
        let addresses: BTreeSet<IpAddr> = cluster.into_iter().chain(outer).collect();
        let addresses = addresses.into_iter().collect();
        let mut states = BTreeMap::new();
        // What has no pod never goes, so nobody waits for it.
        let endpoints = ports.iter().chain(&udp_ports).flat_map(|port| &port.endpoints);
        for endpoint in endpoints.filter(|endpoint| !endpoint.pod_name.is_empty()) {
            let known = states.entry(endpoint.pod.clone()).or_insert(endpoint.state);
            *known = (*known).max(endpoint.state);
        }
        let metadata = &routes.service.metadata;
        let service = config::Service {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            addresses,
            answers,
            hosts: routes.hosts(),
            named_ports: routes.named_ports(),
            affinity: affinity(routes.service),
            sticky_cookie: routes
                .annotation(names::STICKY_COOKIE)
                .filter(|name| is_cookie_name(name))
                .map(str::to_owned),
            proxy_protocol: routes.proxy_protocol(),
            max_request_body: routes.annotation(names::MAX_REQUEST_BODY).and_then(quantity::positive),
            is_in_mesh: routes.is_in_mesh(),
            ports,
        };
        let datagrams =
            (!udp_ports.is_empty()).then(|| Arc::new(config::Service { ports: udp_ports, ..service.clone() }));
        Self { service: Arc::new(service), datagrams, ready, states }
    }
}

/// One place leads to one Service: a cluster address or a front to its own, any other place to the oldest that wants it.
fn settle_conflicts(services: &mut [Arc<config::Service>], snapshot: &Snapshot) {
    let is_own = |service: &config::Service, ip: &IpAddr| service.answers.contains(ip) || ip.is_loopback();
    let wants_more = |service: &config::Service| service.addresses.iter().any(|ip| !is_own(service, ip));
    let mut order: Vec<usize> = (0..services.len()).filter(|index| wants_more(&services[*index])).collect();
    if order.is_empty() {
        return;
    }
    let mut taken: BTreeSet<SocketAddr> = BTreeSet::new();
    for service in services.iter() {
        let own = service.addresses.iter().filter(|ip| is_own(service, ip));
        taken.extend(own.flat_map(|ip| service.ports.iter().map(|port| SocketAddr::new(*ip, port.port))));
    }
    let objects = &snapshot.services;
    let age =
        |service: &config::Service| objects.get(&service.key()).and_then(|it| it.metadata.creation_timestamp.clone());
    order.sort_by_key(|index| (age(&services[*index]).map(|time| time.0), *index));
    for index in order {
        let config::Service { addresses, answers, ports, .. } = Arc::make_mut(&mut services[index]);
        addresses.retain(|ip| {
            let places: Vec<_> = ports.iter().map(|port| SocketAddr::new(*ip, port.port)).collect();
            let is_taken = |place: &SocketAddr| taken.contains(place) || snapshot.is_for_mesh(place.port());
            let is_free = answers.contains(ip) || ip.is_loopback() || !places.iter().any(is_taken);
            taken.extend(places.into_iter().filter(|_| is_free));
            is_free
        });
    }
}

impl Routes<'_> {
    /// None for a headless Service.
    fn addresses(&self) -> Vec<IpAddr> {
        let Some(spec) = &self.service.spec else { return Vec::new() };
        let all = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
        let parsed: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        parsed.into_iter().collect()
    }

    /// Those at which clients from outside find it.
    fn outer_addresses(&self) -> Vec<IpAddr> {
        let spec = self.service.spec.as_ref();
        let external = spec.into_iter().flat_map(|spec| spec.external_ips.iter().flatten());
        let external = external.filter_map(|ip| ip.parse().ok());
        let external = external.filter(|ip| !self.is_a_services(*ip));
        let external = external.chain(self.snapshot.host.filter(|_| is_load_balancer(self.service)));
        external.chain(front_of(self.service).filter(|_| self.has_front).map(IpAddr::V4)).collect()
    }

    fn ports(&self, protocol: &str) -> Vec<config::ServicePort> {
        let ports = self.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let of_protocol = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == protocol);
        of_protocol.filter_map(|port| self.port(port)).collect()
    }

    fn port(&self, port: &ServicePort) -> Option<config::ServicePort> {
        let name = port.name.clone().unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let mut endpoints: Vec<config::Endpoint> =
            self.slices.iter().flat_map(|slice| self.endpoints(slice, &name, protocol)).collect();
        endpoints.extend(self.api());
        endpoints.sort_by(|one, other| (one.ip, one.port, &one.pod).cmp(&(other.ip, other.port, &other.pod)));
        endpoints.dedup_by(|one, other| (one.ip, one.port, &one.pod) == (other.ip, other.port, &other.pod));
        let speaks = speaks_at(self.service, port);
        let node_port = port.node_port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        let node_port = node_port
            .filter(|_| self.service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("ClusterIP")));
        let port = u16::try_from(port.port).ok()?;
        let elsewhere = if protocol == "TCP" { self.elsewhere(port) } else { Vec::new() };
        Some(config::ServicePort { port, node_port, name, speaks, endpoints, elsewhere })
    }

    /// The same port on other machines.
    fn elsewhere(&self, port: u16) -> Vec<config::Elsewhere> {
        if !self.is_in_mesh() {
            return Vec::new();
        }
        let metadata = &self.service.metadata;
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = format!("{}/{}", name(&metadata.namespace), name(&metadata.name));
        let policy = mesh::Policy::of(self.annotation(names::MESH_POLICY));
        let machines = &self.snapshot.machines;
        let elsewhere = |it: mesh::Elsewhere| {
            let (from, proxy) = machines.way_to(it.address)?;
            Some(config::Elsewhere {
                from,
                key: machines.keys.get(&it.machine)?.clone(),
                machine: it.machine,
                proxy,
                ready: it.ready,
                state: policy.state(it.standing),
            })
        };
        mesh::elsewhere(&machines.known, &key, port).filter_map(elsewhere).collect()
    }

    /// Whether the Services of its name on all machines are one.
    fn is_in_mesh(&self) -> bool {
        self.annotation(names::MESH) == Some("true")
    }

    /// The API, behind the Service that is it. It is on the machine itself, of which no slice may speak.
    fn api(&self) -> Option<config::Endpoint> {
        let metadata = &self.service.metadata;
        let is_it = (metadata.namespace.as_deref(), metadata.name.as_deref())
            == (Some(names::API_SERVICE.0), Some(names::API_SERVICE.1));
        // One of that name that somebody made before is his.
        let is_ours =
            metadata.labels.as_ref().and_then(|labels| labels.get("provider")).is_some_and(|it| it == "kubernetes");
        let is_ours = is_ours && self.service.spec.as_ref().is_some_and(|spec| spec.selector.is_none());
        let at = self.snapshot.api.filter(|_| is_it && is_ours)?;
        Some(config::Endpoint {
            ip: at.ip(),
            port: at.port(),
            pod: PodUid(at.to_string()),
            pod_name: String::new(),
            pod_version: String::new(),
            state: EndpointState::Ready,
        })
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.service.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        match self.annotation(names::PROXY_PROTOCOL)? {
            "v1" => Some(ProxyProtocol::V1),
            "v2" => Some(ProxyProtocol::V2),
            _ => None,
        }
    }

    fn endpoints(&self, slice: &EndpointSlice, port_name: &str, protocol: &str) -> Vec<config::Endpoint> {
        let ports = slice.ports.iter().flatten();
        let is_it = |port: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            port.name.as_deref().unwrap_or_default() == port_name
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        let number = ports.filter(is_it).find_map(|port| u16::try_from(port.port?).ok());
        let Some(number) = number else { return Vec::new() };
        let endpoint = |usable: Usable<'_>| config::Endpoint {
            ip: usable.ip,
            port: number,
            pod: usable.uid,
            pod_name: usable.pod.and_then(|pod| pod.metadata.name.clone()).unwrap_or_default(),
            pod_version: usable.pod.and_then(template_hash).unwrap_or_default(),
            state: usable.state,
        };
        self.usable(slice).map(endpoint).collect()
    }

    fn usable<'s>(&'s self, slice: &'s EndpointSlice) -> impl Iterator<Item = Usable<'s>> {
        slice.endpoints.iter().flatten().filter_map(|endpoint| self.usable_endpoint(endpoint))
    }

    fn usable_endpoint(&self, endpoint: &Endpoint) -> Option<Usable<'_>> {
        let ip = endpoint.addresses.first()?.parse().ok()?;
        let Some(target) = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod")) else {
            let uid = PodUid(format!("{ip}"));
            // Whoever could name a Service here would reach its pods in this machine's name.
            let is_usable = is_ready_endpoint(endpoint) && !self.is_a_services(ip);
            return is_usable.then_some(Usable { ip, uid, pod: None, state: EndpointState::Ready });
        };
        let namespace = self.service.metadata.namespace.as_deref().unwrap_or_default();
        let pod = self.snapshot.pods.get(&format!("{namespace}/{}", target.name.as_deref()?))?;
        let uid = uid_of(pod);
        if target.uid.as_deref() != Some(uid.0.as_str()) {
            return None;
        }
        let state = self.state(endpoint, pod, &uid)?;
        // Policies go by the address that the pod has: until it is known, nothing would guard the pod.
        let is_at_its_own = address_of(pod) == Some(ip);
        (state != EndpointState::Ready || is_at_its_own).then_some(Usable { ip, uid, pod: Some(pod), state })
    }

    /// None for an endpoint that may have no work now and may have again. The slice may know before the pod does that
    /// the pod is going away.
    fn state(&self, endpoint: &Endpoint, pod: &Pod, uid: &PodUid) -> Option<EndpointState> {
        if leaves_since(pod).is_some() || is_terminating_endpoint(endpoint) || self.leaving.contains_key(uid) {
            return match self.leaving.get(uid) {
                Some(DrainStep::Deprioritise) => Some(EndpointState::Deprioritised),
                Some(DrainStep::Withdraw | DrainStep::EndLong | DrainStep::Drained(_)) => {
                    Some(EndpointState::Withdrawn)
                }
                None => is_ready(pod).then_some(EndpointState::Deprioritised),
            };
        }
        (is_ready_endpoint(endpoint) && (self.publishes_all() || is_ready(pod))).then_some(EndpointState::Ready)
    }

    fn is_a_services(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip else { return false };
        self.snapshot.service_range.is_some_and(|range| range.contains(ip))
    }

    /// Whether its endpoints are used ready or not.
    fn publishes_all(&self) -> bool {
        self.service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
    }
}

fn is_ready_endpoint(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn is_terminating_endpoint(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.terminating) == Some(true)
}

fn address_of(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

fn template_hash(pod: &Pod) -> Option<String> {
    pod.metadata.labels.as_ref()?.get(TEMPLATE_HASH).cloned()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(in crate::routing) mod tests;
