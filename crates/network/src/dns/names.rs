//! The names that a configuration gives, as the Kubernetes DNS specification has them, with what each stands for. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData};
use objects::ranges::Range;

use super::answer::TIME_TO_LIVE;
use crate::config::{Alias, DataPlaneConfig, Dns, NamedPort, Service};

/// Every target of a name is as good as any other.
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;
/// Labels of `in-addr.arpa.`.
const REVERSE_LABELS: usize = 2;

/// Every name of a configuration. `Name` compares without regard to case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) dns: Dns,
    domain: Name,
    records: HashMap<Name, Vec<RData>>,
    /// Names that exist because there are names below them.
    above: HashSet<Name>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known<'a> {
    Records(&'a [RData]),
    /// The name exists and stands for nothing.
    Empty,
    NoSuchName,
}

impl Names {
    pub(crate) fn new(config: &DataPlaneConfig) -> Self {
        let domain = name(&config.dns.domain).unwrap_or_default();
        let mut names = Self { dns: config.dns.clone(), domain, ..Self::default() };
        if let Some(soa) = start_of_authority(&names.domain) {
            names.add(names.domain.clone(), soa);
        }
        names.above.extend(below("svc", &names.domain));
        for service in &config.services {
            names.add_service(service);
        }
        for alias in &config.aliases {
            names.add_alias(alias);
        }
        names
    }

    /// What `name` stands for here; another name server may know a name outside our zones.
    pub(super) fn find(&self, name: &Name) -> Known<'_> {
        match self.records.get(name) {
            Some(records) => Known::Records(records),
            None if self.above.contains(name) => Known::Empty,
            None => Known::NoSuchName,
        }
    }

    /// The zone of ours that `name` is in: the domain, or the addresses of pods and Services.
    pub(super) fn zone_of(&self, name: &Name) -> Option<Name> {
        if self.domain.zone_of(name) {
            return Some(self.domain.clone());
        }
        let network = name.parse_arpa_name().ok()?;
        let IpAddr::V4(address) = network.addr() else { return None };
        let range = self.dns.ranges.iter().find(|range| range.offset_of(address).is_some())?;
        (network.prefix_len() >= range.length()).then(|| reverse_zone(*range, address))
    }

    fn add_service(&mut self, service: &Service) {
        let Some(namespace) = self.add_namespace(&service.namespace) else { return };
        let Some(own) = Own::of(service, &namespace) else { return };
        self.add_all(&own.name, service.answers.iter().map(|ip| RData::from(*ip)));
        let named_endpoints: Vec<IpAddr> = if service.is_headless() {
            service.answers.clone()
        } else {
            for ip in &service.answers {
                self.add(Name::from(*ip), RData::PTR(PTR(own.name.clone())));
            }
            own.hostnames.keys().copied().collect()
        };
        for ip in named_endpoints {
            if let Some(endpoint) = own.endpoint(ip) {
                self.add(Name::from(ip), RData::PTR(PTR(endpoint.clone())));
                self.add(endpoint, RData::from(ip));
            }
        }
        for port in &service.named_ports {
            self.add_port(service, port, &own);
        }
    }

    fn add_port(&mut self, service: &Service, port: &NamedPort, own: &Own<'_>) {
        let protocol = below(&format!("_{}", port.protocol), &own.name);
        let Some(name) = protocol.and_then(|protocol| below(&format!("_{}", port.name), &protocol)) else { return };
        let targets: BTreeSet<Name> = if service.is_headless() {
            port.endpoints.iter().filter_map(|ip| own.endpoint(*ip)).collect()
        } else {
            BTreeSet::from([own.name.clone()])
        };
        let record = |target| RData::SRV(SRV::new(PRIORITY, WEIGHT, port.port, target));
        self.add_all(&name, targets.into_iter().map(record));
    }

    fn add_alias(&mut self, alias: &Alias) {
        let Some(namespace) = self.add_namespace(&alias.namespace) else { return };
        let Some(own) = below(&alias.name, &namespace) else { return };
        if !alias.addresses.is_empty() {
            self.add_all(&own, alias.addresses.iter().map(|ip| RData::from(*ip)));
        } else if let Some(target) = name(&alias.target) {
            self.add(own, RData::CNAME(CNAME(target)));
        }
    }

    fn add_namespace(&mut self, namespace: &str) -> Option<Name> {
        let name = below(namespace, &below("svc", &self.domain)?)?;
        self.above.insert(name.clone());
        Some(name)
    }

    fn add_all(&mut self, name: &Name, all: impl Iterator<Item = RData>) {
        for data in all {
            self.add(name.clone(), data);
        }
    }

    fn add(&mut self, name: Name, data: RData) {
        let zone = self.zone_of(&name);
        let mut above = name.base_name();
        while zone.as_ref().is_some_and(|zone| zone.zone_of(&above)) && self.above.insert(above.clone()) {
            above = above.base_name();
        }
        self.records.entry(name).or_default().push(data);
    }
}

/// The name of a Service, and the names below it.
struct Own<'a> {
    name: Name,
    hostnames: BTreeMap<IpAddr, &'a str>,
}

impl<'a> Own<'a> {
    fn of(service: &'a Service, namespace: &Name) -> Option<Self> {
        let hostnames = service.hosts.iter().map(|host| (host.ip, host.hostname.as_str())).collect();
        Some(Self { name: below(&service.name, namespace)?, hostnames })
    }

    /// An endpoint is called by its hostname, or else by its address.
    fn endpoint(&self, ip: IpAddr) -> Option<Name> {
        match self.hostnames.get(&ip) {
            Some(hostname) => below(hostname, &self.name),
            None => below(&ip.to_string().replace(['.', ':'], "-"), &self.name),
        }
    }
}

/// What may be kept of a zone, also that it lacks a name.
pub(super) fn start_of_authority(zone: &Name) -> Option<RData> {
    let server = below("ns", &below("dns", zone)?)?;
    let contact = below("hostmaster", zone)?;
    Some(RData::SOA(SOA::new(server, contact, 1, 7200, 1800, 86_400, TIME_TO_LIVE)))
}

/// The part of a range, cut at whole bytes as reverse names are, that an address is in.
fn reverse_zone(range: Range, address: Ipv4Addr) -> Name {
    Name::from(address).trim_to(REVERSE_LABELS + usize::from(range.length().div_ceil(8)))
}

fn below(label: &str, name: &Name) -> Option<Name> {
    name.prepend_label(label.as_bytes()).ok()
}

/// A fully qualified name.
fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
#[path = "names_tests.rs"]
pub(in crate::dns) mod tests;
