//! What the data plane is told: a whole configuration, or what changes the one before into the next. The engine computes
//! it; the keeper opens its sockets and keeps it for proxies that come; the proxy puts it in force.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use decide::balancing::EndpointState;
use decide::ingress;
use decide::network_policy::Policies;
pub use decide::protocol::Speaks;
use objects::ranges::Range;
use serde::{Deserialize, Serialize};

/// Every address of this machine.
pub(crate) const ANY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Everything the data plane does, from the moment it acknowledges `version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlaneConfig {
    /// Only grows, also over restarts of the engine.
    pub version: u64,
    /// Every socket to listen on.
    pub listen: BTreeSet<Listener>,
    pub services: Vec<Arc<Service>>,
    /// Services that only give a name outside another name.
    #[serde(default)]
    pub aliases: Vec<Alias>,
    /// Withdrawn pods whose long connections are to end now.
    #[serde(default)]
    pub end_long: BTreeSet<PodUid>,
    pub dns: Dns,
    /// Requests from outside that are told apart by host and path.
    #[serde(default)]
    pub ingress: Ingress,
    /// Who may reach which pod.
    #[serde(default)]
    pub policies: Policies,
    /// Where the proxy shows its metrics.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// Whether the proxy writes a line about each request.
    #[serde(default)]
    pub access_log: bool,
    /// Connections that one address may have open; as many as it likes if not given.
    #[serde(default)]
    pub connections_per_client: Option<u32>,
    #[serde(default)]
    pub tailnet: Option<Tailnet>,
    #[serde(default)]
    pub mesh: Mesh,
}

/// How the proxies of several machines take work off each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Where other machines' proxies connect.
    pub at: Option<SocketAddr>,
    /// The other machines, who alone may, and what each has to know, since its pods and users have its address too.
    pub machines: BTreeMap<IpAddr, Secret>,
}

/// What nobody is shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl Secret {
    /// Whether it is the same, in a time that tells nothing of how much of it is. An empty one is never.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        let (one, other) = (self.0.as_bytes(), other.as_bytes());
        let differ = one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other));
        !one.is_empty() && one.len() == other.len() && differ == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// How Tailscale's daemon leads callers from the tailnet to Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tailnet {
    /// Addresses of this machine that are before Services, where nobody else may connect.
    pub fronts: Range,
    /// The daemon's socket, whose owner it is.
    pub daemon: PathBuf,
}

/// What makes one configuration of another. What is None is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The version of the configuration that it changes.
    pub from: u64,
    pub version: u64,
    pub opened: BTreeSet<Listener>,
    pub closed: BTreeSet<Listener>,
    /// Services as [`DataPlaneConfig::services`] has them from now on. Several may have one name; then these are all of it.
    pub services: Vec<Arc<Service>>,
    /// Namespaces and names of Services that there are no more.
    pub gone: BTreeSet<(String, String)>,
    pub aliases: Option<Vec<Alias>>,
    pub end_long: Option<BTreeSet<PodUid>>,
    pub ingress: Option<Ingress>,
    pub policies: Option<Policies>,
    #[serde(default)]
    pub mesh: Option<Mesh>,
}

impl Change {
    /// Namespaces and names of the Services that it is about.
    #[must_use]
    pub fn names(&self) -> HashSet<(&str, &str)> {
        let gone = self.gone.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        self.services.iter().map(|service| service.full_name()).chain(gone).collect()
    }

    /// What makes one of the other, but for the order of Services. None where they differ in what never changes while an
    /// engine runs.
    #[must_use]
    pub fn between(old: &DataPlaneConfig, new: &DataPlaneConfig) -> Option<Self> {
        let base = |of: &DataPlaneConfig| {
            (of.dns.clone(), of.metrics, of.access_log, of.connections_per_client, of.tailnet.clone())
        };
        if base(old) != base(new) {
            return None;
        }
        // Most are not only alike but the same.
        let [known, wanted] = [old, new].map(|it| it.services.iter().map(Arc::as_ptr).collect::<HashSet<_>>());
        let others = new.services.iter().filter(|service| !known.contains(&Arc::as_ptr(service)));
        let no_more = old.services.iter().filter(|service| !wanted.contains(&Arc::as_ptr(service)));
        let names: HashSet<_> = others.chain(no_more).map(|service| service.full_name()).collect();
        let [before, after] = [old, new].map(|config| config.services_of(&names));
        let differ = after.iter().filter(|(name, services)| before.get(*name) != Some(services));
        let gone = before.keys().filter(|name| !after.contains_key(*name));
        Some(Self {
            from: old.version,
            version: new.version,
            opened: new.listen.difference(&old.listen).copied().collect(),
            closed: old.listen.difference(&new.listen).copied().collect(),
            services: differ.flat_map(|(_, services)| services).map(|service| Arc::clone(service)).collect(),
            gone: gone.map(|(namespace, name)| ((*namespace).to_owned(), (*name).to_owned())).collect(),
            aliases: differing(&old.aliases, &new.aliases),
            end_long: differing(&old.end_long, &new.end_long),
            ingress: differing(&old.ingress, &new.ingress),
            policies: differing(&old.policies, &new.policies),
            mesh: differing(&old.mesh, &new.mesh),
        })
    }
}

fn differing<T: Clone + PartialEq>(old: &T, new: &T) -> Option<T> {
    (old != new).then(|| new.clone())
}

fn renew<T: Clone>(part: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        part.clone_from(new);
    }
}

/// A socket the keeper opens and the proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    pub transport: Transport,
    pub address: SocketAddr,
}

impl Listener {
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, address }
    }

    #[must_use]
    pub fn is_on_every_address(&self) -> bool {
        self.address.ip().is_unspecified()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        write!(out, "{transport} {}", self.address)
    }
}

/// A Service, as far as traffic goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Addresses at which the data plane takes connections for it: its own, `externalIPs`, and this machine's for a
    /// load balancer. None for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Addresses that its DNS name stands for: its own, or its pods' when it is headless.
    pub answers: Vec<IpAddr>,
    /// Its endpoints that have a hostname, each a name below its own.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Its ports that have a name, of every protocol.
    #[serde(default)]
    pub named_ports: Vec<NamedPort>,
    #[serde(default)]
    pub affinity: Affinity,
    /// The cookie by which clients come back to the same pod.
    #[serde(default)]
    pub sticky_cookie: Option<String>,
    /// How pods learn whom a connection comes from that is passed as it is.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Bytes that the body of a request may have.
    #[serde(default)]
    pub max_request_body: Option<u64>,
    /// Whether other machines of the mesh may pass requests for it on to this one.
    #[serde(default)]
    pub is_in_mesh: bool,
    pub ports: Vec<ServicePort>,
}

/// The hostname of an endpoint. Several may share one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Host {
    pub hostname: String,
    pub ip: IpAddr,
}

/// A port that clients look up by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub port: u16,
    /// The endpoints that have it, when the Service is headless; else it is at the Service's own addresses.
    pub endpoints: Vec<IpAddr>,
}

/// A Service of type ExternalName.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub namespace: String,
    pub name: String,
    /// The name it stands for.
    pub target: String,
    /// Where that is; empty for a name that others are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// Whether a client comes to the same pod again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    #[default]
    None,
    /// By its address.
    ClientIp,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub port: u16,
    /// The port of every address of this machine that leads to it too.
    #[serde(default)]
    pub node_port: Option<u16>,
    /// Empty when the Service's only port has no name.
    pub name: String,
    pub speaks: Speaks,
    pub endpoints: Vec<Endpoint>,
    /// The same port on other machines.
    #[serde(default)]
    pub elsewhere: Vec<Elsewhere>,
}

/// Pods of another machine, behind its proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    pub machine: String,
    pub proxy: SocketAddr,
    /// The address of this machine, from which it is connected to: without a tailnet there is none.
    pub from: IpAddr,
    /// What it wants to hear.
    pub key: Secret,
    /// How many are ready.
    pub ready: u32,
    pub state: EndpointState,
}

/// One port of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
    pub pod: PodUid,
    pub pod_name: String,
    /// The pod's `pod-template-hash`; empty when it has none.
    pub pod_version: String,
    pub state: EndpointState,
}

/// A pod's `metadata.uid`; for an endpoint without a pod, its address; for all pods of a port on another machine, a name that is
/// neither.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodUid(pub String);

impl PodUid {
    /// All pods of a Service's port on another machine of the mesh.
    pub(crate) fn on_another_machine(machine: &str, service: &str, port: u16) -> Self {
        Self(format!("{machine}/{service}:{port}"))
    }

    pub(crate) fn is_on_another_machine(&self) -> bool {
        self.0.contains('/')
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// How requests from outside find Services by host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Where connections without TLS are taken.
    pub http: Option<SocketAddr>,
    /// Where connections with TLS are taken.
    pub https: Option<SocketAddr>,
    pub rules: Vec<ingress::Rule<Backend>>,
    /// Behind what no rule is about.
    pub default: Option<Backend>,
    /// Of two for the same host the first holds.
    pub certificates: Vec<Certificate>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// As users know it: `namespace/name`.
    pub service: String,
    /// The Service's own address; None while there is no such Service or port.
    pub at: Option<SocketAddr>,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `namespace/name` of the Secret.
    pub secret: String,
    /// Hosts that it is for; a star may stand for the first label. None: for whoever has no other.
    pub hosts: Vec<String>,
    /// The chain, in PEM.
    pub chain: String,
    /// The private key, in PEM.
    pub key: String,
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificate")
            .field("secret", &self.secret)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// What a configuration holds beside Services: the same for as long as an engine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    pub dns: Dns,
    /// Where the proxy shows its metrics.
    pub metrics: Option<SocketAddr>,
    /// Whether the proxy writes a line about each request.
    pub access_log: bool,
    /// Connections that one address may have open; as many as it likes if not given.
    pub connections_per_client: Option<u32>,
    pub tailnet: Option<Tailnet>,
}

/// Whether a change could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    Yes,
    /// It is made for another version.
    No,
}

/// How names are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Where DNS is served, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The domain that is answered here, e.g. `cluster.local`.
    pub domain: String,
    /// Resolvers that are asked for every other name, in this order.
    pub forward_to: Vec<SocketAddr>,
    /// Addresses that nobody else knows names of: those that pods and Services are given.
    #[serde(default)]
    pub ranges: Vec<Range>,
}

impl DataPlaneConfig {
    /// Becomes what `change` makes of it, if it is made for this version; else it stays as it is.
    pub fn apply(&mut self, change: &Change) -> Applied {
        if change.from != self.version {
            return Applied::No;
        }
        let names = change.names();
        self.services.retain(|service| !names.contains(&service.full_name()));
        self.services.extend(change.services.iter().cloned());
        self.listen.retain(|listener| !change.closed.contains(listener));
        self.listen.extend(&change.opened);
        renew(&mut self.aliases, change.aliases.as_ref());
        renew(&mut self.end_long, change.end_long.as_ref());
        renew(&mut self.ingress, change.ingress.as_ref());
        renew(&mut self.policies, change.policies.as_ref());
        renew(&mut self.mesh, change.mesh.as_ref());
        self.version = change.version;
        Applied::Yes
    }

    /// Those of its Services that have one of these names.
    pub(crate) fn services_of<'c>(
        &'c self,
        names: &HashSet<(&str, &str)>,
    ) -> BTreeMap<(&'c str, &'c str), Vec<&'c Arc<Service>>> {
        let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for service in self.services.iter().filter(|service| names.contains(&service.full_name())) {
            services.entry(service.full_name()).or_default().push(service);
        }
        services
    }

    /// The sockets that everything in it needs.
    #[must_use]
    pub fn wanted_listeners(&self) -> BTreeSet<Listener> {
        let of_services = self.services.iter().flat_map(|service| service.listeners());
        let of_dns = self.dns.listen.iter().flat_map(|address| {
            [Transport::Tcp, Transport::Udp].map(|transport| Listener { transport, address: *address })
        });
        let of_metrics = self.metrics.map(Listener::tcp);
        let of_ingress = [self.ingress.http, self.ingress.https].into_iter().flatten().map(Listener::tcp);
        let of_mesh = self.mesh.at.map(Listener::tcp);
        of_services.chain(of_dns).chain(of_metrics).chain(of_ingress).chain(of_mesh).collect()
    }
}

impl Service {
    /// The sockets at which it takes connections.
    pub fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.ports.iter().flat_map(|port| self.addresses_of(port)).map(Listener::tcp)
    }

    /// Where connections are taken for one of its ports.
    pub fn addresses_of(&self, port: &ServicePort) -> impl Iterator<Item = SocketAddr> {
        let own = self.addresses.iter().map(|ip| SocketAddr::new(*ip, port.port));
        own.chain(port.node_port.map(|number| SocketAddr::new(ANY_ADDRESS, number)))
    }

    /// Whether DNS says the same of it as of another.
    pub(crate) fn is_named_like(&self, other: &Self) -> bool {
        (self.is_headless(), &self.namespace, &self.name) == (other.is_headless(), &other.namespace, &other.name)
            && (&self.answers, &self.hosts, &self.named_ports) == (&other.answers, &other.hosts, &other.named_ports)
    }

    /// Whether it has no address of its own.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Namespace and name.
    pub(crate) fn full_name(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    /// `namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
