//! What DNS is to know of a Service, as Kubernetes names it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use decide::balancing::EndpointState;
use decide::exposure::Target;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Routes, Snapshot, is_ready_endpoint};
use crate::config::{Alias, Host, NamedPort};

/// Services that stand for something outside. One that stands for a name which the tailnet doesn't have is left out.
pub(super) fn aliases(snapshot: &Snapshot) -> Vec<Alias> {
    let alias = |service: &Service| {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("ExternalName"))?;
        let (target, addresses) = match Target::of(service) {
            None => (spec.external_name.clone()?, Vec::new()),
            Some(target) => match target.ok()? {
                Target::Address(ip) => (ip.to_string(), vec![ip]),
                Target::Name(name) => {
                    let addresses = snapshot.peers.get(&name)?.clone();
                    (name, addresses)
                }
            },
        };
        let metadata = &service.metadata;
        Some(Alias { namespace: metadata.namespace.clone()?, name: metadata.name.clone()?, target, addresses })
    };
    snapshot.services.values().filter_map(|service| alias(service)).collect()
}

impl Routes<'_> {
    /// The addresses that a headless Service's name stands for.
    pub(super) fn named_addresses(&self) -> Vec<IpAddr> {
        let all: BTreeSet<IpAddr> = self.slices.iter().flat_map(|slice| self.named(slice)).map(|(ip, _)| ip).collect();
        all.into_iter().collect()
    }

    pub(super) fn hosts(&self) -> Vec<Host> {
        let named = self.slices.iter().flat_map(|slice| self.named(slice));
        let hosts = named.filter_map(|(ip, endpoint)| {
            let hostname = endpoint.hostname.clone().filter(|hostname| !hostname.is_empty())?;
            Some(Host { hostname, ip })
        });
        hosts.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The ports of a Service that has an address are its own; those of a headless one are its endpoints'.
    pub(super) fn named_ports(&self) -> Vec<NamedPort> {
        let mut ports: BTreeMap<(String, String, u16), BTreeSet<IpAddr>> = BTreeMap::new();
        if self.addresses().is_empty() {
            for slice in self.slices {
                let endpoints: BTreeSet<IpAddr> = self.named(slice).map(|(ip, _)| ip).collect();
                let of_slice = slice.ports.iter().flatten();
                let keys = of_slice.filter_map(|it| port_key(it.name.as_deref(), it.protocol.as_deref(), it.port?));
                keys.for_each(|key| ports.entry(key).or_default().extend(&endpoints));
            }
        } else {
            let of_service = self.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let keys = of_service.filter_map(|it| port_key(it.name.as_deref(), it.protocol.as_deref(), it.port));
            ports.extend(keys.map(|key| (key, BTreeSet::new())));
        }
        let named = ports.into_iter().map(|((name, protocol, port), endpoints)| {
            let endpoints = endpoints.into_iter().collect();
            NamedPort { name, protocol, port, endpoints }
        });
        named.collect()
    }

    /// Endpoints that clients are told of: those that are ready, and where all are to be published, as Kubernetes has
    /// it, those that are going away as well, which get no new work from the data plane.
    fn named<'s>(&'s self, slice: &'s EndpointSlice) -> impl Iterator<Item = (IpAddr, &'s Endpoint)> {
        slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let is_named = match self.usable_endpoint(endpoint) {
                Some(usable) if usable.state == EndpointState::Ready => true,
                Some(_) | None => self.publishes_all() && is_ready_endpoint(endpoint),
            };
            let ip = endpoint.addresses.first()?.parse().ok()?;
            is_named.then_some((ip, endpoint))
        })
    }
}

/// None for a port without a name: nobody looks it up.
fn port_key(name: Option<&str>, protocol: Option<&str>, port: i32) -> Option<(String, String, u16)> {
    let name = name.filter(|name| !name.is_empty())?;
    Some((name.to_owned(), protocol.unwrap_or("TCP").to_ascii_lowercase(), u16::try_from(port).ok()?))
}
