//! Connections of the node's own, which NetworkPolicies are not about.

use std::io;
use std::net::SocketAddr;

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
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Refused without CAP_NET_ADMIN, where no policy can be in force either.
    let _ = SockRef::from(&socket).set_mark(PROBE_MARK);
    socket.connect(address).await
}
