//! Every socket that clients reach: opened when a configuration asks for it, closed when none does any more.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::config::{Listener, Transport};
use crate::frames::Refused;

/// Connections that wait in the kernel while the proxy is restarted; Linux' own default limit.
const BACKLOG: i32 = 4096;

/// A client that said nothing for so long is asked whether it is still there.
const SILENT_CLIENT: Duration = Duration::from_secs(60);

/// The open sockets.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<Listener, OwnedFd>,
    refused: Vec<Refused>,
}

impl Listeners {
    /// Takes a socket that a living proxy handed over.
    pub(super) fn insert(&mut self, listener: Listener, socket: OwnedFd) {
        if listener.transport == Transport::Tcp {
            // What an older build opened does not allow others beside it yet.
            let _ = sockopt::set_socket_reuseport(&socket, true);
        }
        self.open.insert(listener, socket);
    }

    /// Opens what is wanted and missing, closes what is not wanted. Gives what was opened.
    pub(super) fn open_and_close(&mut self, wanted: &BTreeSet<Listener>) -> Vec<Listener> {
        self.open.retain(|listener, _| wanted.contains(listener));
        self.refused.clear();
        let missing: Vec<Listener> = wanted.iter().filter(|it| !self.open.contains_key(it)).copied().collect();
        missing.into_iter().filter(|listener| self.open_one(*listener)).collect()
    }

    /// Opens and closes these, and leaves the others as they are. Gives what was opened.
    pub(super) fn change(&mut self, opened: &BTreeSet<Listener>, closed: &BTreeSet<Listener>) -> Vec<Listener> {
        self.open.retain(|listener, _| !closed.contains(listener));
        self.refused.retain(|refused| !closed.contains(&refused.listener));
        opened.iter().copied().filter(|listener| self.open_one(*listener)).collect()
    }

    /// Copies of the sockets of `listeners`, to be passed on.
    pub(super) fn copies(&self, listeners: &[Listener]) -> io::Result<Vec<OwnedFd>> {
        listeners.iter().filter_map(|listener| self.open.get(listener)).map(OwnedFd::try_clone).collect()
    }

    pub(super) fn all(&self) -> Vec<Listener> {
        self.open.keys().copied().collect()
    }

    /// What is asked for and could not be opened.
    pub(super) fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Whether a socket on every address and one on a single address would share a port.
    fn overlaps(&self, listener: Listener) -> bool {
        let shares = |open: &Listener| {
            open.transport == listener.transport
                && open.address.port() == listener.address.port()
                && open.is_on_every_address() != listener.is_on_every_address()
        };
        self.open.keys().any(shares)
    }

    fn open_one(&mut self, listener: Listener) -> bool {
        let beside = if self.overlaps(listener) { Beside::Ours } else { Beside::Nothing };
        match open(listener, beside) {
            Ok(socket) => {
                self.open.insert(listener, socket);
                true
            }
            Err(error) => {
                tracing::warn!("can't listen on {listener}: {error}");
                self.refused.push(Refused { listener, reason: error.to_string() });
                false
            }
        }
    }
}

/// What a socket has to get along with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// One of ours at the same port: the kernel gives connections to the one with the more exact address.
    Ours,
}

fn open(listener: Listener, beside: Beside) -> io::Result<OwnedFd> {
    match listener.transport {
        Transport::Tcp if listener.is_on_every_address() => {
            let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, listener.address.port()));
            match open_tcp(every, beside) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => open_tcp(listener.address, beside),
                opened => opened,
            }
        }
        Transport::Tcp => open_tcp(listener.address, beside),
        Transport::Udp => {
            let socket = new_socket(listener.address, SocketType::DGRAM)?;
            bind(&socket, &listener.address)?;
            Ok(socket)
        }
    }
}

fn new_socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// On every address of IPv6 it is on every one of IPv4 too.
fn open_tcp(address: SocketAddr, beside: Beside) -> io::Result<OwnedFd> {
    let socket = new_socket(address, SocketType::STREAM)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Every accepted connection inherits these.
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, SILENT_CLIENT)?;
    // Sockets that may share a port must both say so; saying it only after the bind finds out whoever else is there.
    if beside == Beside::Ours {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    bind(&socket, &address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> Listener {
        Listener { transport: Transport::Tcp, address: SocketAddr::from(([127, 77, 0, 1], port)) }
    }

    #[test]
    fn sockets_follow_the_configuration_and_an_address_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.77.0.1:0").unwrap();
        let (free, in_use) = (tcp(18_080), tcp(taken.local_addr().unwrap().port()));
        let mut listeners = Listeners::default();

        assert_eq!(listeners.open_and_close(&[free, in_use].into()), [free]);
        assert_eq!(listeners.refused().iter().map(|it| it.listener).collect::<Vec<_>>(), [in_use]);
        drop(taken);
        assert_eq!(listeners.open_and_close(&[free, in_use].into()), [in_use]);
        assert!(listeners.refused().is_empty());
        assert!(listeners.open_and_close(&[in_use].into()).is_empty());
        assert_eq!(listeners.all(), [in_use]);
        std::net::TcpListener::bind(free.address).unwrap();
    }

    #[test]
    fn a_socket_on_every_address_stands_beside_those_on_one() {
        let port = std::net::TcpListener::bind("127.77.0.2:0").unwrap().local_addr().unwrap().port();
        let one = Listener::tcp(SocketAddr::from(([127, 77, 0, 2], port)));
        let every = Listener::tcp(SocketAddr::from(([0, 0, 0, 0], port)));
        let other = Listener::tcp(SocketAddr::from(([127, 77, 0, 3], port)));
        let mut listeners = Listeners::default();
        assert_eq!(listeners.open_and_close(&[one].into()), [one]);
        assert_eq!(listeners.open_and_close(&[one, every].into()), [every]);
        assert_eq!(listeners.open_and_close(&[one, every, other].into()), [other]);
        let accepted = |listener: Listener| {
            let _client = std::net::TcpStream::connect_timeout(&listener.address, std::time::Duration::from_secs(5));
            listeners
                .open
                .iter()
                .filter_map(|(at, socket)| rustix::net::accept(socket).is_ok().then_some(*at))
                .collect::<Vec<_>>()
        };
        assert_eq!(accepted(one), vec![one]);
        assert_eq!(accepted(other), vec![other]);
        assert_eq!(accepted(tcp(port)), vec![every]);
        let sixth = Listener::tcp(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
        assert_eq!(accepted(sixth), vec![every]);
        let mut strangers = Listeners::default();
        assert!(strangers.open_and_close(&[every].into()).is_empty(), "another's socket is noticed");
        assert!(strangers.open_and_close(&[one].into()).is_empty());
    }
}
