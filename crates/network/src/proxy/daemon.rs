//! Tailscale's daemon as a client: it alone says whom connections and requests from the tailnet come from, so nobody else
//! may connect where it does. The kernel knows whose a connection's other end is.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::proxy_protocol::{Begun, begun};
use crate::config::Tailnet;

/// Longer than the kernel's answer about one socket.
const LONGEST_ANSWER: usize = 4096;

/// Longer than a header of the PROXY protocol that names addresses.
const LONGEST_HEADER: usize = 256;
/// The daemon writes a header at once, or a request when it has one.
const REST_OF_HEADER: Duration = Duration::from_millis(1);

/// Whom a connection of the daemon's comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// It passes the bytes of this caller on, of whom nothing else is known.
    Caller(SocketAddr),
    /// It passes requests on, and says of each whom it comes from.
    Requests,
}

/// Waits for the first bytes, and takes the header away that names a caller.
///
/// # Errors
/// When the connection breaks, or a header names nobody.
pub(super) async fn from(stream: &mut TcpStream) -> io::Result<From> {
    let mut bytes = [0; LONGEST_HEADER];
    loop {
        let read = stream.peek(&mut bytes).await?;
        let bytes = bytes.get_mut(..read).unwrap_or_default();
        match begun(bytes) {
            Begun::Other => return Ok(From::Requests),
            Begun::Header { client, length } => {
                let header = bytes.get_mut(..length).unwrap_or_default();
                stream.read_exact(header).await?;
                let nobody = || io::Error::other("the header of the PROXY protocol names no caller");
                return client.map(From::Caller).ok_or_else(nobody);
            }
            Begun::Unclear if read == 0 || read == LONGEST_HEADER => {
                return Err(io::Error::other("the header of the PROXY protocol has no end"));
            }
            // What is there already makes the socket readable: nothing tells of more.
            Begun::Unclear => tokio::time::sleep(REST_OF_HEADER).await,
        }
    }
}

/// Whether the connection from `client` to `reached`, both of this machine, is the daemon's.
///
/// # Errors
/// When the kernel knows no such connection, or there is no daemon.
pub(super) fn is_the_daemons(tailnet: &Tailnet, client: SocketAddr, reached: SocketAddr) -> io::Result<bool> {
    let daemon = std::fs::metadata(&tailnet.daemon)?.uid();
    Ok(owner(client, reached)? == daemon)
}

/// The user of the socket at `client` that is connected to `reached` (`sock_diag(7)`).
fn owner(client: SocketAddr, reached: SocketAddr) -> io::Result<u32> {
    let request = InetRequest {
        family: AF_INET,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: client.port(),
            destination_port: reached.port(),
            source_address: client.ip(),
            destination_address: reached.ip(),
            interface_id: 0,
            // Of whatever socket.
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // The kernel answers before sending returns.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = [0; LONGEST_ANSWER];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let answer = answer.get(..length).unwrap_or_default();
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(answer).map_err(io::Error::other)?.payload;
    if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = answer {
        // One that its program has closed belongs to nobody, which looks like root.
        let is_open = response.header.inode != 0;
        let closed = || io::Error::other("the other end is closed, and nobody knows whose it was");
        return is_open.then_some(response.header.uid).ok_or_else(closed);
    }
    if let NetlinkPayload::Error(error) = answer {
        return Err(error.to_io());
    }
    Err(io::Error::other(format!("the kernel answered {answer:?}")))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::proxy_protocol::header;
    use super::*;
    use crate::config::ProxyProtocol;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_caller_is_named_before_its_bytes_and_can_not_name_itself() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller: SocketAddr = "100.64.0.7:1234".parse().unwrap();
        let named = header(ProxyProtocol::V2, caller, listener.local_addr().unwrap());
        let forged = header(ProxyProtocol::V2, "100.64.0.1:1".parse().unwrap(), caller);
        for (sent, expected, left) in [
            ([&named[..], b"hello"].concat(), From::Caller(caller), &b"hello"[..]),
            ([&named[..], &forged].concat(), From::Caller(caller), &forged),
            (b"GET /".to_vec(), From::Requests, b"GET /"),
        ] {
            let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let (first, rest) = sent.split_at(3);
            client.write_all(first).await.unwrap();
            let (from, ()) = tokio::join!(from(&mut stream), async {
                tokio::time::sleep(REST_OF_HEADER * 3).await;
                client.write_all(rest).await.unwrap();
                client.shutdown().await.unwrap();
            });
            let mut passed = Vec::new();
            stream.read_to_end(&mut passed).await.unwrap();
            assert_eq!((from.unwrap(), &passed[..]), (expected, left));
        }
    }

    #[test]
    fn who_has_closed_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        std::fs::write(&socket, "").unwrap();
        let listener = TcpListener::bind("127.45.0.8:0").unwrap();
        let reached = listener.local_addr().unwrap();
        let client = TcpStream::connect(reached).unwrap();
        let address = client.local_addr().unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let tailnet = Tailnet { fronts: "127.45.0.0/16".parse().unwrap(), daemon: socket };
        assert!(is_the_daemons(&tailnet, address, reached).unwrap());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(is_the_daemons(&tailnet, address, reached).unwrap(), "it still reads");
        drop(client);
        assert!(is_the_daemons(&tailnet, address, reached).is_err());
    }

    #[test]
    fn the_kernel_says_whose_a_connection_is() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = TcpListener::bind("127.45.0.9:0").unwrap();
        let reached = listener.local_addr().unwrap();
        let client = TcpStream::connect(reached).unwrap().local_addr().unwrap();
        let tailnet = Tailnet { fronts: "127.45.0.0/16".parse().unwrap(), daemon: socket.clone() };
        assert_eq!(is_the_daemons(&tailnet, client, reached).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&socket, "").unwrap();
        let (_kept, client) = {
            let client = TcpStream::connect(reached).unwrap();
            let address = client.local_addr().unwrap();
            (client, address)
        };
        assert!(is_the_daemons(&tailnet, client, reached).unwrap());
        std::os::unix::fs::chown(&socket, Some(64_535), None).unwrap();
        assert!(!is_the_daemons(&tailnet, client, reached).unwrap());
        let nobody = SocketAddr::new(client.ip(), 1);
        assert_eq!(is_the_daemons(&tailnet, nobody, reached).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
