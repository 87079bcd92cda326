//! From one machine's proxy to another's: a connection begins with a line that says which Service's port it is for and what it
//! carries, and goes on once the other side has taken it. Who may say so is known by the address and a key.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::lent::PodSpeaks;
use crate::config::Secret;

/// In an answer to another machine: nothing of the request was processed, since no pod could take it.
pub(crate) const NOT_TAKEN: HeaderName = HeaderName::from_static("segue-mesh-not-taken");

const PROTOCOL: &str = "SEGUE/1";
/// Longer than the longest names.
const LONGEST_LINE: usize = 512;
const TAKEN: u8 = b'+';
const REFUSED: u8 = b'-';

/// Whoever waits for a machine that is gone and in no mesh any more hears of it after so many probes; others hear it sooner
/// ([`super::neighbour`]), and a link that flaps must not end what goes on when it is back. (`TCP_USER_TIMEOUT` would also end
/// connections to machines that are well, while a client or a pod is not reading.)
const PROBED_EVERY: Duration = Duration::from_secs(3);
const MOST_PROBES: u32 = 5;

/// A Service's port on another machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Passage {
    /// `namespace/name`.
    pub(crate) service: Arc<str>,
    pub(crate) port: u16,
}

/// The way to a Service's port on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The address of this machine from which it leads.
    pub(crate) from: IpAddr,
    pub(crate) passage: Passage,
    /// What the other machine wants to hear.
    pub(crate) key: Secret,
}

/// What a connection from another machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) key: Secret,
    pub(crate) passage: Passage,
    pub(crate) carries: Carries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Requests of anybody, one after the other, which say themselves whom they come from.
    Requests(PodSpeaks),
    /// The bytes of this client.
    Bytes(IpAddr),
}

impl Announced {
    fn line(&self) -> String {
        let Self { key: Secret(key), passage: Passage { service, port }, carries } = self;
        let carries = match carries {
            Carries::Requests(PodSpeaks::Http1) => "http1".to_owned(),
            Carries::Requests(PodSpeaks::Http2) => "http2".to_owned(),
            Carries::Bytes(client) => format!("bytes {client}"),
        };
        format!("{PROTOCOL} {key} {service} {port} {carries}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (PROTOCOL, key, service) = (words.next()?, words.next()?, words.next()?) else { return None };
        let (key, port) = (Secret(key.to_owned()), words.next()?.parse().ok()?);
        let carries = match (words.next()?, words.next()) {
            ("http1", None) => Carries::Requests(PodSpeaks::Http1),
            ("http2", None) => Carries::Requests(PodSpeaks::Http2),
            ("bytes", Some(client)) => Carries::Bytes(client.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then(|| Self { key, passage: Passage { service: service.into(), port }, carries })
    }
}

/// Announces a connection, and waits until the other machine has taken it.
///
/// # Errors
/// When it breaks, or the other machine has no pod for it.
pub(crate) async fn announce(stream: &mut TcpStream, announced: &Announced) -> io::Result<()> {
    notice_when_it_dies(stream)?;
    stream.write_all(announced.line().as_bytes()).await?;
    if stream.read_u8().await? == TAKEN {
        return Ok(());
    }
    Err(io::Error::other(NothingThere))
}

/// The other machine is well, and has no pod for it.
#[derive(Debug, thiserror::Error)]
#[error("the other machine has no pod for it")]
struct NothingThere;

/// Whether the other machine answered and has nothing for it, rather than not answering.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NothingThere>())
}

/// What another machine announces.
///
/// # Errors
/// When the connection breaks, or begins with something else.
pub(crate) async fn announced(stream: &mut TcpStream) -> io::Result<Announced> {
    notice_when_it_dies(stream)?;
    // The other side waits for our answer, so nothing comes after the line.
    let mut line = Vec::with_capacity(LONGEST_LINE);
    while !line.ends_with(b"\n") {
        if line.len() == LONGEST_LINE || stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let line = std::str::from_utf8(&line).map_err(io::Error::other)?;
    Announced::parse(line.trim_end_matches('\n')).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Says that a connection was taken.
pub(crate) async fn take(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_u8(TAKEN).await
}

/// Says that a connection was not taken: nothing of it was processed.
pub(crate) async fn refuse(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_u8(REFUSED).await
}

fn notice_when_it_dies(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, PROBED_EVERY)?;
    set_tcp_keepintvl(stream, PROBED_EVERY)?;
    set_tcp_keepcnt(stream, MOST_PROBES)?;
    Ok(())
}

/// What a connection from another machine begins with is read or refused, and what is read is what was said.
#[cfg(any(test, fuzzing))]
pub(super) fn any_line(line: &str) {
    if let Some(announced) = Announced::parse(line) {
        assert_eq!(Announced::parse(announced.line().trim_end_matches('\n')), Some(announced));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcing(carries: Carries) -> Announced {
        let key = Secret("k3y".to_owned());
        Announced { key, passage: Passage { service: "production/web".into(), port: 80 }, carries }
    }

    #[test]
    fn what_is_announced_is_understood_and_nothing_else_is() {
        for carries in [
            Carries::Requests(PodSpeaks::Http1),
            Carries::Requests(PodSpeaks::Http2),
            Carries::Bytes([100, 64, 0, 7].into()),
        ] {
            let announced = announcing(carries);
            assert_eq!(Announced::parse(announced.line().trim_end_matches('\n')), Some(announced));
        }
        for line in [
            "",
            "GET / HTTP/1.1",
            "SEGUE/2 k a/b 80 http1",
            "SEGUE/1 k a/b 80",
            "SEGUE/1 a/b 80 http1",
            "SEGUE/1 k a/b 80 http1 x",
            "SEGUE/1 k a/b x http1",
            "SEGUE/1 k a/b 80 bytes",
            "SEGUE/1 k a/b 80 bytes 1.2.3.4 x",
        ] {
            assert_eq!(Announced::parse(line), None, "{line}");
        }
    }

    #[tokio::test]
    async fn a_connection_goes_on_once_it_was_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for is_taken in [true, false] {
            let client = async {
                let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                announce(&mut stream, &announcing(Carries::Requests(PodSpeaks::Http2))).await
            };
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let said = announced(&mut stream).await.unwrap();
                if is_taken {
                    take(&mut stream).await.unwrap()
                } else {
                    refuse(&mut stream).await.unwrap()
                }
                said
            };
            let (went_on, said) = tokio::join!(client, server);
            assert_eq!((went_on.is_ok(), said), (is_taken, announcing(Carries::Requests(PodSpeaks::Http2))));
        }
    }
}
