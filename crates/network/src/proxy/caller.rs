//! Whom a connection comes from, as far as policies ask. Only the connection itself says so, never what is sent on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whom a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A process of this machine: one that connects to an address of the machine has that address, or localhost's, if
    /// it chooses none.
    ThisMachine(IpAddr),
    Elsewhere(IpAddr),
}

impl Caller {
    /// Whom a connection comes from that reached this machine at an address of it.
    pub(crate) fn new(client: IpAddr, reached: IpAddr) -> Self {
        let client = client.to_canonical();
        let is_localhost = client == Ipv4Addr::LOCALHOST || client == Ipv6Addr::LOCALHOST;
        let is_here = is_localhost || reached.to_canonical() == client;
        if is_here { Self::ThisMachine(client) } else { Self::Elsewhere(client) }
    }

    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::ThisMachine(ip) | Self::Elsewhere(ip) => ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
