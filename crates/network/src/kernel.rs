//! What the kernel does without any process of ours: it balances UDP, and TCP that is declared opaque, and keeps to
//! NetworkPolicies. One nftables table for each, written anew in one transaction with each change; what is under way is
//! asked of conntrack.

pub(crate) mod connections;
mod policies;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use decide::balancing::{EndpointState, best, pick_for_client};
use decide::network_policy::Policies;

use crate::config::{Affinity, Endpoint, ServicePort, Transport};
use crate::rules::{RulesError, nft, table};
use connections::Connection;

/// Clients are spread by their address over slots, so many for each endpoint that shares differ by little, and so many
/// in all that their number, on which every client's slot depends, seldom changes.
const SLOTS_PER_ENDPOINT: usize = 16;
const FEWEST_SLOTS: usize = 256;
const MOST_SLOTS: usize = 4096;

/// How long after its question an answer over UDP still reaches its client from a pod that is withdrawn.
const LATE_ANSWERS: &str = "10s";

/// A port of a Service that the kernel balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BalancedPort {
    /// `namespace/name`.
    pub(crate) service: String,
    pub(crate) transport: Transport,
    /// Where clients find it; no two ports share a place.
    pub(crate) places: Vec<SocketAddrV4>,
    pub(crate) affinity: Affinity,
    pub(crate) port: ServicePort,
}

impl BalancedPort {
    /// The endpoints that get new connections.
    pub(crate) fn targets(&self) -> Vec<SocketAddrV4> {
        let states: Vec<EndpointState> = self.port.endpoints.iter().map(|endpoint| endpoint.state).collect();
        best(&states).filter_map(|index| address(&self.port.endpoints[index])).collect()
    }

    /// Whether an address is an endpoint's.
    fn has(&self, ip: Ipv4Addr) -> bool {
        self.port.endpoints.iter().any(|endpoint| endpoint.ip == IpAddr::V4(ip))
    }

    /// Whether an endpoint may go on with what it has.
    fn allows(&self, answering: SocketAddrV4) -> bool {
        let mut endpoints = self.port.endpoints.iter();
        endpoints.any(|it| it.state != EndpointState::Withdrawn && address(it) == Some(answering))
    }
}

/// Everything that the kernel is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelConfig {
    pub(crate) ports: Vec<BalancedPort>,
    pub(crate) policies: Policies,
}

/// Puts a configuration in force for an instance, in place of that before. The proxy runs as `proxy_user`. Blocks.
///
/// # Errors
/// When `nft` is missing or refuses.
pub(crate) fn apply(instance: &str, config: &KernelConfig, proxy_user: Option<u32>) -> Result<(), RulesError> {
    let policies = policies::script(&policies_table(instance), &config.policies, proxy_user);
    nft(&(policies + &script(instance, &config.ports)))
}

/// Has answers that are still on their way over these connections reach their clients, although conntrack forgets them
/// now: for a while they are given the address that the client asked. Blocks.
///
/// # Errors
/// When `nft` is missing or refuses.
pub(crate) fn let_answers_through(instance: &str, connections: &[&Connection]) -> Result<(), RulesError> {
    // To give a client back the address or port that it was hidden behind would take more rules, for few.
    let known: Vec<&Connection> = connections.iter().copied().filter(|it| it.answered == it.client).collect();
    if known.is_empty() {
        return Ok(());
    }
    let script = answers_script(instance, &known);
    // A client whose port had asked elsewhere a moment ago stands in the way; what is older has been answered.
    nft(&script.table).and_then(|()| nft(&script.elements).or_else(|_| nft(&(script.flush + &script.elements))))
}

/// The names of the tables that an instance has for this.
pub(crate) fn tables(instance: &str) -> [String; 3] {
    [balanced_table(instance), answers_table(instance), policies_table(instance)]
}

fn policies_table(instance: &str) -> String {
    format!("{}_policies", table(instance))
}

fn balanced_table(instance: &str) -> String {
    format!("{}_balanced", table(instance))
}

fn answers_table(instance: &str) -> String {
    format!("{}_answers", table(instance))
}

struct AnswersScript {
    table: String,
    flush: String,
    elements: String,
}

/// Answers are translated before the addresses of pods are hidden, and after their way was found by their true ones.
fn answers_script(instance: &str, connections: &[&Connection]) -> AnswersScript {
    let name = answers_table(instance);
    let key = |from: Ipv4Addr, it: &Connection| {
        format!("{from} . {} . {} . {}", it.answering.port(), it.client.ip(), it.client.port())
    };
    let addresses = connections.iter().map(|it| format!("{} : {}", key(*it.answering.ip(), it), it.to.ip()));
    let ports = connections.iter().map(|it| format!("{} : {}", key(*it.to.ip(), it), it.to.port()));
    let (addresses, ports) = (addresses.collect::<Vec<_>>().join(", "), ports.collect::<Vec<_>>().join(", "));
    let of_map = |gives: &str| {
        format!(
            "type ipv4_addr . inet_service . ipv4_addr . inet_service : {gives}; flags timeout; timeout {LATE_ANSWERS};"
        )
    };
    let table = format!(
        "table inet {name} {{
    map addresses {{ {addresses} }}
    map ports {{ {ports} }}
    chain translate {{ }}
    chain postrouting {{ type filter hook postrouting priority 50; }}
    chain input {{ type filter hook input priority 50; }}
}}
flush table inet {name}
table inet {name} {{
    chain translate {{
        ip saddr set ip saddr . udp sport . ip daddr . udp dport map @addresses
        udp sport set ip saddr . udp sport . ip daddr . udp dport map @ports
    }}
    chain postrouting {{
        meta l4proto udp jump translate
    }}
    chain input {{
        meta l4proto udp jump translate
    }}
}}
",
        addresses = of_map("ipv4_addr"),
        ports = of_map("inet_service"),
    );
    AnswersScript {
        table,
        flush: format!("flush map inet {name} addresses\nflush map inet {name} ports\n"),
        elements: format!(
            "add element inet {name} addresses {{ {addresses} }}\nadd element inet {name} ports {{ {ports} }}\n"
        ),
    }
}

/// The whole table. Ports that nothing can be sent to are left out: what comes there is refused, or waits in the proxy.
fn script(instance: &str, ports: &[BalancedPort]) -> String {
    let table = balanced_table(instance);
    // Named once before it is deleted: a table that is not there can't be deleted.
    let mut script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    let balanced: Vec<(&BalancedPort, Vec<SocketAddrV4>)> =
        ports.iter().map(|port| (port, port.targets())).filter(|(_, targets)| !targets.is_empty()).collect();
    if balanced.is_empty() {
        return script;
    }
    let (mut places, mut node_ports, mut hairpins) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut chains = String::new();
    for (number, (port, targets)) in balanced.iter().enumerate() {
        let protocol = protocol(port.transport);
        let to = |at: &SocketAddrV4| format!("{} . {protocol} . {} : goto port_{number}", at.ip(), at.port());
        places.extend(port.places.iter().map(to));
        if let Some(node_port) = port.port.node_port {
            node_ports.entry((protocol, node_port)).or_insert(format!("{protocol} . {node_port} : goto port_{number}"));
        }
        hairpins.extend(targets.iter().map(|target| (*target.ip(), format!("{ip} . {ip}", ip = target.ip()))));
        let _ = writeln!(
            chains,
            "    chain port_{number} {{ # {service} {port}/{protocol}\n        meta l4proto {protocol} dnat ip to {choice}\n    }}",
            service = port.service,
            port = port.port.port,
            choice = choice(port.affinity, targets),
        );
    }
    let _ = write!(
        script,
        "table inet {table} {{
    map places {{ type ipv4_addr . inet_proto . inet_service : verdict;{places} }}
    map node_ports {{ type inet_proto . inet_service : verdict;{node_ports} }}
    set hairpins {{ type ipv4_addr . ipv4_addr;{hairpins} }}
{chains}    chain balance {{
        ip daddr . meta l4proto . th dport vmap @places
        ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @node_ports
    }}
    chain prerouting {{
        type nat hook prerouting priority -100
        jump balance
    }}
    chain output {{
        type nat hook output priority -100
        jump balance
    }}
    chain postrouting {{
        type nat hook postrouting priority 100
        ip saddr . ip daddr @hairpins masquerade
    }}
}}
",
        places = elements(places),
        node_ports = elements(node_ports.into_values()),
        hairpins = elements(hairpins.into_values()),
    );
    script
}

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// An empty list is an error to `nft`.
fn elements(elements: impl IntoIterator<Item = String>) -> String {
    let listed = elements.into_iter().collect::<Vec<_>>().join(", ");
    if listed.is_empty() { listed } else { format!(" elements = {{ {listed} }};") }
}

/// Which of `targets` a new connection goes to.
fn choice(affinity: Affinity, targets: &[SocketAddrV4]) -> String {
    let map = |targets: &mut dyn Iterator<Item = &SocketAddrV4>| {
        let entries = targets.enumerate().map(|(slot, to)| format!("{slot} : {} . {}", to.ip(), to.port()));
        entries.collect::<Vec<_>>().join(", ")
    };
    match affinity {
        Affinity::None => format!("numgen random mod {} map {{ {} }}", targets.len(), map(&mut targets.iter())),
        Affinity::ClientIp => {
            let slots = slots(targets);
            let of_slots = map(&mut slots.iter().map(|index| &targets[*index]));
            format!("jhash ip saddr mod {} seed 0x5e60e map {{ {of_slots} }}", slots.len())
        }
    }
}

/// The target of each slot. A target that comes or goes changes only the slots that it has.
fn slots(targets: &[SocketAddrV4]) -> Vec<usize> {
    let number = (targets.len() * SLOTS_PER_ENDPOINT).next_power_of_two().clamp(FEWEST_SLOTS, MOST_SLOTS);
    let states = vec![EndpointState::Ready; targets.len()];
    let target = |slot: usize| pick_for_client(&states, &|index| weight(slot, targets[index])).unwrap_or_default();
    (0..number).map(target).collect()
}

/// Evenly distributed, and the same for every build (the finalizer of SplitMix64).
fn weight(slot: usize, target: SocketAddrV4) -> u64 {
    let mut mixed = (u64::from(target.ip().to_bits()) << 16 | u64::from(target.port())) ^ (slot as u64) << 50;
    for multiplier in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ mixed >> 30).wrapping_mul(multiplier);
    }
    mixed ^ mixed >> 31
}

fn address(endpoint: &Endpoint) -> Option<SocketAddrV4> {
    match SocketAddr::new(endpoint.ip, endpoint.port) {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// The IPv4 address, if it is one.
pub(crate) fn place(ip: IpAddr, port: u16) -> Option<SocketAddrV4> {
    match ip {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, port)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
#[path = "kernel/tests.rs"]
mod tests;
