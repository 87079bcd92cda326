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

impl Policies {
    /// Whether this may pass. A pod always reaches itself. IPv4 addresses in IPv6's form are what they stand for.
    #[must_use]
    pub fn allows(&self, flow: &Flow) -> bool {
        let flow = Flow { from: flow.from.to_canonical(), to: flow.to.to_canonical(), ..*flow };
        let may_come = || !holds(&self.ingress_isolated, flow.to) || self.ingress.iter().any(|it| it.allows(&flow));
        let may_go = || !holds(&self.egress_isolated, flow.from) || self.egress.iter().any(|it| it.allows(&flow));
        flow.from == flow.to || (may_come() && may_go())
    }

    /// Whether everything is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ingress_isolated.is_empty() && self.egress_isolated.is_empty()
    }
}

impl Allowed {
    fn allows(&self, flow: &Flow) -> bool {
        let is_at = |ports: &Ports| ports.protocol == flow.protocol && (ports.from..=ports.to).contains(&flow.port);
        (self.ports.is_empty() || self.ports.iter().any(is_at))
            && holds(&self.to, flow.to)
            && holds(&self.from, flow.from)
    }
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
