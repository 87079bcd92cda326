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

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// A header of version 2 of `length` bytes: whom the connection comes from, unless it is the sender's own.
    Header {
        client: Option<SocketAddr>,
        length: usize,
    },
    /// It may become one.
    Unclear,
    Other,
}

/// What a connection begins with. Version 1 is not looked for.
pub(crate) fn begun(bytes: &[u8]) -> Begun {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Begun::Other;
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<16>() else { return Begun::Unclear };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some(addresses) = rest.get(..length) else { return Begun::Unclear };
    let port = |at: usize| Some(u16::from_be_bytes(addresses.get(at..at + 2)?.try_into().ok()?));
    let client = match (command, family) {
        (VERSION_AND_COMMAND, TCP_OVER_IPV4) => addresses.first_chunk::<4>().map(|ip| IpAddr::from(*ip)).zip(port(8)),
        (VERSION_AND_COMMAND, TCP_OVER_IPV6) => addresses.first_chunk::<16>().map(|ip| IpAddr::from(*ip)).zip(port(32)),
        _ => None,
    };
    Begun::Header { client: client.map(SocketAddr::from), length: fixed.len() + length }
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
    fn what_is_written_is_read() {
        for (client, service) in [("192.0.2.9:1234", "10.45.0.1:80"), ("[fd00::9]:1", "[fd00::1]:2")] {
            let header = header(ProxyProtocol::V2, at(client), at(service));
            let whole = [&header[..], b"GET / HTTP/1.1"].concat();
            let expected = Begun::Header { client: Some(at(client)), length: header.len() };
            assert_eq!((begun(&header), begun(&whole)), (expected, expected));
            assert!((0..header.len()).all(|end| begun(&header[..end]) == Begun::Unclear));
        }
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat();
        assert_eq!(begun(&local), Begun::Header { client: None, length: 16 });
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n\r\nX", b"PROXY TCP4 192.0.2.9 10.45.0.1 1234 5432\r\n"] {
            assert_eq!(begun(other), Begun::Other);
        }
        let short = [&SIGNATURE[..], &[VERSION_AND_COMMAND, TCP_OVER_IPV4, 0, 3, 1, 2, 3]].concat();
        assert_eq!(begun(&short), Begun::Header { client: None, length: 19 });
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
