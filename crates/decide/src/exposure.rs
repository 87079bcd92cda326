//! How is a Service reached on the tailnet? As a Tailscale Service with a name and addresses of its own where the tailnet
//! lets this machine host it, else at ports of the machine's own name. The words are those of Tailscale's Kubernetes
//! operator, so that manifests work on a cluster that runs it.
//!
//! The daemon's serve configuration belongs to the user too and has no place for a mark. What is ours leads to a *front*:
//! an address of the loopback network that is made of a Service's cluster address, at which nobody but Segue's proxy
//! listens. So whoever has only the configuration knows what is ours, also after a crash or a loss of everything else.

mod serve_config;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use objects::metadata::dns_label_faults;
use objects::names::OPAQUE_PORTS;
use objects::ranges::Range;
use serde_json::{Value, json};

use crate::protocol::{Declared, Speaks, speaks};
use serve_config::{Section, Taken, WithoutOurs};

/// The `loadBalancerClass` of Services that are on the tailnet.
pub const CLASS: &str = "tailscale";
const EXPOSE: &str = "tailscale.com/expose";
const HOSTNAME: &str = "tailscale.com/hostname";

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What Tailscale's daemon says of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailnetNode {
    /// Its name, with the tailnet's domain and without a dot at the end.
    pub name: String,
    /// The tailnet's domain.
    pub domain: String,
    pub addresses: Vec<IpAddr>,
    pub is_tagged: bool,
    /// Whether the tailnet's names get certificates.
    pub has_certificates: bool,
    /// The Tailscale Services, such as `svc:web`, that this machine may host, with their addresses.
    pub approved: BTreeMap<String, Vec<IpAddr>>,
}

/// A Service that is to be on the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// `namespace/name`.
    pub key: String,
    pub hostname: String,
    pub front: Ipv4Addr,
    pub ports: Vec<ExposedPort>,
}

/// A TCP port of an exposed Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExposedPort {
    pub number: u16,
    pub is_http: bool,
}

/// Why a Service that is to be on the tailnet can't be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum CannotExpose {
    #[error("it has no cluster address that could be forwarded to: a headless Service, or an ExternalName, has none")]
    NoAddress,
    #[error("it has no TCP port, and Tailscale's daemon forwards no other protocol")]
    NoTcpPort,
    #[error(
        "{0:?} can't be a name on the tailnet: set the annotation tailscale.com/hostname to at most 63 small letters, \
         digits and hyphens"
    )]
    Hostname(String),
}

/// Why a Service is on the tailnet in another way than it might, or not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Only tagged machines host Tailscale Services.
    Untagged { service: String, machine: String },
    /// The tailnet does not let this machine host it, or not yet.
    NotApproved { service: String, machine: String },
    /// Another Service, or an entry of the user's, has the name.
    NameTaken { service: String, by: Option<String> },
    /// Another Service, or an entry of the user's, has a port of the machine's name.
    PortTaken { port: u16, machine: String },
    /// The tailnet gives out no certificates.
    NoCertificates,
}

/// Where a Service is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// None if it is nowhere.
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub troubles: BTreeSet<Trouble>,
}

/// What the daemon should be told, and what it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposure {
    pub serve_config: Value,
    /// All Tailscale Services that this machine is to offer, those of the user's included.
    pub advertise: BTreeSet<String>,
    /// By the key of each exposed Service.
    pub places: BTreeMap<String, Place>,
    /// What comes before all this: the daemon refuses a port that turns from bytes to HTTP, or back, in one step, so it
    /// goes first, with its Service and no other.
    pub first: Option<Box<Exposure>>,
}

/// Something to tell the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// To offer these Tailscale Services and no others.
    Advertise(BTreeSet<String>),
    /// To have this serve configuration.
    Serve(Value),
}

impl Exposure {
    /// What to tell a daemon that has `serve_config` and offers `advertised`, in this order: nobody is led to an entry that
    /// goes, nor to one that is not there yet; and what was offered is known as ours by its entry, until that is gone too.
    /// If something comes [first](Self::first), these are its steps, and the daemon is looked at again after them.
    #[must_use]
    pub fn steps(&self, serve_config: &Value, advertised: &BTreeSet<String>) -> Vec<Step> {
        if let Some(first) = &self.first {
            return first.steps(serve_config, advertised);
        }
        let mut steps = Vec::new();
        let stays: BTreeSet<String> = advertised.intersection(&self.advertise).cloned().collect();
        if stays != *advertised {
            steps.push(Step::Advertise(stays.clone()));
        }
        if *serve_config != self.serve_config {
            steps.push(Step::Serve(self.serve_config.clone()));
        }
        if stays != self.advertise {
            steps.push(Step::Advertise(self.advertise.clone()));
        }
        steps
    }
}

/// The loopback address that stands before a Service with this cluster address.
#[must_use]
pub fn front(cluster_address: Ipv4Addr) -> Ipv4Addr {
    let [_, second, third, fourth] = cluster_address.octets();
    Ipv4Addr::new(127, second, third, fourth)
}

/// The loopback addresses before all Services of this range, which is a /8 at most.
#[must_use]
pub fn fronts(services: Range) -> Range {
    Range::around(front(services.first()), services.length())
}

/// Whether a Service is to be on the tailnet.
#[must_use]
pub fn is_exposed(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let is_balancer = spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref() == Some(CLASS)
    });
    service.metadata.deletion_timestamp.is_none() && (is_balancer || annotation(service, EXPOSE) == Some("true"))
}

impl Exposed {
    /// What a Service asks for, if it is [exposed](is_exposed).
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn of(service: &Service) -> Result<Self, CannotExpose> {
        let (namespace, name) = names(service);
        let spec = service.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse().ok()).ok_or(CannotExpose::NoAddress)?;
        let default = || format!("{namespace}-{name}");
        let hostname = annotation(service, HOSTNAME).map_or_else(default, str::to_owned);
        if !dns_label_faults(&hostname).is_empty() {
            return Err(CannotExpose::Hostname(hostname));
        }
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports: Vec<ExposedPort> = ports.filter_map(|port| exposed_port(service, port)).collect();
        if ports.is_empty() {
            return Err(CannotExpose::NoTcpPort);
        }
        Ok(Self { key: format!("{namespace}/{name}"), hostname, front: front(address), ports })
    }

    fn service(&self) -> String {
        format!("svc:{}", self.hostname)
    }

    /// Ports of the tailnet, each with what it is to do.
    fn entries(&self, node: &TailnetNode) -> Vec<Entry> {
        let to = |number| SocketAddrV4::new(self.front, number);
        let mut entries: Vec<Entry> = Vec::new();
        for port in &self.ports {
            let does = match (port.is_http, port.number) {
                (true, HTTPS_PORT) if node.has_certificates => Does::Https,
                (true, _) => Does::Http,
                (false, _) => Does::Forward,
            };
            entries.push(Entry { port: port.number, does, to: to(port.number) });
        }
        let first_http = self.ports.iter().find(|port| port.is_http).filter(|_| node.has_certificates);
        let has_its_own = self.ports.iter().any(|port| port.number == HTTPS_PORT);
        if let Some(http) = first_http.filter(|_| !has_its_own) {
            entries.push(Entry { port: HTTPS_PORT, does: Does::Https, to: to(http.number) });
        }
        entries
    }
}

/// One port of a name on the tailnet.
#[derive(Clone, Copy, Debug)]
struct Entry {
    port: u16,
    does: Does,
    to: SocketAddrV4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Forward,
    Http,
    Https,
}

/// What the daemon should be told, given what it says of itself and has. `advertised` are all Tailscale Services that it
/// offers; of two exposed Services that want the same, the first in `exposed` has it.
#[must_use]
pub fn expose(
    node: &TailnetNode,
    serve_config: &Value,
    advertised: &BTreeSet<String>,
    exposed: &[Exposed],
    services: Range,
) -> Exposure {
    let fronts = fronts(services);
    let is_ours = |target: &str| target_address(target).is_some_and(|ip| fronts.contains(ip));
    let WithoutOurs { mut config, services: were_ours } = serve_config::without(serve_config, &is_ours);
    let mut advertise: BTreeSet<String> = advertised.difference(&were_ours).cloned().collect();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut places = BTreeMap::new();
    let mut turning: BTreeSet<&str> = BTreeSet::new();
    for wanted in exposed {
        let mut place = Place::default();
        let service = wanted.service();
        let (entries, machine) = (wanted.entries(node), node.name.clone());
        let by = names.get(&service).cloned();
        let mut is_hosted = false;
        if !node.is_tagged {
            place.troubles.insert(Trouble::Untagged { service: service.clone(), machine });
        } else if by.is_some() || Section::of_service(&mut config, &service).is_there() {
            place.troubles.insert(Trouble::NameTaken { service: service.clone(), by });
        } else {
            names.insert(service.clone(), wanted.key.clone());
            advertise.insert(service.clone());
            let name = format!("{}.{}", wanted.hostname, node.domain);
            for entry in &entries {
                // Nothing else is there.
                let _ = Section::of_service(&mut config, &service).add(&name, *entry);
            }
            match node.approved.get(&service) {
                Some(addresses) => {
                    is_hosted = true;
                    (place.name, place.addresses) = (Some(name), addresses.clone());
                }
                None => drop(place.troubles.insert(Trouble::NotApproved { service: service.clone(), machine })),
            }
        }
        if !is_hosted {
            place_on_machine(node, &mut config, &entries, &mut place);
        }
        let turns = |entry: &Entry| {
            [None, Some(service.as_str())]
                .into_iter()
                .any(|section| serve_config::turns(serve_config, &config, section, &entry.port.to_string()))
        };
        if entries.iter().any(turns) {
            turning.insert(&wanted.key);
        }
        if wanted.ports.iter().any(|port| port.is_http) && !node.has_certificates {
            place.troubles.insert(Trouble::NoCertificates);
        }
        places.insert(wanted.key.clone(), place);
    }
    let first = (!turning.is_empty()).then(|| {
        let others: Vec<Exposed> =
            exposed.iter().filter(|wanted| !turning.contains(wanted.key.as_str())).cloned().collect();
        Box::new(expose(node, serve_config, advertised, &others, services))
    });
    Exposure { serve_config: config, advertise, places, first }
}

fn place_on_machine(node: &TailnetNode, config: &mut Value, entries: &[Entry], place: &mut Place) {
    for entry in entries {
        match Section::of_machine(config).add(&node.name, *entry) {
            Ok(()) => (place.name, place.addresses) = (Some(node.name.clone()), node.addresses.clone()),
            Err(Taken) => {
                let trouble = Trouble::PortTaken { port: entry.port, machine: node.name.clone() };
                place.troubles.insert(trouble);
            }
        }
    }
}

fn exposed_port(service: &Service, port: &ServicePort) -> Option<ExposedPort> {
    if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
        return None;
    }
    let number = u16::try_from(port.port).ok()?;
    let declared = Declared {
        app_protocol: port.app_protocol.as_deref(),
        name: port.name.as_deref().unwrap_or_default(),
        port: number,
        opaque_ports: annotation(service, OPAQUE_PORTS).unwrap_or_default(),
    };
    let is_http = match speaks(&declared) {
        Speaks::Http1 | Speaks::Http2 => true,
        Speaks::FindOut => number == HTTP_PORT,
        Speaks::Opaque => false,
    };
    Some(ExposedPort { number, is_http })
}

/// Of `127.45.0.7:80` or `http://127.45.0.7:80`, also with a path.
fn target_address(target: &str) -> Option<Ipv4Addr> {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    authority.split(':').next()?.parse().ok().filter(|ip: &Ipv4Addr| *ip != Ipv4Addr::LOCALHOST)
}

fn annotation<'s>(service: &'s Service, name: &str) -> Option<&'s str> {
    service.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Namespace and name.
fn names(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

impl Entry {
    fn tcp(self) -> Value {
        match self.does {
            // The header names the caller, and tells these bytes from requests of which the daemon says who asks.
            Does::Forward => json!({"TCPForward": self.to.to_string(), "ProxyProtocol": 2}),
            Does::Http => json!({"HTTP": true}),
            Does::Https => json!({"HTTPS": true}),
        }
    }

    /// None for bytes that pass as they are.
    fn web(self) -> Option<Value> {
        (self.does != Does::Forward).then(|| json!({"Proxy": format!("http://{}", self.to)}))
    }
}

impl Trouble {
    /// In one word, for an event's or a condition's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Untagged { .. } => "NodeIsUntagged",
            Self::NotApproved { .. } => "HostNotApproved",
            Self::NameTaken { .. } => "NameTaken",
            Self::PortTaken { .. } => "PortTaken",
            Self::NoCertificates => "NoCertificates",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged { service, machine } => write!(
                f,
                "{machine} has no tag, and only tagged machines may host {service}: it is reached at ports of {machine}. \
                 For a name of its own, an administrator gives the machine a tag: tailscale up --advertise-tags=tag:segue"
            ),
            Self::NotApproved { service, machine } => write!(
                f,
                "the tailnet does not let {machine} host {service}, or not yet: it is reached at ports of {machine}. For a \
                 name of its own, an administrator defines {service} under Services in Tailscale's admin console and \
                 approves {machine} there, or names its tag under autoApprovers.services in the tailnet policy"
            ),
            Self::NameTaken { service, by: Some(other) } => {
                write!(f, "Service {other} is {service} already: set another name in tailscale.com/hostname")
            }
            Self::NameTaken { service, by: None } => write!(
                f,
                "the machine's serve configuration has another {service}: set another name in tailscale.com/hostname, or \
                 take that away with tailscale serve clear {service}"
            ),
            Self::PortTaken { port, machine } => write!(
                f,
                "port {port} of {machine} leads elsewhere already: give the Service another port, or take that away; \
                 tailscale serve status shows it"
            ),
            Self::NoCertificates => f.write_str(
                "there is no HTTPS, since the tailnet gives out no certificates: an administrator enables them under DNS, \
                 HTTPS Certificates, in Tailscale's admin console",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
