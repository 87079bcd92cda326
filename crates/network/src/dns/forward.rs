//! Asking the host's resolvers for names that are not ours. Queries and answers pass as they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Via;

/// A resolver that has not answered by then is passed over. Clients give up after 5 seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
/// The largest datagram there is.
const LARGEST_DATAGRAM: usize = 64 << 10;

/// The first answer that a resolver gives; None when none does.
pub(super) async fn ask(resolvers: &[SocketAddr], query: &[u8], via: Via) -> Option<Vec<u8>> {
    for resolver in resolvers {
        let asked = match via {
            Via::Datagram => timeout(LONGEST_ANSWER, ask_by_datagram(*resolver, query)).await,
            Via::Stream => timeout(LONGEST_ANSWER, ask_by_stream(*resolver, query)).await,
        };
        match asked {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!("the resolver {resolver} failed: {error}"),
            Err(_) => tracing::debug!("the resolver {resolver} did not answer"),
        }
    }
    None
}

async fn ask_by_datagram(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = match resolver {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Connected, so that the kernel drops what comes from anybody else.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut answer = vec![0; LARGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= 2 && answer[..2] == query[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_by_stream(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}

/// Reads a message as DNS writes it on streams: a 2-byte length, then the message.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message the same way.
pub(super) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
