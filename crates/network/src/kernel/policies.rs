//! NetworkPolicies in the kernel: every packet that begins something between a pod and anybody but the proxy. What
//! passes the proxy is decided there, for the client and the pod; here the proxy itself is let in.

use std::fmt::{Display, Write};
use std::net::Ipv4Addr;

use decide::network_policy::{AddressSet, Allowed, Policies, Ports, Protocol};
use objects::names::PROBE_MARK;

use super::LATE_ANSWER_MARK;

/// The rules of a table; none when everything is allowed. Blocked senders are told so: they need not wait for a
/// time-out. Processes of this machine reach guarded pods through Services, as `proxy_user`, or with the mark of probes.
pub(super) fn script(table: &str, policies: &Policies, proxy_user: Option<u32>) -> String {
    let mut script = format!("table inet {table} {{}}\ndelete table inet {table}\n");
    if policies.is_empty() {
        return script;
    }
    let Policies { ingress_isolated, egress_isolated, ingress, egress } = policies;
    let isolated = ingress_isolated.union(egress_isolated);
    let selves = isolated.ranges().flat_map(|(first, last)| {
        (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from).map(|ip| format!("{ip} . {ip}"))
    });
    let proxy = proxy_user.map_or_else(|| "accept".to_owned(), |uid| format!("meta skuid {uid} accept"));
    let _ = write!(
        script,
        "table inet {table} {{
    set ingress_isolated {{ type ipv4_addr; flags interval;{ingress_isolated} }}
    set egress_isolated {{ type ipv4_addr; flags interval;{egress_isolated} }}
    set selves {{ type ipv4_addr . ipv4_addr;{selves} }}
    chain ingress {{
{ingress}        reject with icmpx admin-prohibited
    }}
    chain egress {{
{egress}        reject with icmpx admin-prohibited
    }}
    chain forward {{
        type filter hook forward priority filter
        ct state established,related accept
        meta mark {LATE_ANSWER_MARK} accept
        ip saddr . ip daddr @selves accept
        ip saddr @egress_isolated jump egress
        ip daddr @ingress_isolated jump ingress
    }}
    chain output {{
        type filter hook output priority filter
        ct state established,related accept
        ct status dnat accept
        meta mark {PROBE_MARK} accept
        {proxy}
        ip daddr @ingress_isolated reject with icmpx admin-prohibited
    }}
}}
",
        ingress_isolated = super::elements(ranges(ingress_isolated)),
        egress_isolated = super::elements(ranges(egress_isolated)),
        selves = super::elements(selves),
        ingress = rules(ingress),
        egress = rules(egress),
    );
    script
}

fn rules(allowed: &[Allowed]) -> String {
    let mut rules = String::new();
    for Allowed { from, to, ports } in allowed {
        let pair = [("saddr", from), ("daddr", to)].map(|(side, set)| addresses(side, set)).concat();
        for ports in self::ports(ports) {
            let _ = writeln!(rules, "        {pair}{ports}return");
        }
    }
    rules
}

/// Nothing for everybody.
fn addresses(side: &str, set: &AddressSet) -> String {
    if set.is_everything() {
        return String::new();
    }
    format!("ip {side} {{ {} }} ", ranges(set).collect::<Vec<_>>().join(", "))
}

fn ranges(set: &AddressSet) -> impl Iterator<Item = String> {
    set.ranges().map(|(first, last)| row(&first, &last))
}

/// Older versions of `nft` refuse a range of one.
fn row<T: PartialEq + Display>(first: &T, last: &T) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// One match for each protocol; one that matches everything if no ports are named.
fn ports(ports: &[Ports]) -> Vec<String> {
    if ports.is_empty() {
        return vec![String::new()];
    }
    let of = |protocol: Protocol, name: &str| {
        let mut ports = ports.iter().filter(|ports| ports.protocol == protocol).peekable();
        ports.peek()?;
        let numbers: Vec<String> = ports.map(|Ports { from, to, .. }| row(from, to)).collect();
        Some(format!("{name} dport {{ {} }} ", numbers.join(", ")))
    };
    let protocols = [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp"), (Protocol::Sctp, "sctp")];
    protocols.into_iter().filter_map(|(protocol, name)| of(protocol, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_without_policies() {
        assert_eq!(script("t", &Policies::default(), Some(1)).lines().count(), 2);
    }

    #[test]
    fn each_rule_is_a_line_for_each_of_its_protocols() {
        let set = |addresses: &[u8]| addresses.iter().map(|last| Ipv4Addr::new(10, 44, 0, *last)).collect();
        let port = |protocol, from, to| Ports { protocol, from, to };
        let policies = Policies {
            ingress_isolated: set(&[1, 2]),
            egress_isolated: AddressSet::default(),
            ingress: vec![
                Allowed {
                    from: set(&[5, 7]),
                    to: set(&[1]),
                    ports: vec![port(Protocol::Tcp, 80, 80), port(Protocol::Udp, 1, 9)],
                },
                Allowed { from: AddressSet::everything(), to: set(&[2]), ports: Vec::new() },
            ],
            egress: Vec::new(),
        };
        let written = script("t", &policies, Some(64_535));
        let rules: Vec<&str> = written.lines().map(str::trim).filter(|line| line.ends_with("return")).collect();
        let expected = [
            "ip saddr { 10.44.0.5, 10.44.0.7 } ip daddr { 10.44.0.1 } tcp dport { 80 } return",
            "ip saddr { 10.44.0.5, 10.44.0.7 } ip daddr { 10.44.0.1 } udp dport { 1-9 } return",
            "ip daddr { 10.44.0.2 } return",
        ];
        assert_eq!(rules, expected);
        assert!(written.contains("flags interval; elements = { 10.44.0.1-10.44.0.2 };"), "{written}");
        assert!(written.contains("set egress_isolated { type ipv4_addr; flags interval; }"), "{written}");
    }
}
