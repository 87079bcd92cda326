//! Whatever bytes come, our parsers neither panic nor change their mind by how the bytes are cut. Each function panics
//! where one does; `make fuzz` looks for such bytes for as long as it is let, the tests for a moment.

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::detect::{Spoken, spoken};
use super::grpc::Messages;
use super::sticky::asked_for;
use super::websocket::Frames;
use crate::frames::{Command, FrameReader, Report, decode};

/// What a client speaks does not change once it is clear.
pub fn what_a_client_speaks(bytes: &[u8]) {
    let mut clear = None;
    for end in 0..=bytes.len() {
        let now = spoken(&bytes[..end]);
        match clear {
            Some(before) => assert_eq!(now, before, "after {end} bytes"),
            None if !matches!(now, Spoken::Unclear | Spoken::Http1Begun) => clear = Some(now),
            None => {}
        }
    }
}

/// Frames of a WebSocket end where they end, however they are cut.
pub fn websocket_frames(bytes: &[u8]) {
    let (piece, bytes) = piece(bytes);
    let (mut whole, mut pieces) = (Frames::default(), Frames::default());
    read_frames(&mut whole, bytes);
    bytes.chunks(piece).for_each(|chunk| read_frames(&mut pieces, chunk));
    assert_eq!(whole, pieces, "in pieces of {piece}");
}

/// Messages of gRPC end where they end, however they are cut.
pub fn grpc_messages(bytes: &[u8]) {
    let (piece, bytes) = piece(bytes);
    let (mut whole, mut pieces) = (Messages::default(), Messages::default());
    whole.read(bytes);
    bytes.chunks(piece).for_each(|chunk| pieces.read(chunk));
    assert_eq!(whole, pieces, "in pieces of {piece}");
}

/// What the roles tell each other is read or refused.
pub fn messages_between_roles(bytes: &[u8]) {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    while let Ok(Some(payload)) = reader.next_payload() {
        let _ = (decode::<Command>(&payload), decode::<Report>(&payload));
    }
}

/// What another machine announces is read or refused.
pub fn announcements(bytes: &[u8]) {
    if let Ok(line) = std::str::from_utf8(bytes) {
        super::passage::any_line(line);
    }
}

/// Cookies are read or passed over, and ours is found behind any other.
pub fn cookies(bytes: &[u8]) {
    const NAME: &str = "stick";
    let Ok(line) = HeaderValue::from_bytes(bytes) else { return };
    let headers = |line| -> HeaderMap { [(COOKIE, line)].into_iter().collect() };
    let _ = asked_for(&headers(line), NAME);
    let is_named = bytes.windows(NAME.len()).any(|window| window == NAME.as_bytes());
    if let (Ok(text), false) = (std::str::from_utf8(bytes), is_named) {
        let line = HeaderValue::from_str(&format!("{text};{NAME}=2a")).ok().filter(|line| line.to_str().is_ok());
        if let Some(line) = line {
            assert_eq!(asked_for(&headers(line), NAME), Some(42));
        }
    }
}

/// How bytes are cut is told by the first of them.
fn piece(bytes: &[u8]) -> (usize, &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    (1 + usize::from(*first), rest)
}

fn read_frames(frames: &mut Frames, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let read = frames.read_one(bytes);
        assert!(read > 0, "some bytes are read each time");
        bytes = &bytes[read..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Bytes that begin like what is parsed, so that the deeper parts are reached too.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let beginnings = prop_oneof![
            Just(&b""[..]),
            Just(&b"GET / HTTP/1.1\r\n"[..]),
            Just(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
            Just(&b"\x07\x81\xfe"[..]),
            Just(&b"\x03\x00\x00\x00\x00\x05"[..]),
            Just(&b"\x00\x00\x00\x10{\"v\":1,\"message\":"[..]),
            Just(&b"SEGUE/1 k a/b 80 bytes "[..]),
            Just(&b"a=1; stick=2a"[..]),
        ];
        (beginnings, vec(any::<u8>(), 0..300)).prop_map(|(beginning, rest)| [beginning, &rest].concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in bytes()) {
            what_a_client_speaks(&bytes);
            websocket_frames(&bytes);
            grpc_messages(&bytes);
            messages_between_roles(&bytes);
            announcements(&bytes);
            cookies(&bytes);
        }

        #[test]
        fn any_text_is_read_as_cookies(line in "[ -~]{0,80}") {
            cookies(line.as_bytes());
        }
    }
}
