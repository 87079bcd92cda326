//! One query to the host's resolvers, one after the other. Queries and answers pass as they are.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Via;
use super::layout::{Layout, is_response};

/// A resolver that has not answered by then is passed over. Clients give up after 5 seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
/// The largest datagram there is.
const LARGEST_DATAGRAM: usize = 64 << 10;

/// The first answer that a resolver gives, under a number of our own; None when none does.
pub(super) async fn ask(resolvers: &[SocketAddr], query: &[u8], via: Via) -> Option<Vec<u8>> {
    for resolver in resolvers {
        let query = numbered(query);
        let asked = match via {
            Via::Datagram => timeout(LONGEST_ANSWER, ask_by_datagram(*resolver, &query)).await,
            Via::Stream => timeout(LONGEST_ANSWER, ask_by_stream(*resolver, &query)).await,
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
        if answers(&answer[..length], query) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_by_stream(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if answers(&answer, query) { Ok(answer) } else { Err(io::Error::other("it answered another question")) }
}

/// The query under a number that nobody can guess: an answer is kept for everybody.
fn numbered(query: &[u8]) -> Vec<u8> {
    let number = RandomState::new().hash_one(0).to_be_bytes();
    [&number[..2], query.get(2..).unwrap_or_default()].concat()
}

/// Whether a message answers a query: by number and question. A resolver that fails may leave the question out.
fn answers(message: &[u8], query: &[u8]) -> bool {
    let is_about_it = match (Layout::of(message), Layout::of(query)) {
        (Some(one), Some(other)) => message[one.question].eq_ignore_ascii_case(&query[other.question]),
        (None, _) => message.get(4..12).is_some_and(|counts| counts == [0; 8]),
        (Some(_), None) => false,
    };
    is_response(message) && message.get(..2) == query.get(..2) && is_about_it
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

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    #[test]
    fn only_what_has_the_number_and_the_question_is_an_answer() {
        let mut query = Message::query();
        query.metadata.id = 7;
        query.add_query(Query::query(Name::from_ascii("Example.com.").unwrap(), RecordType::A));
        let answer = query.clone().into_response();
        let with = |change: fn(&mut Message)| {
            let mut answer = answer.clone();
            change(&mut answer);
            answer
        };
        for (what, message, expected) in [
            ("the answer", answer.clone(), true),
            ("in another case", with(|it| it.queries[0].name = Name::from_ascii("example.COM.").unwrap()), true),
            ("another number", with(|it| it.metadata.id = 8), false),
            ("another name", with(|it| it.queries[0].name = Name::from_ascii("example.org.").unwrap()), false),
            ("another type", with(|it| it.queries[0].query_type = RecordType::AAAA), false),
            ("the query", query.clone(), false),
            (
                "a refusal without the question",
                with(|it| {
                    it.queries.clear();
                    it.metadata.response_code = ResponseCode::FormErr;
                }),
                true,
            ),
        ] {
            assert_eq!(answers(&message.to_vec().unwrap(), &query.to_vec().unwrap()), expected, "{what}");
        }
        assert!(!answers(b"hello", &query.to_vec().unwrap()));
    }

    #[test]
    fn a_query_is_asked_under_another_number() {
        let numbers: std::collections::BTreeSet<_> = (0..8).map(|_| numbered(&[0; 12])[..2].to_vec()).collect();
        assert!(numbers.len() > 1);
        assert_eq!(numbered(&[1; 12])[2..], [1; 10]);
    }
}
