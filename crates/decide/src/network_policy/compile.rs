//! From policies as users write them, by labels and names, to addresses and numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use objects::pods::is_finished;
use objects::ranges::{Cidr, Range};
use objects::selector::matches;

use super::{AddressSet, Allowed, Policies, Ports, Protocol};
use crate::endpoints::named_port;
use crate::owners;

/// What all policies together allow. Every kind may be older than the others: a pod without an address is left out
/// until it has one, and a namespace that is not known yet matches no selector.
#[must_use]
pub fn compile<'a>(
    policies: impl IntoIterator<Item = &'a NetworkPolicy>,
    pods: impl IntoIterator<Item = &'a Pod>,
    namespaces: impl IntoIterator<Item = &'a Namespace>,
) -> Policies {
    let mut policies = policies.into_iter().peekable();
    if policies.peek().is_none() {
        return Policies::default();
    }
    let known = Known::new(pods, namespaces);
    let mut isolated = [Vec::new(), Vec::new()];
    let (mut ingress, mut egress) = (BTreeSet::new(), BTreeSet::new());
    for policy in policies {
        let Some(spec) = &policy.spec else { continue };
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let selected = known.pods_of(namespace, spec.pod_selector.as_ref());
        if is_about(spec, "Ingress") {
            isolated[0].extend(selected.ranges());
            for rule in spec.ingress.iter().flatten() {
                let from = known.peers(namespace, rule.from.as_deref());
                ingress.extend(known.allowed(&from, &selected, rule.ports.as_deref()));
            }
        }
        if is_about(spec, "Egress") {
            isolated[1].extend(selected.ranges());
            for rule in spec.egress.iter().flatten() {
                let to = known.peers(namespace, rule.to.as_deref());
                egress.extend(known.allowed(&selected, &to, rule.ports.as_deref()));
            }
        }
    }
    let [ingress_isolated, egress_isolated] = isolated.map(AddressSet::from_iter);
    let (ingress, egress) = (ingress.into_iter().collect(), egress.into_iter().collect());
    Policies { ingress_isolated, egress_isolated, ingress, egress }
}

/// A policy that doesn't say is about what comes in, and about what goes out if it has rules for it.
fn is_about(spec: &NetworkPolicySpec, direction: &str) -> bool {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match types {
        [] => direction == "Ingress" || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        given => given.iter().any(|one| one == direction),
    }
}

/// Pods and namespaces, as far as policies ask about them.
struct Known<'a> {
    /// By namespace.
    pods: BTreeMap<&'a str, Vec<Reachable<'a>>>,
    namespaces: BTreeMap<&'a str, &'a BTreeMap<String, String>>,
}

/// A pod with an address of its own. One that is going away has it until it is gone.
struct Reachable<'a> {
    address: Ipv4Addr,
    pod: &'a Pod,
}

impl<'a> Known<'a> {
    fn new(pods: impl IntoIterator<Item = &'a Pod>, namespaces: impl IntoIterator<Item = &'a Namespace>) -> Self {
        let mut known = Self { pods: BTreeMap::new(), namespaces: BTreeMap::new() };
        for pod in pods {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if let Some(address) = own_address(pod) {
                known.pods.entry(namespace).or_default().push(Reachable { address, pod });
            }
        }
        for namespace in namespaces {
            let name = namespace.metadata.name.as_deref().unwrap_or_default();
            known.namespaces.insert(name, owners::labels(&namespace.metadata));
        }
        known
    }

    /// Pods of a namespace; all of them if there is no selector.
    fn pods_of(&self, namespace: &str, selector: Option<&LabelSelector>) -> AddressSet {
        let pods = self.pods.get(namespace).into_iter().flatten();
        let is_it = |pod: &Pod| selector.is_none_or(|selector| matches(selector, owners::labels(&pod.metadata)));
        pods.filter(|reachable| is_it(reachable.pod)).map(|reachable| reachable.address).collect()
    }

    /// A rule that names nobody is about everybody. One that names only what isn't there is about nobody.
    fn peers(&self, namespace: &str, peers: Option<&[NetworkPolicyPeer]>) -> AddressSet {
        match peers.unwrap_or_default() {
            [] => AddressSet::everything(),
            named => named.iter().flat_map(|peer| self.peer(namespace, peer).ranges().collect::<Vec<_>>()).collect(),
        }
    }

    fn peer(&self, namespace: &str, peer: &NetworkPolicyPeer) -> AddressSet {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (Some(ip_block), _, _) => block(ip_block),
            (None, Some(namespaces), pods) => {
                let of_them = self.namespaces.iter().filter(|(_, labels)| matches(namespaces, labels));
                let pods = of_them.map(|(name, _)| self.pods_of(name, pods.as_ref()));
                pods.flat_map(|some| some.ranges().collect::<Vec<_>>()).collect()
            }
            (None, None, Some(pods)) => self.pods_of(namespace, Some(pods)),
            (None, None, None) => AddressSet::default(),
        }
    }

    /// What a rule allows. A port's name is another number in another pod, so it may take several to say it.
    fn allowed(&self, from: &AddressSet, to: &AddressSet, ports: Option<&[NetworkPolicyPort]>) -> Vec<Allowed> {
        let given = ports.unwrap_or_default();
        let mut by_place: BTreeMap<AddressSet, Vec<Ports>> = BTreeMap::new();
        if given.is_empty() {
            by_place.insert(to.clone(), Vec::new());
        }
        for (ports, at) in given.iter().flat_map(|port| self.places(port, to)) {
            by_place.entry(at).or_default().push(ports);
        }
        let by_place = by_place.into_iter().filter(|(to, _)| !to.is_empty() && !from.is_empty());
        by_place.map(|(to, ports)| Allowed { from: from.clone(), to, ports: joined(ports) }).collect()
    }

    /// Where a rule's port is, as numbers.
    fn places(&self, port: &NetworkPolicyPort, to: &AddressSet) -> Vec<(Ports, AddressSet)> {
        let given = port.protocol.as_deref().unwrap_or("TCP");
        let Some(protocol) = protocol(given) else { return Vec::new() };
        match &port.port {
            None => vec![(Ports { protocol, from: 0, to: u16::MAX }, to.clone())],
            Some(IntOrString::Int(first)) => {
                let (first, last) = (u16::try_from(*first), u16::try_from(port.end_port.unwrap_or(*first)));
                let numbers = first.into_iter().zip(last);
                numbers.map(|(from, last)| (Ports { protocol, from, to: last }, to.clone())).collect()
            }
            Some(IntOrString::String(name)) => {
                let mut numbers: BTreeMap<u16, Vec<Ipv4Addr>> = BTreeMap::new();
                for Reachable { address, pod } in self.pods.values().flatten().filter(|it| to.contains(it.address)) {
                    if let Some(number) = named_port(pod, name, given).and_then(|number| u16::try_from(number).ok()) {
                        numbers.entry(number).or_default().push(*address);
                    }
                }
                let places = numbers.into_iter();
                places
                    .map(|(number, at)| (Ports { protocol, from: number, to: number }, at.into_iter().collect()))
                    .collect()
            }
        }
    }
}

/// Pods that use the machine's address are the machine to everybody else.
fn own_address(pod: &Pod) -> Option<Ipv4Addr> {
    let uses_the_machines = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let status = pod.status.as_ref().filter(|_| !uses_the_machines && !is_finished(pod))?;
    status.pod_ip.as_deref()?.parse().ok()
}

fn block(block: &IPBlock) -> AddressSet {
    let range = |text: &String| text.parse::<Cidr>().ok()?.range();
    let except: Vec<Range> = block.except.iter().flatten().filter_map(range).collect();
    let whole: AddressSet = range(&block.cidr).into_iter().collect();
    whole.without(&except.into_iter().collect())
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The same ports in order, with those that touch in one.
fn joined(mut ports: Vec<Ports>) -> Vec<Ports> {
    ports.retain(|ports| ports.from <= ports.to);
    ports.sort_unstable();
    let mut joined: Vec<Ports> = Vec::with_capacity(ports.len());
    for ports in ports {
        match joined.last_mut() {
            Some(last) if last.protocol == ports.protocol && ports.from <= last.to.saturating_add(1) => {
                last.to = last.to.max(ports.to);
            }
            Some(_) | None => joined.push(ports),
        }
    }
    joined
}
