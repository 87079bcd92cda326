//! Messages between engine, keeper and proxy: a 4-byte big-endian length, then JSON `{"v":1,"message":…}`.
//! A role outlives upgrades of the others, so fields are added here, never renamed or taken away.

use jiff::Timestamp;
use objects::traffic::Series;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{Change, DataPlaneConfig, Listener, PodUid};

/// The version of this protocol. It grows only when an older reader would misunderstand a newer writer.
pub const PROTOCOL: u32 = 1;

/// The longest frame: 100,000 endpoints of 250 bytes, and as much again to grow.
const LONGEST_FRAME: usize = 50 << 20;

const LENGTH_BYTES: usize = 4;

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes was announced; the longest allowed has {LONGEST_FRAME}")]
    TooLong { length: usize },
    #[error(
        "the frame speaks version {version} of the protocol and this process speaks {PROTOCOL}; restart Segue with `segue down` and `segue up`"
    )]
    OtherProtocol { version: u32 },
    #[error("the frame is not a message of this protocol")]
    NotAMessage {
        #[source]
        source: serde_json::Error,
    },
}

/// To the keeper, from an engine. To the proxy, from the keeper, which passes configurations on byte by byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command<Configuration = DataPlaneConfig> {
    Configure(Configuration),
    /// Only for those who say that they take it.
    Change(Box<Change>),
    /// Sockets that come with this frame, in this order. Keeper to proxy only.
    Take(Vec<Passed>),
    /// Take no connection any more, finish those that are open, then end. Keeper to proxy only.
    Leave,
    /// Start a proxy anew, with the same sockets, and let the present one leave.
    ReplaceProxy,
    /// End, and leave the proxy as it is for the keeper that comes. To the keeper only.
    StepAside,
    /// End, and let go of every socket.
    ShutDown,
}

/// What the keeper reads of a configuration. Everything else passes it unseen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperView {
    pub version: u64,
    pub listen: std::collections::BTreeSet<Listener>,
}

/// To the engine, from the keeper; `Acknowledged` and `Drains` come from the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first message to every engine that connects, and the answer to what can't be done after this version: the last
    /// that was configured, 0 for none.
    Hello {
        version: u64,
        /// Whether it takes [`Command::Change`].
        #[serde(default)]
        takes_changes: bool,
    },
    /// The configuration is in force for every new request, except at the sockets that could not be opened.
    Acknowledged {
        version: u64,
        refused: Vec<Refused>,
        /// Whether whoever says this takes [`Command::Change`].
        #[serde(default)]
        takes_changes: bool,
    },
    /// The counts of every pod that is not ready in this version, or has left it with work in flight.
    Drains { version: u64, pods: Vec<Drain> },
    /// Counts since the proxy of this number started: of everything, or of what changed since they were told last.
    /// Comes every second, so that the engine knows until when it knows everything.
    Traffic { proxy: u64, started: Timestamp, complete: bool, series: Vec<Series> },
    /// A proxy that was started anew has taken over.
    ProxyReplaced,
    /// The data plane can't work, and why. The keeper goes on trying.
    Trouble { sentence: String },
}

/// From a living proxy to a keeper that was started anew: everything it needs to take over. `Configure` is written as
/// in [`Command`], so that the keeper can keep its bytes as if an engine had sent them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Handover {
    /// Sockets that come with this frame, in this order.
    Take(Vec<Passed>),
    /// The configuration in force. It is the last message.
    Configure(KeeperView),
    /// There was no configuration yet. It is the last message.
    Unconfigured,
}

/// What a descriptor that came along is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Passed {
    /// A socket that clients reach.
    Listener(Listener),
    /// The socket at which a proxy is asked for a handover.
    Adoption,
    /// The proxy itself, as a pidfd.
    Process,
    /// The keeper's end of the channel to a proxy that finishes its connections.
    LeavingChannel,
    /// That proxy, as a pidfd; it follows its channel.
    LeavingProcess,
}

/// A socket that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub listener: Listener,
    /// The operating system's reason.
    pub reason: String,
}

/// Work in flight to one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub uid: PodUid,
    pub requests: u32,
    pub long: u32,
}

impl Drain {
    pub(crate) fn nothing(uid: PodUid) -> Self {
        Self { uid, requests: 0, long: 0 }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<M> {
    v: u32,
    message: M,
}

#[derive(Deserialize)]
struct ProtocolOnly {
    v: u32,
}

/// A whole frame, length included.
///
/// # Panics
/// When the message can't be written as JSON, which no message of this module allows.
#[must_use]
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let mut frame = vec![0; LENGTH_BYTES];
    let written = serde_json::to_writer(&mut frame, &Envelope { v: PROTOCOL, message });
    assert!(written.is_ok(), "messages have string keys and are written to memory");
    seal(frame)
}

/// A frame around a payload that [`FrameReader::next_payload`] gave.
#[must_use]
pub fn encode_payload(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(LENGTH_BYTES + payload.len());
    frame.extend_from_slice(&[0; LENGTH_BYTES]);
    frame.extend_from_slice(payload);
    seal(frame)
}

/// Reads one message from a frame's payload.
///
/// # Errors
/// When the payload is of another protocol, or no message.
pub fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    match serde_json::from_slice::<Envelope<M>>(payload) {
        Ok(envelope) if envelope.v == PROTOCOL => Ok(envelope.message),
        Ok(envelope) => Err(FrameError::OtherProtocol { version: envelope.v }),
        Err(source) => Err(match serde_json::from_slice::<ProtocolOnly>(payload) {
            Ok(ProtocolOnly { v }) if v != PROTOCOL => FrameError::OtherProtocol { version: v },
            Ok(_) | Err(_) => FrameError::NotAMessage { source },
        }),
    }
}

/// What a frame holds.
#[must_use]
pub(crate) fn payload_of(frame: &[u8]) -> &[u8] {
    frame.get(LENGTH_BYTES..).unwrap_or_default()
}

fn seal(mut frame: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(frame.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Puts frames together from the pieces in which a stream delivers them.
#[derive(Debug, Default)]
pub struct FrameReader {
    received: Vec<u8>,
}

impl FrameReader {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next whole frame's payload; None until more bytes come.
    ///
    /// # Errors
    /// When a frame announces more than the longest allowed length.
    pub fn next_payload(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(header) = self.received.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > LONGEST_FRAME {
            return Err(FrameError::TooLong { length });
        }
        if self.received.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let rest = self.received.split_off(LENGTH_BYTES + length);
        let mut frame = std::mem::replace(&mut self.received, rest);
        frame.drain(..LENGTH_BYTES);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> DataPlaneConfig {
        DataPlaneConfig {
            version: 7,
            listen: [Listener {
                transport: crate::config::Transport::Tcp,
                address: std::net::SocketAddr::from(([10, 45, 0, 1], 80)),
            }]
            .into(),
            ..DataPlaneConfig::default()
        }
    }

    #[test]
    fn a_message_survives_being_cut_anywhere() {
        let command: Command = Command::Configure(configuration());
        let frame = encode(&command);
        for cut in 0..frame.len() {
            let mut reader = FrameReader::default();
            reader.push(&frame[..cut]);
            assert!(reader.next_payload().unwrap().is_none(), "{cut} bytes are no frame");
            reader.push(&frame[cut..]);
            let payload = reader.next_payload().unwrap().unwrap();
            assert_eq!(decode::<Command>(&payload).unwrap(), command);
            assert_eq!(encode_payload(&payload), frame);
        }
    }

    #[test]
    fn the_keeper_reads_its_part_of_a_configuration() {
        let frame = encode(&Command::Configure(configuration()));
        let mut reader = FrameReader::default();
        reader.push(&frame);
        let view: Command<KeeperView> = decode(&reader.next_payload().unwrap().unwrap()).unwrap();
        let expected = KeeperView { version: 7, listen: configuration().listen };
        assert_eq!(view, Command::Configure(expected));
    }

    #[test]
    fn two_frames_in_one_piece_are_two_messages() {
        let hello = |version| Report::Hello { version, takes_changes: true };
        let mut reader = FrameReader::default();
        reader.push(&[encode(&hello(1)), encode(&hello(2))].concat());
        for version in [1, 2] {
            let payload = reader.next_payload().unwrap().unwrap();
            assert_eq!(decode::<Report>(&payload).unwrap(), hello(version));
        }
        assert!(reader.next_payload().unwrap().is_none());
    }

    #[test]
    fn frames_that_are_too_long_are_refused_before_they_are_read() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_be_bytes());
        assert!(matches!(reader.next_payload(), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn another_protocol_is_named() {
        let error = decode::<Report>(br#"{"v":2,"greeting":{}}"#).unwrap_err();
        assert!(matches!(error, FrameError::OtherProtocol { version: 2 }));
        assert!(matches!(decode::<Report>(b"{}").unwrap_err(), FrameError::NotAMessage { .. }));
    }
}
