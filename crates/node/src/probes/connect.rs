//! Connections of the node's own, which NetworkPolicies are not about.

use std::io;
use std::net::{IpAddr, SocketAddr};

use objects::names::PROBE_MARK;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};

/// How every answer ends that says that nobody listens.
pub(super) const REFUSED: &str = "connection refused";

/// Why there is no connection, as the kubelet says it.
pub(super) fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused { REFUSED.to_owned() } else { error.to_string() }
}

/// Connects to the first address of `host` that accepts.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    if is_the_tailnets(address.ip()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only the tailnet's daemon may connect there"));
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Refused without CAP_NET_ADMIN, where no policy can be in force either.
    let _ = SockRef::from(&socket).set_mark(PROBE_MARK);
    socket.connect(address).await
}

/// Addresses of 127.0.0.0/8 beyond 127.0.0.0/16 may be before Services that are on the tailnet: whoever connects there as
/// root is believed whom it names as the caller, so nobody may have the node do it.
fn is_the_tailnets(ip: IpAddr) -> bool {
    matches!(ip.to_canonical(), IpAddr::V4(ip) if ip.is_loopback() && ip.octets()[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_has_the_node_speak_for_the_tailnet() {
        for host in ["127.45.0.7", "::ffff:127.45.0.7"] {
            assert_eq!(connect(host, 80).await.unwrap_err().kind(), io::ErrorKind::PermissionDenied, "{host}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        connect("127.0.0.1", listener.local_addr().unwrap().port()).await.unwrap();
    }
}
