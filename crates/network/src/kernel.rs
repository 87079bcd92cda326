//! What the kernel does without any process of ours: it balances UDP, and TCP that is declared opaque, and keeps to
//! NetworkPolicies. One nftables table for each, written anew in one transaction with each change; what is under way is
//! asked of conntrack.

pub(crate) mod connections;
mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use decide::balancing::{EndpointState, best, pick_for_client};
use decide::network_policy::Policies;
use objects::ranges::Range;

use crate::config::{Affinity, Endpoint, ServicePort, Transport};
use crate::rules::{RulesError, nft, table};
use connections::Connection;

/// Clients are spread by their address over slots, so many for each endpoint that shares differ by little, and so many
/// in all that their number, on which every client's slot depends, seldom changes.
const SLOTS_PER_ENDPOINT: usize = 16;
const FEWEST_SLOTS: usize = 256;
const MOST_SLOTS: usize = 4096;

/// By which policies know answers that have no connection any more. Its bits are none of Tailscale's and kube-proxy's.
const LATE_ANSWER_MARK: u32 = 0x5d00_0000;

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

    /// A program of this machine that listens there goes on; over TCP it is the keeper's socket that finds out.
    fn leave_out_what_others_have(&mut self, scope: &Scope) {
        let is_free = |place: SocketAddrV4| {
            let is_taken = UdpSocket::bind(place).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
            if is_taken {
                tracing::warn!("{} is not reached at UDP {place}: another program listens there", self.service);
            }
            !is_taken
        };
        self.places.retain(|place| scope.services.contains(*place.ip()) || is_free(*place));
        let node_port = self.port.node_port;
        self.port.node_port = node_port.filter(|number| is_free(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, *number)));
    }

    /// Those that are no pods: what they answer has to come back through this machine.
    fn targets_elsewhere(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.port.endpoints.iter().filter(|endpoint| endpoint.pod_name.is_empty()).filter_map(address)
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

/// What stays the same for as long as an engine runs.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) instance: String,
    /// Addresses of Services.
    pub(crate) services: Range,
    /// Whom the proxy runs as.
    pub(crate) proxy_user: Option<u32>,
}

/// Puts these ports in force, in place of those before. Blocks.
///
/// # Errors
/// When `nft` is missing or refuses.
pub(crate) fn balance(scope: &Scope, ports: &[BalancedPort]) -> Result<(), RulesError> {
    let mut ports = ports.to_vec();
    for port in ports.iter_mut().filter(|port| port.transport == Transport::Udp) {
        port.leave_out_what_others_have(scope);
    }
    nft(&script(scope, &ports))
}

/// Puts these policies in force, in place of those before. Blocks.
///
/// # Errors
/// When `nft` is missing or refuses.
pub(crate) fn guard(scope: &Scope, policies: &Policies) -> Result<(), RulesError> {
    nft(&policies::script(&policies_table(&scope.instance), policies, scope.proxy_user))
}

/// Has answers that are still on their way over these connections reach their clients, although conntrack forgets them
/// now: for a while they are given the address that the client asked. Blocks.
///
/// # Errors
/// When `nft` is missing or refuses.
pub(crate) fn let_answers_through(instance: &str, connections: &[&Connection]) -> Result<(), RulesError> {
    // One that is hidden behind another address is this machine, or the pod itself.
    let known: Vec<&Connection> = connections.iter().copied().filter(|it| it.answered.ip() == it.client.ip()).collect();
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
    let key = |ip: &Ipv4Addr, port: u16, to: SocketAddrV4| format!("{ip} . {port} . {} . {}", to.ip(), to.port());
    // Each map finds what the one before it has left.
    let address = |it: &&Connection| (key(it.answering.ip(), it.answering.port(), it.answered), it.to.ip().to_string());
    let port = |it: &&Connection| (key(it.to.ip(), it.answering.port(), it.answered), it.to.port().to_string());
    let client = |it: &&Connection| (key(it.to.ip(), it.to.port(), it.answered), it.client.port().to_string());
    let add = |map: &str, element: &dyn Fn(&&Connection) -> (String, String)| {
        // A client that asked one pod at two ports of a Service has one key; the first port it is.
        let elements: BTreeMap<String, String> = connections.iter().rev().map(element).collect();
        let elements: Vec<String> = elements.iter().map(|(key, value)| format!("{key} : {value}")).collect();
        format!("add element inet {name} {map} {{ {} }}\n", elements.join(", "))
    };
    let of_map = |gives: &str| {
        format!(
            "type ipv4_addr . inet_service . ipv4_addr . inet_service : {gives}; flags timeout; timeout {LATE_ANSWERS};"
        )
    };
    let table = format!(
        "table inet {name} {{
    map addresses {{ {addresses} }}
    map ports {{ {ports} }}
    map clients {{ {ports} }}
    chain forward {{ type filter hook forward priority -1; }}
    chain translate {{ }}
    chain postrouting {{ type filter hook postrouting priority 50; }}
    chain input {{ type filter hook input priority 50; }}
}}
flush table inet {name}
table inet {name} {{
    chain forward {{
        ip saddr . udp sport . ip daddr . udp dport @addresses meta mark set {LATE_ANSWER_MARK}
    }}
    chain translate {{
        ip saddr set ip saddr . udp sport . ip daddr . udp dport map @addresses
        udp sport set ip saddr . udp sport . ip daddr . udp dport map @ports
        udp dport set ip saddr . udp sport . ip daddr . udp dport map @clients
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
        flush: ["addresses", "ports", "clients"].map(|map| format!("flush map inet {name} {map}\n")).concat(),
        elements: [add("addresses", &address), add("ports", &port), add("clients", &client)].concat(),
    }
}

/// The whole table. Ports that nothing can be sent to are left out: what comes there is refused, or waits in the proxy.
fn script(scope: &Scope, ports: &[BalancedPort]) -> String {
    let table = balanced_table(&scope.instance);
    // Named once before it is deleted: a table that is not there can't be deleted.
    let mut script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    let balanced: Vec<(&BalancedPort, Vec<SocketAddrV4>)> =
        ports.iter().map(|port| (port, port.targets())).filter(|(_, targets)| !targets.is_empty()).collect();
    if balanced.is_empty() {
        return script;
    }
    let (mut places, mut node_ports) = (Vec::new(), BTreeMap::new());
    let (mut hairpins, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    let mut chains = String::new();
    for (number, (port, targets)) in balanced.iter().enumerate() {
        let protocol = protocol(port.transport);
        let to = |at: &SocketAddrV4| format!("{} . {protocol} . {} : goto port_{number}", at.ip(), at.port());
        places.extend(port.places.iter().map(to));
        if let Some(node_port) = port.port.node_port {
            node_ports.entry((protocol, node_port)).or_insert(format!("{protocol} . {node_port} : goto port_{number}"));
        }
        hairpins.extend(targets.iter().map(|target| format!("{ip} . {ip}", ip = target.ip())));
        elsewhere.extend(port.targets_elsewhere().map(|at| format!("{} . {protocol} . {}", at.ip(), at.port())));
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
    set elsewhere {{ type ipv4_addr . inet_proto . inet_service;{elsewhere} }}
{chains}    chain balance {{
        ip daddr . meta l4proto . th dport vmap @places
        ip daddr != {{ 127.0.0.0/8, {services} }} fib daddr type local meta l4proto . th dport vmap @node_ports
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
        ct status dnat ip daddr . meta l4proto . th dport @elsewhere masquerade
    }}
}}
",
        places = elements(places),
        node_ports = elements(node_ports.into_values()),
        hairpins = elements(hairpins),
        elsewhere = elements(elsewhere),
        services = scope.services,
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

/// The IPv4 address, if it is one that the kernel can take connections from: what goes to localhost never leaves it.
pub(crate) fn place(ip: IpAddr, port: u16) -> Option<SocketAddrV4> {
    match ip {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(SocketAddrV4::new(ip, port)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
#[path = "kernel/tests.rs"]
mod tests;
