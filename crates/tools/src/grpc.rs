//! As much of gRPC over HTTP/2 as one unary call needs: messages in bytes that nobody here understands.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

/// The method of the bundled application that gives its message back.
pub(crate) const ECHO: &str = "/segue.App/Echo";
/// The method that tells whether a server is well.
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A byte that says whether the message is compressed, and four of length.
const PREFIX: usize = 5;

/// A body that holds one message.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(PREFIX + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(message);
    body.freeze()
}

/// The message of a body that holds exactly one, uncompressed.
pub(crate) fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [compressed, length @ ..] = prefix;
    let whole = u32::from_be_bytes(*length.first_chunk()?) as usize == message.len();
    (*compressed == 0 && whole).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_whole_message_is_read() {
        for sent in [&b""[..], b"x", &[7; 70_000]] {
            let body = framed(sent);
            assert_eq!(message(&body), Some(sent));
            assert_eq!(message(&body[..body.len() - 1]), None);
            assert_eq!(message(&[&body[..], b"more"].concat()), None);
        }
        assert_eq!(message(b"\x01\0\0\0\0"), None, "compressed");
    }
}
