//! The header by which a pod learns who a connection comes from, where nothing else could tell it (HAProxy's "The
//! PROXY protocol", versions 1 and 2). Pure.

use std::net::{IpAddr, SocketAddr};

use crate::config::ProxyProtocol;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// What is sent before the first byte of a client that connected to `service`.
pub(crate) fn header(version: ProxyProtocol, client: SocketAddr, service: SocketAddr) -> Vec<u8> {
    let (client, service) = (canonical(client), canonical(service));
    match (version, client.ip(), service.ip()) {
        (ProxyProtocol::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            format!("PROXY TCP4 {from} {to} {} {}\r\n", client.port(), service.port()).into_bytes()
        }
        (ProxyProtocol::V1, from, to) => {
            format!("PROXY TCP6 {} {} {} {}\r\n", six(from), six(to), client.port(), service.port()).into_bytes()
        }
        (ProxyProtocol::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            second(TCP_OVER_IPV4, &[from.octets(), to.octets()].concat(), client, service)
        }
        (ProxyProtocol::V2, from, to) => {
            second(TCP_OVER_IPV6, &[six(from).octets(), six(to).octets()].concat(), client, service)
        }
    }
}

fn second(family: u8, addresses: &[u8], client: SocketAddr, service: SocketAddr) -> Vec<u8> {
    let ports = [client.port().to_be_bytes(), service.port().to_be_bytes()].concat();
    let length = (addresses.len() + ports.len()) as u16;
    [&SIGNATURE[..], &[VERSION_AND_COMMAND, family], &length.to_be_bytes(), addresses, &ports].concat()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn six(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_versions_are_written_as_they_are_defined() {
        let (client, service) = (at("192.0.2.9:1234"), at("10.45.0.1:5432"));
        assert_eq!(header(ProxyProtocol::V1, client, service), b"PROXY TCP4 192.0.2.9 10.45.0.1 1234 5432\r\n");
        let second = header(ProxyProtocol::V2, client, service);
        assert_eq!(second[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(second[16..], [192, 0, 2, 9, 10, 45, 0, 1, 4, 210, 21, 56]);
    }

    #[test]
    fn addresses_of_different_families_are_both_written_as_version_six() {
        let (client, service) = (at("[fd00::9]:1"), at("10.45.0.1:2"));
        assert_eq!(header(ProxyProtocol::V1, client, service), b"PROXY TCP6 fd00::9 ::ffff:10.45.0.1 1 2\r\n");
        assert_eq!(header(ProxyProtocol::V2, client, service).len(), 16 + 36);
        let mapped = at("[::ffff:192.0.2.9]:1");
        assert_eq!(header(ProxyProtocol::V1, mapped, service), b"PROXY TCP4 192.0.2.9 10.45.0.1 1 2\r\n");
    }
}
