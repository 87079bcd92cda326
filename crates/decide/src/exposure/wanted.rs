//! What manifests ask for, in the words of Tailscale's Kubernetes operator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use objects::metadata::dns_label_faults;
use serde_json::{Value, json};

use super::{Owner, TailnetNode, Trouble, front};
use crate::protocol::{Speaks, speaks_at};

/// The `loadBalancerClass` of Services, and the `ingressClassName` of Ingresses, that are on the tailnet.
pub const CLASS: &str = "tailscale";
pub(super) const EXPOSE: &str = "tailscale.com/expose";
pub(super) const HOSTNAME: &str = "tailscale.com/hostname";
const TAGS: &str = "tailscale.com/tags";
const FUNNEL: &str = "tailscale.com/funnel";
const HTTP_REDIRECT: &str = "tailscale.com/http-redirect";
const HTTP_ENDPOINT: &str = "tailscale.com/http-endpoint";
const TAILNET_FQDN: &str = "tailscale.com/tailnet-fqdn";
const TAILNET_IP: &str = "tailscale.com/tailnet-ip";

const HTTP_PORT: u16 = 80;
pub(super) const HTTPS_PORT: u16 = 443;
const ROOT: &str = "/";
/// A mount point at a port that only redirects: what is there leads to a front, so the port is known as ours.
const MARK: &str = "/.well-known/segue";
/// What the daemon makes a redirect to the same place by HTTPS of.
const TO_HTTPS: &str = "301:https://${HOST}${REQUEST_URI}";

/// What is to be on the tailnet, under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    pub owner: Owner,
    pub hostname: String,
    /// Whether it is to be reached from the whole Internet.
    pub is_public: bool,
    tags: BTreeSet<String>,
    wishes: Vec<Wish>,
    /// What of it can't be had, whatever the tailnet says.
    pub(super) troubles: BTreeSet<Trouble>,
}

/// Why something that is to be on the tailnet can't be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum CannotExpose {
    #[error("it has no cluster address that could be forwarded to: a headless Service, or an ExternalName, has none")]
    NoAddress,
    #[error(
        "its cluster address {0} has no place on the loopback network that is not in use: start the engine with \
         --service-cidr of another network, such as 10.45.0.0/16"
    )]
    NoFront(Ipv4Addr),
    #[error("it has no TCP port, and Tailscale's daemon forwards no other protocol")]
    NoTcpPort,
    #[error(
        "{0:?} can't be a name on the tailnet: set {field} to at most 63 small letters, digits and hyphens",
        field = if *.1 { "tls[0].hosts[0]" } else { "the annotation tailscale.com/hostname" }
    )]
    Hostname(String, bool),
    #[error(
        "{0:?} can't be a name on the tailnet: set the annotation tailscale.com/tailnet-fqdn to a machine's name in full, \
         such as db.example.ts.net"
    )]
    Fqdn(String),
    #[error("{0:?} is no address: set the annotation tailscale.com/tailnet-ip to one, such as 100.64.0.7")]
    Address(String),
    #[error("none of its paths leads to a port of a Service that has a cluster address{}", of(.0))]
    NoBackend(BTreeSet<String>),
}

fn of(missing: &BTreeSet<String>) -> String {
    let names: Vec<&str> = missing.iter().map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(": there is no {}", names.join(", no ")) }
}

/// One port of a name on the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) port: u16,
    pub(super) does: Does,
}

/// What is asked for at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    port: u16,
    does: Does,
    /// What it is where the tailnet gives out no certificates; None: it is not there.
    without_certificates: Option<Does>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Passes bytes on.
    Forward(SocketAddrV4),
    Http(Handlers),
    Https(Handlers),
}

/// By the path that they are mounted at.
type Handlers = BTreeMap<String, Handler>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Handler {
    /// To a front; what is below the mount point is below `path` there.
    Proxy {
        to: SocketAddrV4,
        path: String,
    },
    ToHttps,
}

/// Whether a Service is to be on the tailnet.
#[must_use]
pub fn is_exposed(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let is_balancer = spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref() == Some(CLASS)
    });
    let metadata = &service.metadata;
    metadata.deletion_timestamp.is_none() && (is_balancer || annotation(metadata, EXPOSE) == Some("true"))
}

/// Whether an Ingress is to be on the tailnet.
#[must_use]
pub fn is_on_tailnet(ingress: &Ingress) -> bool {
    let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    ingress.metadata.deletion_timestamp.is_none() && class == Some(CLASS)
}

/// Keys of the Services that an Ingress leads to, whether they are there or not.
pub fn backends(ingress: &Ingress) -> impl Iterator<Item = String> {
    let (namespace, _) = names(&ingress.metadata);
    let named = paths(ingress).into_iter().filter_map(|path| path.backend.service.as_ref());
    named.map(move |service| format!("{namespace}/{}", service.name))
}

/// What on the tailnet a Service of type ExternalName stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A machine's or a Tailscale Service's name, with the tailnet's domain and without a dot at the end.
    Name(String),
    Address(IpAddr),
}

impl Target {
    /// None for a Service that stands for nothing on the tailnet.
    ///
    /// # Errors
    /// Why what it names can't be meant.
    #[must_use]
    pub fn of(service: &Service) -> Option<Result<Self, CannotExpose>> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() != Some("ExternalName") {
            return None;
        }
        if let Some(name) = annotation(&service.metadata, TAILNET_FQDN) {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let is_full = name.contains('.') && name.split('.').all(|label| dns_label_faults(label).is_empty());
            return Some(if is_full { Ok(Self::Name(name)) } else { Err(CannotExpose::Fqdn(name)) });
        }
        let address = annotation(&service.metadata, TAILNET_IP)?;
        Some(address.parse().map(Self::Address).map_err(|_| CannotExpose::Address(address.to_owned())))
    }

    /// None for an address.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Exposed {
    /// What a Service asks for, if it is [exposed](is_exposed).
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn of_service(service: &Service) -> Result<Self, CannotExpose> {
        let metadata = &service.metadata;
        let (namespace, name) = names(metadata);
        let address = cluster_address(service).ok_or(CannotExpose::NoAddress)?;
        let front = front(address).ok_or(CannotExpose::NoFront(address))?;
        let default = || format!("{namespace}-{name}");
        let hostname = annotation(metadata, HOSTNAME).map_or_else(default, str::to_owned);
        if !dns_label_faults(&hostname).is_empty() {
            return Err(CannotExpose::Hostname(hostname, false));
        }
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports: Vec<Port> = ports.filter_map(|port| Port::of(service, port)).collect();
        if ports.is_empty() {
            return Err(CannotExpose::NoTcpPort);
        }
        Ok(Self {
            owner: Owner::Service(format!("{namespace}/{name}")),
            hostname,
            is_public: false,
            tags: tags(metadata),
            wishes: wishes(&ports, front),
            troubles: BTreeSet::new(),
        })
    }

    /// What an Ingress asks for that is [on the tailnet](is_on_tailnet); `services` has a Service by its key.
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn of_ingress<'s>(
        ingress: &Ingress,
        services: &dyn Fn(&str) -> Option<&'s Service>,
    ) -> Result<Self, CannotExpose> {
        let metadata = &ingress.metadata;
        let (namespace, name) = names(metadata);
        let tls = ingress.spec.as_ref().and_then(|spec| spec.tls.as_ref()?.first()?.hosts.as_ref()?.first());
        let label = tls.map(|host| host.split('.').next().unwrap_or_default().to_owned());
        let hostname = label.unwrap_or_else(|| format!("{namespace}-{name}-ingress"));
        if !dns_label_faults(&hostname).is_empty() {
            return Err(CannotExpose::Hostname(hostname, true));
        }
        let mut handlers = BTreeMap::new();
        let (mut troubles, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let is_its_host =
            |host: &str| Some(host) == tls.map(String::as_str) || host.split('.').next() == Some(&hostname);
        for path in paths(ingress) {
            if let Some(host) = path.host.filter(|host| !is_its_host(host)) {
                troubles.insert(Trouble::OtherHost { host: host.to_owned(), name: hostname.clone() });
                continue;
            }
            let Some(to) = backend(namespace, path.backend, services) else {
                missing.insert(described(path.backend));
                continue;
            };
            if path.is_exact {
                troubles.insert(Trouble::PathIsPrefix { path: path.mount.to_owned() });
            }
            let mount = path.mount.to_owned();
            handlers.entry(mount.clone()).or_insert(Handler::Proxy { to, path: mount });
        }
        if handlers.is_empty() {
            return Err(CannotExpose::NoBackend(missing));
        }
        troubles.extend(missing.into_iter().map(|backend| Trouble::NoSuchBackend { backend }));
        Ok(Self {
            owner: Owner::Ingress(format!("{namespace}/{name}")),
            hostname,
            is_public: annotation(metadata, FUNNEL) == Some("true"),
            tags: tags(metadata),
            wishes: site(metadata, &handlers),
            troubles,
        })
    }

    pub(super) fn service(&self) -> String {
        format!("svc:{}", self.hostname)
    }

    /// Where at fronts it leads to.
    pub fn targets(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.wishes.iter().flat_map(|wish| wish.does.targets())
    }

    /// Whether HTTPS is a part of it.
    pub(super) fn is_secure(&self) -> bool {
        self.wishes.iter().any(|wish| matches!(wish.does, Does::Https(_)))
    }

    /// Those of its tags that a machine doesn't have.
    pub(super) fn missing_tags(&self, node: &TailnetNode) -> BTreeSet<String> {
        self.tags.difference(&node.tags).cloned().collect()
    }

    /// What can be had on this tailnet.
    pub(super) fn entries(&self, node: &TailnetNode) -> Vec<Entry> {
        let entry = |wish: &Wish| {
            let does = if node.has_certificates { Some(&wish.does) } else { wish.without_certificates.as_ref() };
            Some(Entry { port: wish.port, does: does?.clone() })
        };
        self.wishes.iter().filter_map(entry).collect()
    }
}

/// A TCP port of an exposed Service.
struct Port {
    number: u16,
    serves: Serves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serves {
    Bytes,
    Http,
    /// What the daemon takes by HTTPS only: without encryption it speaks no HTTP/2.
    Http2,
}

impl Port {
    /// None for another protocol than TCP.
    fn of(service: &Service, port: &ServicePort) -> Option<Self> {
        if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
            return None;
        }
        let number = u16::try_from(port.port).ok()?;
        let serves = match speaks_at(service, port) {
            Speaks::Http1 => Serves::Http,
            Speaks::FindOut if number == HTTP_PORT => Serves::Http,
            Speaks::Http2 => Serves::Http2,
            Speaks::FindOut | Speaks::Opaque => Serves::Bytes,
        };
        Some(Self { number, serves })
    }

    fn wish(&self, front: Ipv4Addr) -> Wish {
        let to = SocketAddrV4::new(front, self.number);
        let plain = match self.serves {
            Serves::Http => Does::Http(everything(to)),
            Serves::Bytes | Serves::Http2 => Does::Forward(to),
        };
        let is_secure = self.number == HTTPS_PORT && self.serves != Serves::Bytes;
        let does = if is_secure { Does::Https(everything(to)) } else { plain.clone() };
        Wish { port: self.number, does, without_certificates: Some(plain) }
    }
}

fn everything(to: SocketAddrV4) -> Handlers {
    [(ROOT.to_owned(), Handler::Proxy { to, path: ROOT.to_owned() })].into()
}

/// Each port as it is; the first that speaks HTTP with HTTPS beside it, unless there is a port of that number.
fn wishes(ports: &[Port], front: Ipv4Addr) -> Vec<Wish> {
    let mut wishes: Vec<Wish> = ports.iter().map(|port| port.wish(front)).collect();
    let has_its_own = ports.iter().any(|port| port.number == HTTPS_PORT);
    if let Some(http) = ports.iter().find(|port| port.serves != Serves::Bytes).filter(|_| !has_its_own) {
        let does = Does::Https(everything(SocketAddrV4::new(front, http.number)));
        wishes.push(Wish { port: HTTPS_PORT, does, without_certificates: None });
    }
    wishes
}

/// The ports of an Ingress.
fn site(metadata: &ObjectMeta, handlers: &Handlers) -> Vec<Wish> {
    let plain = Does::Http(handlers.clone());
    let mut wishes = Vec::new();
    if annotation(metadata, HTTP_ENDPOINT) == Some("enabled") {
        wishes.push(Wish { port: HTTP_PORT, does: plain.clone(), without_certificates: Some(plain) });
    } else if annotation(metadata, HTTP_REDIRECT) == Some("true") {
        let marked = handlers.values().next().map(|handler| (MARK.to_owned(), handler.clone()));
        let redirecting = marked.into_iter().chain([(ROOT.to_owned(), Handler::ToHttps)]).collect();
        wishes.push(Wish { port: HTTP_PORT, does: Does::Http(redirecting), without_certificates: None });
    }
    wishes.push(Wish { port: HTTPS_PORT, does: Does::Https(handlers.clone()), without_certificates: None });
    wishes
}

/// One path of an Ingress.
struct IngressPath<'i> {
    /// None for any.
    host: Option<&'i str>,
    mount: &'i str,
    is_exact: bool,
    backend: &'i IngressBackend,
}

/// Those of rules come before the default.
fn paths(ingress: &Ingress) -> Vec<IngressPath<'_>> {
    let Some(spec) = &ingress.spec else { return Vec::new() };
    let mut paths = Vec::new();
    for rule in spec.rules.iter().flatten() {
        let host = rule.host.as_deref().filter(|host| !host.is_empty());
        for HTTPIngressPath { path, path_type, backend } in rule.http.iter().flat_map(|http| &http.paths) {
            let mount = path.as_deref().unwrap_or(ROOT);
            paths.push(IngressPath { host, mount, is_exact: path_type == "Exact", backend });
        }
    }
    let default = |backend| IngressPath { host: None, mount: ROOT, is_exact: false, backend };
    paths.extend(spec.default_backend.as_ref().map(default));
    paths
}

/// A backend's port at its Service's front.
fn backend<'s>(
    namespace: &str,
    backend: &IngressBackend,
    services: &dyn Fn(&str) -> Option<&'s Service>,
) -> Option<SocketAddrV4> {
    let wanted = backend.service.as_ref()?;
    let service = services(&format!("{namespace}/{}", wanted.name))?;
    let port = wanted.port.as_ref()?;
    let is_it = |it: &&ServicePort| match port.number {
        Some(number) => it.port == number,
        None => it.name.is_some() && it.name == port.name,
    };
    let ports = service.spec.as_ref()?.ports.iter().flatten();
    let number = Port::of(service, ports.into_iter().find(is_it)?)?.number;
    Some(SocketAddrV4::new(front_of(service)?, number))
}

fn described(backend: &IngressBackend) -> String {
    let Some(service) = &backend.service else { return "backend of another kind than a Service".to_owned() };
    let port = service.port.as_ref();
    let number = port.and_then(|port| port.number).map(|number| number.to_string());
    let port = number.or_else(|| port.and_then(|port| port.name.clone())).unwrap_or_default();
    format!("Service {} with port {port}", service.name)
}

/// Where the tailnet's daemon finds a Service. None for one that has no cluster address, or none with a front.
#[must_use]
pub fn front_of(service: &Service) -> Option<Ipv4Addr> {
    cluster_address(service).and_then(front)
}

fn cluster_address(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

fn tags(metadata: &ObjectMeta) -> BTreeSet<String> {
    let tags = annotation(metadata, TAGS).unwrap_or_default().split(',');
    tags.map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

fn annotation<'m>(metadata: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Namespace and name.
fn names(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

impl Does {
    fn targets(&self) -> Vec<SocketAddrV4> {
        match self {
            Self::Forward(to) => vec![*to],
            Self::Http(handlers) | Self::Https(handlers) => handlers.values().filter_map(Handler::target).collect(),
        }
    }
}

impl Entry {
    pub(super) fn tcp(&self) -> Value {
        match &self.does {
            // The header names the caller, and tells these bytes from requests of which the daemon says who asks.
            Does::Forward(to) => json!({"TCPForward": to.to_string(), "ProxyProtocol": 2}),
            Does::Http(_) => json!({"HTTP": true}),
            Does::Https(_) => json!({"HTTPS": true}),
        }
    }

    /// None for bytes that pass as they are.
    pub(super) fn handlers(&self) -> Option<Value> {
        match &self.does {
            Does::Forward(_) => None,
            Does::Http(handlers) | Does::Https(handlers) => {
                Some(handlers.iter().map(|(mount, handler)| (mount.clone(), handler.written())).collect())
            }
        }
    }
}

impl Handler {
    const fn target(&self) -> Option<SocketAddrV4> {
        match self {
            Self::Proxy { to, .. } => Some(*to),
            Self::ToHttps => None,
        }
    }

    fn written(&self) -> Value {
        match self {
            Self::Proxy { to, path } if path == ROOT => json!({"Proxy": format!("http://{to}")}),
            Self::Proxy { to, path } => json!({"Proxy": format!("http://{to}{path}")}),
            Self::ToHttps => json!({"Redirect": TO_HTTPS}),
        }
    }
}

/// Whether a handler is what [`Handler::ToHttps`] is written as.
pub(super) fn is_to_https(handler: &Value) -> bool {
    *handler == Handler::ToHttps.written()
}
