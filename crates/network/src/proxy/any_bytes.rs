//! Whatever bytes come, our parsers neither panic nor change their mind by how the bytes are cut.

use http::header::{COOKIE, HeaderMap, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::*;

use super::detect::{Spoken, spoken};
use super::grpc::Messages;
use super::sticky::asked_for;
use super::websocket::Frames;
use crate::frames::{Command, FrameReader, Report, decode};

/// Bytes that begin like what is parsed, so that the deeper parts are reached too.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let beginnings = prop_oneof![
        Just(&b""[..]),
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]),
        Just(&b"\x81\xfe"[..]),
        Just(&b"\x00\x00\x00\x00\x05"[..]),
        Just(&b"\x00\x00\x00\x10{\"v\":1,\"message\":"[..]),
    ];
    (beginnings, vec(any::<u8>(), 0..300)).prop_map(|(beginning, rest)| [beginning, &rest].concat())
}

proptest! {
    #[test]
    fn what_a_client_speaks_does_not_change_once_it_is_clear(bytes in bytes()) {
        let mut clear = None;
        for end in 0..=bytes.len() {
            let now = spoken(&bytes[..end]);
            match clear {
                Some(before) => prop_assert_eq!(now, before),
                None if !matches!(now, Spoken::Unclear | Spoken::Http1Begun) => clear = Some(now),
                None => {}
            }
        }
    }

    #[test]
    fn frames_and_messages_end_where_they_end_however_they_are_cut(bytes in bytes(), piece in 1_usize..40) {
        let (mut whole, mut pieces) = (Frames::default(), Frames::default());
        read_frames(&mut whole, &bytes);
        bytes.chunks(piece).for_each(|chunk| read_frames(&mut pieces, chunk));
        prop_assert_eq!(whole, pieces);
        let (mut whole, mut pieces) = (Messages::default(), Messages::default());
        whole.read(&bytes);
        bytes.chunks(piece).for_each(|chunk| pieces.read(chunk));
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn messages_between_roles_are_read_or_refused(bytes in bytes()) {
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        while let Ok(Some(payload)) = reader.next_payload() {
            let _ = (decode::<Command>(&payload), decode::<Report>(&payload));
        }
    }

    #[test]
    fn cookies_are_read_or_passed_over(line in "[ -~]{0,80}", token: u64) {
        let headers = |line: String| -> HeaderMap { [(COOKIE, HeaderValue::from_str(&line).unwrap())].into_iter().collect() };
        asked_for(&headers(line.clone()), "stick");
        if !line.contains("stick") {
            prop_assert_eq!(asked_for(&headers(format!("{line};stick={token:x}")), "stick"), Some(token));
        }
    }
}

fn read_frames(frames: &mut Frames, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let read = frames.read_one(bytes);
        assert!(read > 0, "some bytes are read each time");
        bytes = &bytes[read..];
    }
}
