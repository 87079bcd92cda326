//! Whom a connection comes from, as far as policies ask. Only the connection itself says so, never what is sent on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine: one that connects to an address of the machine has that address, or localhost's, if
    /// it chooses none.
    ThisMachine(IpAddr),
    Elsewhere(IpAddr),
    /// Another machine of the mesh, or whoever asked it. Only pods of this machine are for them.
    Machine(IpAddr),
}

/// Addresses that belong to the same machine wherever they are seen.
const TAILNET: (Ipv4Addr, u32) = (Ipv4Addr::new(100, 64, 0, 0), 10);
const TAILNET_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);

impl Caller {
    /// Whom a connection comes from that reached this machine at an address of it.
    pub(crate) fn new(client: IpAddr, reached: IpAddr) -> Self {
        let client = client.to_canonical();
        let is_localhost = client == Ipv4Addr::LOCALHOST || client == Ipv6Addr::LOCALHOST;
        let is_here = is_localhost || reached.to_canonical() == client;
        if is_here { Self::ThisMachine(client) } else { Self::Elsewhere(client) }
    }

    /// Whoever asked another machine that passes it on. Addresses of pods mean something else on each machine: who has one, or
    /// any other that is not the tailnet's, is known by the machine.
    pub(crate) fn through(machine: IpAddr, client: IpAddr) -> Self {
        let client = client.to_canonical();
        let is_tailnets = match client {
            IpAddr::V4(ip) => (u32::from(ip) ^ u32::from(TAILNET.0)) >> (32 - TAILNET.1) == 0,
            IpAddr::V6(ip) => (u128::from(ip) ^ u128::from(TAILNET_V6.0)) >> (128 - TAILNET_V6.1) == 0,
        };
        Self::Machine(if is_tailnets { client } else { machine.to_canonical() })
    }

    /// Whether it comes through another machine of the mesh.
    pub(crate) fn is_machine(self) -> bool {
        matches!(self, Self::Machine(_))
    }

    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::ThisMachine(ip) | Self::Elsewhere(ip) | Self::Machine(ip) => ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn through_another_machine_only_addresses_of_the_tailnet_are_known() {
        let machine = IpAddr::from([100, 64, 0, 2]);
        for (client, expected) in [
            ("100.64.0.9", "100.64.0.9"),
            ("100.127.255.255", "100.127.255.255"),
            ("100.128.0.0", "100.64.0.2"),
            ("10.44.0.7", "100.64.0.2"),
            ("127.0.0.1", "100.64.0.2"),
            ("fd7a:115c:a1e0::9", "fd7a:115c:a1e0::9"),
            ("fd7a:115c:a1e1::9", "100.64.0.2"),
        ] {
            let through = Caller::through(machine, client.parse().unwrap());
            assert_eq!(through, Caller::Machine(expected.parse().unwrap()), "{client}");
        }
    }

    #[test]
    fn a_process_of_this_machine_has_the_address_that_it_connects_to() {
        let table = [
            ("10.45.0.7", "10.45.0.7", true),
            ("::ffff:10.45.0.7", "10.45.0.7", true),
            ("10.45.0.7", "::ffff:10.45.0.7", true),
            ("127.0.0.1", "127.0.0.9", true),
            ("::1", "::1", true),
            ("10.44.0.2", "10.45.0.7", false),
            ("127.0.0.2", "127.0.0.9", false),
        ];
        for (client, local, expected) in table {
            let caller = Caller::new(client.parse().unwrap(), local.parse().unwrap());
            assert_eq!(matches!(caller, Caller::ThisMachine(_)), expected, "{client} {local}");
        }
    }
}
