//! Who may reach whom, as NetworkPolicies have it: a pod that some policy selects for a direction is isolated in it,
//! and then only what a rule allows passes. Pods have IPv4 addresses only, so blocks of IPv6 addresses mean nothing here.

mod addresses;
mod compile;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use addresses::AddressSet;
pub use compile::compile;

/// All policies together, by address. If it is older than the pods are, what came since is not isolated and no rule
/// is about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Pods that only those may reach whom a rule of `ingress` allows to.
    pub ingress_isolated: AddressSet,
    /// Pods that may reach only those whom a rule of `egress` allows them to.
    pub egress_isolated: AddressSet,
    pub ingress: Vec<Allowed>,
    pub egress: Vec<Allowed>,
}

/// One thing that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allowed {
    pub from: AddressSet,
    pub to: AddressSet,
    /// Ports of `to`: sorted and disjoint. None stands for every port of every protocol, also of those without ports.
    pub ports: Vec<Ports>,
}

/// Ports in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ports {
    pub protocol: Protocol,
    /// The first of them. A whole protocol is 0 to 65535.
    pub from: u16,
    /// The last of them.
    pub to: u16,
}

/// What policies tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A connection, or the first packet of something like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub from: IpAddr,
    /// The pod itself, not a Service in front of it.
    pub to: IpAddr,
    pub protocol: Protocol,
    /// The pod's port.
    pub port: u16,
}

/// What one client may reach: quicker to ask for many pods than all policies are.
#[derive(Clone, Debug)]
pub struct Reach<'p> {
    policies: &'p Policies,
    from: IpAddr,
    /// Rules about this client.
    ingress: Vec<&'p Allowed>,
    /// None if it isn't isolated.
    egress: Option<Vec<&'p Allowed>>,
}

impl Policies {
    /// Whether this may pass. A pod always reaches itself. IPv4 addresses in IPv6's form are what they stand for.
    #[must_use]
    pub fn allows(&self, flow: &Flow) -> bool {
        self.reach(flow.from).allows(flow.to, flow.protocol, flow.port)
    }

    /// What `from` may reach.
    #[must_use]
    pub fn reach(&self, from: IpAddr) -> Reach<'_> {
        let from = from.to_canonical();
        let egress = self.isolates_sender(from).then(|| about(&self.egress, from));
        Reach { policies: self, from, ingress: about(&self.ingress, from), egress }
    }

    /// Whether only what a rule allows may go out from there.
    #[must_use]
    pub fn isolates_sender(&self, from: IpAddr) -> bool {
        holds(&self.egress_isolated, from.to_canonical())
    }

    /// Whether only what a rule allows may come in there.
    #[must_use]
    pub fn isolates_receiver(&self, to: IpAddr) -> bool {
        holds(&self.ingress_isolated, to.to_canonical())
    }

    /// Whether everything is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ingress_isolated.is_empty() && self.egress_isolated.is_empty()
    }
}

impl Reach<'_> {
    /// Whether a pod's port is within reach.
    #[must_use]
    pub fn allows(&self, to: IpAddr, protocol: Protocol, port: u16) -> bool {
        let to = to.to_canonical();
        let is_allowed = |rules: &[&Allowed]| rules.iter().any(|rule| rule.leads_to(to, protocol, port));
        let may_come = || !self.policies.isolates_receiver(to) || is_allowed(&self.ingress);
        let may_go = || self.egress.as_deref().is_none_or(is_allowed);
        self.from == to || (may_come() && may_go())
    }
}

impl Allowed {
    fn leads_to(&self, to: IpAddr, protocol: Protocol, port: u16) -> bool {
        let is_it = |ports: &Ports| ports.protocol == protocol && (ports.from..=ports.to).contains(&port);
        (self.ports.is_empty() || self.ports.iter().any(is_it)) && holds(&self.to, to)
    }
}

/// Rules about what goes out from there.
fn about(rules: &[Allowed], from: IpAddr) -> Vec<&Allowed> {
    rules.iter().filter(|rule| holds(&rule.from, from)).collect()
}

/// Whether an address is in a set; one of IPv6 is in that of all addresses.
fn holds(set: &AddressSet, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => set.contains(address),
        IpAddr::V6(_) => set.is_everything(),
    }
}

#[cfg(test)]
mod tests;
