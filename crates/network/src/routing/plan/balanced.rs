//! What the kernel balances of a plan.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Plan;
use crate::config::{ANY_ADDRESS, Listener, Service, ServicePort, Speaks, Transport};
use crate::kernel::{BalancedPort, place};

impl Plan {
    /// Ports for UDP, and those for TCP that are opaque and lead to pods alone. The proxy has the latter as well: it
    /// takes what comes while no pod is ready, and only where it could open a socket is the kernel told of them.
    pub(in crate::routing) fn balanced(&self, open: &BTreeSet<Listener>) -> Vec<BalancedPort> {
        let opaque = self.services.iter().filter(|service| service.proxy_protocol.is_none()).flat_map(|service| {
            let ports = service.ports.iter().filter(|port| port.speaks == Speaks::Opaque && leads_to_pods(port));
            ports.map(|port| balanced(service, port, Transport::Tcp).only_at(open))
        });
        let datagrams = self
            .datagrams
            .iter()
            .flat_map(|service| service.ports.iter().map(|port| balanced(service, port, Transport::Udp)));
        opaque.chain(datagrams).collect()
    }
}

impl BalancedPort {
    fn only_at(mut self, open: &BTreeSet<Listener>) -> Self {
        let is_open = |at: SocketAddr| open.contains(&Listener::tcp(at));
        self.places.retain(|place| is_open(SocketAddr::V4(*place)));
        self.port.node_port = self.port.node_port.filter(|number| is_open(SocketAddr::new(ANY_ADDRESS, *number)));
        self
    }
}

fn leads_to_pods(port: &ServicePort) -> bool {
    port.endpoints.iter().all(|endpoint| !endpoint.pod_name.is_empty()) && port.elsewhere.is_empty()
}

fn balanced(service: &Service, port: &ServicePort, transport: Transport) -> BalancedPort {
    BalancedPort {
        service: service.key(),
        transport,
        places: service.addresses.iter().filter_map(|ip| place(*ip, port.port)).collect(),
        affinity: service.affinity,
        port: port.clone(),
    }
}
