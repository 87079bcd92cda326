//! How is a Service or an Ingress reached on the tailnet? As a Tailscale Service with a name and addresses of its own where
//! the tailnet lets this machine host it, else at ports of the machine's own name. The words are those of Tailscale's Kubernetes
//! operator, so that manifests work on a cluster that runs it.
//!
//! The daemon's serve configuration belongs to the user too and has no place for a mark. What is ours leads to a *front*:
//! an address of the loopback network that is made of a Service's cluster address, at which nobody but Segue's proxy
//! listens. So whoever has only the configuration knows what is ours, also after a crash or a loss of everything else.

mod serve_config;
mod trouble;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use objects::ranges::Range;
use serde_json::Value;

use serve_config::{Section, Taken, WithoutOurs};
pub use trouble::Trouble;
pub use wanted::{CLASS, CannotExpose, Exposed, Target, backends, front_of, is_exposed, is_on_tailnet};
use wanted::{Entry, HTTPS_PORT};

/// What Tailscale's daemon says of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailnetNode {
    /// Its name, with the tailnet's domain and without a dot at the end.
    pub name: String,
    /// The tailnet's domain.
    pub domain: String,
    pub addresses: Vec<IpAddr>,
    /// Such as `tag:segue`.
    pub tags: BTreeSet<String>,
    /// Whether the tailnet's names get certificates.
    pub has_certificates: bool,
    /// Whether the tailnet lets it be reached from the whole Internet.
    pub may_funnel: bool,
    /// The Tailscale Services, such as `svc:web`, that this machine may host, with their addresses.
    pub approved: BTreeMap<String, Vec<IpAddr>>,
}

/// What is on the tailnet, by its key, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Service(String),
    Ingress(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::Ingress(key) => write!(f, "Ingress {key}"),
        }
    }
}

/// Where something is reached.
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
    pub places: BTreeMap<Owner, Place>,
    /// What comes before all this: the daemon refuses a port that turns from bytes to HTTP, or back, in one step, so it
    /// goes first, with its Service and no other.
    pub first: Option<Box<Exposure>>,
}

/// Something to tell the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Not to offer these Tailscale Services any more.
    Withdraw(BTreeSet<String>),
    /// To have this serve configuration.
    Serve(Value),
    /// To offer these Tailscale Services too.
    Offer(BTreeSet<String>),
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
        let withdrawn: BTreeSet<String> = advertised.difference(&self.advertise).cloned().collect();
        let offered: BTreeSet<String> = self.advertise.difference(advertised).cloned().collect();
        let serve = (*serve_config != self.serve_config).then(|| Step::Serve(self.serve_config.clone()));
        let withdraw = (!withdrawn.is_empty()).then_some(Step::Withdraw(withdrawn));
        let offer = (!offered.is_empty()).then_some(Step::Offer(offered));
        withdraw.into_iter().chain(serve).chain(offer).collect()
    }
}

impl Step {
    /// What is to be offered after this step; None if it is not about that.
    #[must_use]
    pub fn advertised(&self, before: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        match self {
            Self::Withdraw(services) => Some(before - services),
            Self::Offer(services) => Some(before | services),
            Self::Serve(_) => None,
        }
    }
}

/// The loopback address that stands before a Service with this cluster address. None where it would be one of 127.0.0.0/16,
/// whose addresses others use.
#[must_use]
pub fn front(cluster_address: Ipv4Addr) -> Option<Ipv4Addr> {
    let [_, second, third, fourth] = cluster_address.octets();
    (second != 0).then(|| Ipv4Addr::new(127, second, third, fourth))
}

/// The loopback addresses before all Services of this range, which is a /8 at most.
#[must_use]
pub fn fronts(services: Range) -> Range {
    let [_, second, third, fourth] = services.first().octets();
    Range::around(Ipv4Addr::new(127, second, third, fourth), services.length())
}

/// Whether an address is before a Service, given [all that are](fronts).
#[must_use]
pub fn is_front(fronts: Range, ip: Ipv4Addr) -> bool {
    fronts.contains(ip) && ip.octets()[1] != 0
}

/// What the daemon should be told, given what it says of itself and has. `advertised` are all Tailscale Services that it
/// offers; of two that want the same, the first in `exposed` has it.
#[must_use]
pub fn expose(
    node: &TailnetNode,
    serve_config: &Value,
    advertised: &BTreeSet<String>,
    exposed: &[Exposed],
    services: Range,
) -> Exposure {
    let fronts = fronts(services);
    let is_ours = |target: &str| target_address(target).is_some_and(|ip| is_front(fronts, ip));
    let WithoutOurs { config, services: were_ours } = serve_config::without(serve_config, &is_ours);
    let advertise = advertised.difference(&were_ours).cloned().collect();
    let mut exposing = Exposing { node, config, advertise, names: BTreeMap::new(), added: BTreeMap::new() };
    let places: BTreeMap<Owner, Place> =
        exposed.iter().map(|wanted| (wanted.owner.clone(), exposing.place(wanted))).collect();
    let Exposing { config, advertise, added, .. } = exposing;
    let turns = |wanted: &Exposed| {
        let mut added = added.get(&wanted.owner).into_iter().flatten();
        added.any(|(section, port)| serve_config::turns(serve_config, &config, section.as_deref(), &port.to_string()))
    };
    let (turning, others): (Vec<Exposed>, Vec<Exposed>) = exposed.iter().cloned().partition(turns);
    let first = (!turning.is_empty()).then(|| Box::new(expose(node, serve_config, advertised, &others, services)));
    Exposure { serve_config: config, advertise, places, first }
}

/// What the daemon should be told, in the making.
struct Exposing<'a> {
    node: &'a TailnetNode,
    config: Value,
    advertise: BTreeSet<String>,
    /// Tailscale Services that are given to somebody.
    names: BTreeMap<String, Owner>,
    /// Ports that are given to somebody: of a Tailscale Service, else of the machine.
    added: BTreeMap<Owner, Vec<(Option<String>, u16)>>,
}

impl Exposing<'_> {
    fn place(&mut self, wanted: &Exposed) -> Place {
        let mut place = Place { troubles: wanted.troubles.clone(), ..Place::default() };
        let node = self.node;
        let entries = wanted.entries(node);
        let (service, machine) = (wanted.service(), node.name.clone());
        if wanted.is_public {
            // Tailscale Services are for the tailnet alone.
            self.place_on_machine(wanted, &entries, &mut place);
            if !node.may_funnel {
                place.troubles.insert(Trouble::NoFunnel { machine });
            } else if self.has_added(&wanted.owner, HTTPS_PORT) {
                Section::of_machine(&mut self.config).funnel(&node.name, HTTPS_PORT);
            }
        } else if let Err(trouble) = self.host(&service, wanted, &entries, &mut place) {
            place.troubles.insert(trouble);
            self.place_on_machine(wanted, &entries, &mut place);
        }
        if wanted.is_secure() && !node.has_certificates {
            place.troubles.insert(Trouble::NoCertificates);
        }
        let tags = wanted.missing_tags(node);
        if !tags.is_empty() {
            place.troubles.insert(Trouble::OtherTags { tags, machine: node.name.clone() });
        }
        place
    }

    /// Offers a Tailscale Service, and says where it is if the tailnet lets this machine host it.
    fn host(&mut self, service: &str, wanted: &Exposed, entries: &[Entry], place: &mut Place) -> Result<(), Trouble> {
        let (owned, machine) = (service.to_owned(), self.node.name.clone());
        if self.node.tags.is_empty() {
            return Err(Trouble::Untagged { service: owned, machine });
        }
        let by = self.names.get(service).cloned();
        if by.is_some() || Section::of_service(&mut self.config, service).is_there() {
            return Err(Trouble::NameTaken { service: owned, by });
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.names.insert(owned.clone(), wanted.owner.clone());
        self.advertise.insert(owned.clone());
        let name = format!("{}.{}", wanted.hostname, self.node.domain);
        for entry in entries {
            // Nothing else is there.
            if Section::of_service(&mut self.config, service).add(&name, entry).is_ok() {
                self.note(&wanted.owner, Some(owned.clone()), entry);
            }
        }
        let addresses = self.node.approved.get(service).ok_or(Trouble::NotApproved { service: owned, machine })?;
        (place.name, place.addresses) = (Some(name), addresses.clone());
        Ok(())
    }

    fn place_on_machine(&mut self, wanted: &Exposed, entries: &[Entry], place: &mut Place) {
        let TailnetNode { name, addresses, .. } = self.node;
        for entry in entries {
            let (port, machine) = (entry.port, name.clone());
            match Section::of_machine(&mut self.config).add(name, entry) {
                Ok(()) => {
                    self.note(&wanted.owner, None, entry);
                    (place.name, place.addresses) = (Some(machine), addresses.clone());
                }
                Err(Taken::Served) => drop(place.troubles.insert(Trouble::PortTaken { port, machine })),
                Err(Taken::Public) => drop(place.troubles.insert(Trouble::PortIsPublic { port, machine })),
            }
        }
    }

    fn note(&mut self, owner: &Owner, section: Option<String>, entry: &Entry) {
        self.added.entry(owner.clone()).or_default().push((section, entry.port));
    }

    fn has_added(&self, owner: &Owner, port: u16) -> bool {
        self.added.get(owner).is_some_and(|added| added.iter().any(|(_, number)| *number == port))
    }
}

/// Of `127.45.0.7:80` or `http://127.45.0.7:80`, also with a path.
fn target_address(target: &str) -> Option<Ipv4Addr> {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    authority.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests;
