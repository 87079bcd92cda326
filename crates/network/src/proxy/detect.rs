//! What does this connection speak? Told by its first bytes, and by who speaks first. A wrong guess breaks nothing:
//! what isn't known to be HTTP passes byte by byte.

/// What the first bytes of a client tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    Opaque,
    /// Too few bytes to tell.
    Unclear,
    /// A well-known method and a space, but no whole line yet.
    Http1Begun,
}

/// The longest request line that is looked at. Longer ones are rare and still pass, byte by byte.
pub(crate) const LONGEST_REQUEST_LINE: usize = 16 << 10;

const WELL_KNOWN: [&[u8]; 9] =
    [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"];

/// No registered method is longer than `BASELINE-CONTROL`; there is room for private ones.
const LONGEST_METHOD: usize = 24;

/// What a client of HTTP/2 begins with (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks for the preface of HTTP/2, or the request line of HTTP/1: `METHOD SP target SP HTTP/1.x`.
pub(crate) fn spoken(first: &[u8]) -> Spoken {
    if first.starts_with(HTTP2_PREFACE) {
        return Spoken::Http2;
    }
    if first.len() > "PRI ".len() && HTTP2_PREFACE.starts_with(first) {
        return Spoken::Unclear;
    }
    // Empty lines before a request are allowed, and seen from old clients.
    let first = first.trim_ascii_start();
    let method = first.iter().take_while(|byte| is_in_a_method(**byte)).count();
    if method > LONGEST_METHOD {
        return Spoken::Opaque;
    }
    match first.get(method) {
        None => Spoken::Unclear,
        Some(b' ') if method > 0 => {
            let unfinished = if WELL_KNOWN.contains(&&first[..method]) { Spoken::Http1Begun } else { Spoken::Unclear };
            request_line(&first[method + 1..], unfinished)
        }
        Some(_) => Spoken::Opaque,
    }
}

fn is_in_a_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

fn request_line(after_method: &[u8], unfinished: Spoken) -> Spoken {
    match after_method.iter().position(|byte| *byte == b'\n' || (*byte < b' ' && *byte != b'\r')) {
        Some(end) if after_method[end] == b'\n' => {
            let line = after_method[..end].trim_ascii_end();
            if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") { Spoken::Http1 } else { Spoken::Opaque }
        }
        Some(_) => Spoken::Opaque,
        None if after_method.len() > LONGEST_REQUEST_LINE => Spoken::Opaque,
        None => unfinished,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: &[u8], expected: Spoken) {
        assert_eq!(spoken(first), expected, "{:?}", String::from_utf8_lossy(first));
    }

    #[test]
    fn http_is_known_by_its_request_line() {
        for first in [
            "GET / HTTP/1.1\r\n",
            "POST /x?y=z HTTP/1.0\n",
            "BREW /pot HTTP/1.1\r\nHost: a\r\n",
            "CONNECT a:1 HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
        ] {
            check(first.as_bytes(), Spoken::Http1);
        }
    }

    #[test]
    fn http_2_is_known_by_its_whole_preface() {
        check(HTTP2_PREFACE, Spoken::Http2);
        check(&[HTTP2_PREFACE, b"more"].concat(), Spoken::Http2);
        for length in 0..HTTP2_PREFACE.len() {
            check(&HTTP2_PREFACE[..length], Spoken::Unclear);
        }
    }

    #[test]
    fn everything_else_is_opaque() {
        let tls = b"\x16\x03\x01\x02\x00\x01\x00".as_slice();
        for first in [
            tls,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
            b"PING\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"hello",
            b"GET /old\r\n",
            b"GET \x00",
        ] {
            check(first, Spoken::Opaque);
        }
        check(&[b'A'; LONGEST_METHOD + 1], Spoken::Opaque);
    }

    #[test]
    fn a_line_that_is_not_over_can_be_either() {
        for first in ["", "G", "GET", "HELLO world", "\r\n"] {
            check(first.as_bytes(), Spoken::Unclear);
        }
        for first in ["GET ", "GET /some/path", "GET / HTTP/1.1"] {
            check(first.as_bytes(), Spoken::Http1Begun);
        }
    }

    #[test]
    fn endless_lines_are_opaque() {
        let line = [b"GET /".as_slice(), &[b'a'; LONGEST_REQUEST_LINE]].concat();
        check(&line, Spoken::Opaque);
    }
}
