//! What conntrack knows: which connections the kernel passes on to which pods.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use futures::StreamExt;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::SocketAddr;
use netlink_proto::sys::protocols::NETLINK_NETFILTER;
use tokio::task::{JoinError, JoinHandle};

use super::BalancedPort;
use crate::config::{PodUid, Transport};

/// States of TCP in which something may still be said (`TCP_CONNTRACK_*` in Linux' `nf_conntrack_tcp.h`): SYN_SENT,
/// SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT.
const OPEN_STATES: std::ops::RangeInclusive<u8> = 1..=5;

/// Linux' `nfnetlink_conntrack.h`.
const CTA_ID: u16 = 12;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConntrackError {
    #[error("can't open a netlink socket for conntrack")]
    Open(#[source] io::Error),
    #[error("can't ask conntrack")]
    Ask(#[source] netlink_proto::NetlinkProtoError),
    #[error("what was to be done about connections broke off")]
    Broke(#[source] JoinError),
    #[error("conntrack refuses")]
    Refused(#[source] io::Error),
}

/// An IPv4 connection over TCP or UDP, as conntrack has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) transport: Transport,
    pub(crate) client: SocketAddrV4,
    /// Where the client sends to.
    pub(crate) to: SocketAddrV4,
    /// Who answers; the same as `to` unless the kernel passes the connection on.
    pub(crate) answering: SocketAddrV4,
    /// Whom it answers: the client, unless the kernel gives the client another address or port.
    pub(crate) answered: SocketAddrV4,
    /// Of TCP.
    pub(crate) state: Option<u8>,
    /// The kernel's name for it: the client may begin another between the same ends at any time.
    pub(crate) id: Option<DefaultNla>,
}

impl Connection {
    fn is_passed_on(&self) -> bool {
        self.to != self.answering
    }
}

/// UDP that goes where it may not go: to a pod that is withdrawn, or to nobody although there is somebody by now.
/// Forgotten, the client's next packet is balanced anew.
pub(crate) fn misled<'a>(ports: &[BalancedPort], connections: &'a [Connection]) -> Vec<&'a Connection> {
    let udp = || ports.iter().filter(|port| port.transport == Transport::Udp);
    let places: BTreeMap<SocketAddrV4, &BalancedPort> =
        udp().flat_map(|port| port.places.iter().map(move |place| (*place, port))).collect();
    let node_ports: BTreeMap<u16, &BalancedPort> =
        udp().filter_map(|port| Some((port.port.node_port?, port))).collect();
    let is_misled = |connection: &&Connection| {
        let at_node = || {
            let port = node_ports.get(&connection.to.port());
            port.filter(|port| connection.is_passed_on() && port.has(*connection.answering.ip()))
        };
        let port = places.get(&connection.to).or_else(at_node);
        connection.transport == Transport::Udp && port.is_some_and(|port| !port.allows(connection.answering))
    };
    connections.iter().filter(is_misled).collect()
}

/// Connections over TCP that are passed on to each of these pods.
pub(crate) fn in_flight(pods: &BTreeMap<Ipv4Addr, PodUid>, connections: &[Connection]) -> BTreeMap<PodUid, u32> {
    let mut counts = BTreeMap::new();
    let open =
        connections.iter().filter(|it| it.is_passed_on() && it.state.is_some_and(|it| OPEN_STATES.contains(&it)));
    for uid in open.filter_map(|connection| pods.get(connection.answering.ip())) {
        *counts.entry(uid.clone()).or_default() += 1;
    }
    counts
}

/// What has an end at an address whose pod is gone: whoever gets the address next must not inherit it.
pub(crate) fn orphans<'a>(gone: &BTreeSet<Ipv4Addr>, connections: &'a [Connection]) -> Vec<&'a Connection> {
    connections.iter().filter(|it| [it.client, it.to, it.answering].iter().any(|end| gone.contains(end.ip()))).collect()
}

/// A connection to conntrack.
#[derive(Debug)]
pub(crate) struct Conntrack {
    handle: ConnectionHandle<NetfilterMessage>,
    connection: JoinHandle<()>,
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Conntrack {
    pub(crate) fn open() -> Result<Self, ConntrackError> {
        let (connection, handle, _) = netlink_proto::new_connection(NETLINK_NETFILTER).map_err(ConntrackError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Every connection over IPv4, TCP and UDP.
    pub(crate) async fn list(&self) -> Result<Vec<Connection>, ConntrackError> {
        let mut connections = Vec::new();
        let read = |attributes: Vec<ConntrackAttribute>| connections.extend(connection(&attributes));
        self.ask(ConntrackMessage::Get(Vec::new()), NLM_F_DUMP, read).await?;
        Ok(connections)
    }

    /// Has conntrack forget a connection. One that is gone already is no error.
    pub(crate) async fn forget(&self, connection: &Connection) -> Result<(), ConntrackError> {
        let tuple = ConntrackAttribute::CtaTupleOrig(tuple(connection));
        let id = connection.id.clone().map(ConntrackAttribute::Other);
        let delete = ConntrackMessage::Delete([tuple].into_iter().chain(id).collect());
        match self.ask(delete, NLM_F_ACK, drop).await {
            Err(ConntrackError::Refused(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }

    /// Gives each entry to `read` as it comes: there may be hundreds of thousands.
    async fn ask(
        &self,
        message: ConntrackMessage,
        flags: u16,
        mut read: impl FnMut(Vec<ConntrackAttribute>),
    ) -> Result<(), ConntrackError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let message = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message);
        let request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        let mut answers = self.handle.clone().request(request, SocketAddr::new(0, 0)).map_err(ConntrackError::Ask)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) = answer.payload
            {
                read(attributes);
            } else if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(ConntrackError::Refused(error.to_io()));
            }
        }
        Ok(())
    }
}

/// None for what is neither TCP nor UDP over IPv4.
fn connection(attributes: &[ConntrackAttribute]) -> Option<Connection> {
    let find = |tuple: fn(&ConntrackAttribute) -> Option<&[Tuple]>| attributes.iter().find_map(tuple).and_then(ends);
    let (transport, client, to) =
        find(|it| if let ConntrackAttribute::CtaTupleOrig(tuples) = it { Some(tuples) } else { None })?;
    let (_, answering, answered) =
        find(|it| if let ConntrackAttribute::CtaTupleReply(tuples) = it { Some(tuples) } else { None })?;
    let infos =
        attributes.iter().filter_map(|it| if let ConntrackAttribute::CtaProtoInfo(it) = it { Some(it) } else { None });
    let state = infos.flatten().find_map(tcp_state);
    let others =
        attributes.iter().filter_map(|it| if let ConntrackAttribute::Other(it) = it { Some(it) } else { None });
    let id = others.into_iter().find(|attribute| attribute.kind() == CTA_ID).cloned();
    Some(Connection { transport, client, to, answering, answered, state, id })
}

fn tcp_state(info: &ProtoInfo) -> Option<u8> {
    let ProtoInfo::TCP(attributes) = info else { return None };
    attributes.iter().find_map(|attribute| if let ProtoInfoTCP::State(state) = attribute { Some(*state) } else { None })
}

/// Transport, source and destination.
fn ends(tuples: &[Tuple]) -> Option<(Transport, SocketAddrV4, SocketAddrV4)> {
    let ips = tuples.iter().find_map(|it| if let Tuple::Ip(parts) = it { Some(parts) } else { None })?;
    let ports = tuples.iter().find_map(|it| if let Tuple::Proto(parts) = it { Some(parts) } else { None })?;
    let ip = |pick: fn(&IPTuple) -> Option<Ipv4Addr>| ips.iter().find_map(pick);
    let port = |pick: fn(&ProtoTuple) -> Option<u16>| ports.iter().find_map(pick);
    let transport = ports.iter().find_map(|it| match it {
        ProtoTuple::Protocol(Protocol::Tcp) => Some(Transport::Tcp),
        ProtoTuple::Protocol(Protocol::Udp) => Some(Transport::Udp),
        ProtoTuple::Protocol(_) | ProtoTuple::SourcePort(_) | ProtoTuple::DestinationPort(_) | _ => None,
    })?;
    let source = ip(|it| if let IPTuple::SourceAddress(IpAddr::V4(ip)) = it { Some(*ip) } else { None })?;
    let destination = ip(|it| if let IPTuple::DestinationAddress(IpAddr::V4(ip)) = it { Some(*ip) } else { None })?;
    let source_port = port(|it| if let ProtoTuple::SourcePort(port) = it { Some(*port) } else { None })?;
    let destination_port = port(|it| if let ProtoTuple::DestinationPort(port) = it { Some(*port) } else { None })?;
    Some((transport, SocketAddrV4::new(source, source_port), SocketAddrV4::new(destination, destination_port)))
}

fn tuple(connection: &Connection) -> Vec<Tuple> {
    let Connection { transport, client, to, .. } = connection;
    let protocol = match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(IpAddr::V4(*client.ip())),
            IPTuple::DestinationAddress(IpAddr::V4(*to.ip())),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol),
            ProtoTuple::SourcePort(client.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}
