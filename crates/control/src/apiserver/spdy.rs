//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy), as far as `kubectl port-forward` speaks it, which carries them in a
//! WebSocket. Flow control is left out, as its library leaves it out.

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// With which both sides compress headers; the draft prints it in 2.6.10.1.
const DICTIONARY: &[u8] = include_bytes!("../../data/spdy-dictionary.bin");

/// A client's frames are some 32 KiB long.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// What the names and values of one stream may have.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEAD_BYTES: usize = 8;

const CONTROL: u32 = 1 << 31;
const VERSION: u32 = 3 << 16;
const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const GOAWAY: u32 = 7;
const FIN: u8 = 1;
const CANCEL: u32 = 5;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A stream begins.
    Open {
        stream: u32,
        headers: Vec<(String, String)>,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        is_last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// One that needs no answer.
    Other,
}

/// Why bytes are no SPDY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("a frame is shorter than its kind")]
    TooShort,
    #[error("a frame is of another version than 3")]
    Version,
    #[error("headers can't be decompressed, or are longer than {HEADER_BYTES_MAX} bytes")]
    Headers,
}

/// Puts frames together from bytes as they come.
pub(super) struct Reader {
    bytes: BytesMut,
    headers: Decompress,
}

/// Makes the only frames with headers.
pub(super) struct Writer {
    headers: Compress,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), headers: Decompress::new(true) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if it has come wholly.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        let Some(mut head) = self.bytes.get(..HEAD_BYTES) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if length > FRAME_BYTES_MAX {
            return Err(SpdyError::TooLong(length));
        }
        if self.bytes.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(HEAD_BYTES);
        let payload = self.bytes.split_to(length).freeze();
        if first & CONTROL == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: payload, is_last: flags & FIN != 0 }));
        }
        if first & 0x7fff_0000 != VERSION {
            return Err(SpdyError::Version);
        }
        self.control(first & 0xffff, payload).map(Some)
    }

    fn control(&mut self, kind: u32, mut payload: Bytes) -> Result<Frame, SpdyError> {
        match kind {
            SYN_STREAM => {
                let stream = number(&mut payload)? & !CONTROL;
                let _belongs_to = number(&mut payload)?;
                let _priority_and_slot = payload.try_get_u16().map_err(|_| SpdyError::TooShort)?;
                Ok(Frame::Open { stream, headers: self.headers(&payload)? })
            }
            RST_STREAM => Ok(Frame::Reset { stream: number(&mut payload)? & !CONTROL }),
            PING => Ok(Frame::Ping { id: number(&mut payload)? }),
            GOAWAY => Ok(Frame::GoAway),
            _ => Ok(Frame::Other),
        }
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let plain = self.decompress(compressed)?;
        let mut plain = Bytes::from(plain);
        let count = number(&mut plain)?;
        (0..count).map(|_| Ok((text(&mut plain)?, text(&mut plain)?))).collect()
    }

    fn decompress(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(HEADER_BYTES_MAX);
        loop {
            let before = self.headers.total_in();
            let result = self.headers.decompress_vec(compressed, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.headers.total_in() - before).map_err(|_| SpdyError::Headers)?;
            compressed = compressed.get(taken..).ok_or(SpdyError::Headers)?;
            match result {
                Ok(_) if compressed.is_empty() && plain.len() < plain.capacity() => return Ok(plain),
                Ok(_) => return Err(SpdyError::Headers),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers.set_dictionary(DICTIONARY).map_err(|_| SpdyError::Headers)?;
                }
                Err(_) => return Err(SpdyError::Headers),
            }
        }
    }
}

impl Writer {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut headers = Compress::new(Compression::default(), true);
        headers.set_dictionary(DICTIONARY).map_err(|_| SpdyError::Headers)?;
        Ok(Self { headers })
    }

    /// Accepts a stream, without headers.
    pub(super) fn accept(&mut self, stream: u32) -> Result<Bytes, SpdyError> {
        let mut compressed = Vec::with_capacity(64);
        let no_headers = 0_u32.to_be_bytes();
        self.headers.compress_vec(&no_headers, &mut compressed, FlushCompress::Sync).map_err(|_| SpdyError::Headers)?;
        Ok(frame(CONTROL | VERSION | SYN_REPLY, 0, &[&stream.to_be_bytes(), &compressed]))
    }
}

/// Bytes of a stream.
pub(super) fn data(stream: u32, bytes: &[u8]) -> Bytes {
    frame(stream, 0, &[bytes])
}

/// The end of a stream in this direction, after its last bytes.
pub(super) fn last_data(stream: u32, bytes: &[u8]) -> Bytes {
    frame(stream, FIN, &[bytes])
}

/// The end of a stream in both directions.
pub(super) fn reset(stream: u32) -> Bytes {
    frame(CONTROL | VERSION | RST_STREAM, 0, &[&stream.to_be_bytes(), &CANCEL.to_be_bytes()])
}

/// The answer to a ping is the ping.
pub(super) fn pong(id: u32) -> Bytes {
    frame(CONTROL | VERSION | PING, 0, &[&id.to_be_bytes()])
}

fn frame(first: u32, flags: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + length);
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(&((u32::from(flags) << 24) | length as u32).to_be_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    Bytes::from(bytes)
}

fn number(bytes: &mut Bytes) -> Result<u32, SpdyError> {
    bytes.try_get_u32().map_err(|_| SpdyError::TooShort)
}

fn text(bytes: &mut Bytes) -> Result<String, SpdyError> {
    let length = number(bytes)? as usize;
    if length > bytes.len() {
        return Err(SpdyError::TooShort);
    }
    Ok(String::from_utf8_lossy(&bytes.split_to(length)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a client begins a stream; its headers are compressed together with those of the streams before.
    fn open(headers: &mut Compress, stream: u32, pairs: &[(&str, &str)]) -> Bytes {
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut compressed = Vec::with_capacity(1024);
        headers.compress_vec(&plain, &mut compressed, FlushCompress::Sync).unwrap();
        frame(CONTROL | VERSION | SYN_STREAM, 0, &[&stream.to_be_bytes(), &[0; 6], &compressed])
    }

    fn client() -> Compress {
        let mut headers = Compress::new(Compression::default(), true);
        headers.set_dictionary(DICTIONARY).unwrap();
        headers
    }

    fn read(reader: &mut Reader, bytes: &[u8]) -> Vec<Frame> {
        reader.push(bytes);
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut headers = client();
        let said = [
            open(&mut headers, 1, &[("port", "80"), ("streamtype", "error")]),
            open(&mut headers, 3, &[("port", "80"), ("streamtype", "data")]),
            data(3, b"some bytes"),
            last_data(3, b""),
            pong(7),
            reset(1),
        ]
        .concat();
        let opened = |stream, kind: &str| Frame::Open {
            stream,
            headers: [("port", "80"), ("streamtype", kind)].map(|(name, value)| (name.into(), value.into())).to_vec(),
        };
        let wanted = [
            opened(1, "error"),
            opened(3, "data"),
            Frame::Data { stream: 3, bytes: Bytes::from_static(b"some bytes"), is_last: false },
            Frame::Data { stream: 3, bytes: Bytes::new(), is_last: true },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 1 },
        ];
        for cut in 0..said.len() {
            let mut reader = Reader::new();
            let mut frames = read(&mut reader, &said[..cut]);
            frames.extend(read(&mut reader, &said[cut..]));
            assert_eq!(frames, wanted, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut reader = Reader::new();
            reader.push(bytes);
            reader.next_frame().unwrap_err()
        };
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), SpdyError::Version);
        assert_eq!(refused(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), SpdyError::TooLong(0x00ff_ffff));
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]), SpdyError::TooShort);
        assert_eq!(refused(&frame(CONTROL | VERSION | SYN_STREAM, 0, &[&[0; 10], b"no zlib"])), SpdyError::Headers);
        // A kilobyte that stands for a megabyte.
        let long = "x".repeat(1_000_000);
        assert_eq!(refused(&open_large(&long)), SpdyError::Headers);
    }

    fn open_large(value: &str) -> Bytes {
        let mut headers = client();
        let mut compressed = Vec::with_capacity(value.len());
        headers.compress_vec(value.as_bytes(), &mut compressed, FlushCompress::Sync).unwrap();
        frame(CONTROL | VERSION | SYN_STREAM, 0, &[&[0; 10], &compressed])
    }

    #[test]
    fn accepted_streams_are_told_with_headers_that_clients_can_read() {
        let mut writer = Writer::new().unwrap();
        let mut inflate = Decompress::new(true);
        for stream in [1, 3] {
            let accepted = writer.accept(stream).unwrap();
            assert_eq!(accepted[..4], [0x80, 3, 0, 2]);
            assert_eq!(accepted[8..12], u32::to_be_bytes(stream));
            let mut plain = Vec::with_capacity(64);
            let first = inflate.decompress_vec(&accepted[12..], &mut plain, FlushDecompress::Sync);
            if first.is_err() {
                inflate.set_dictionary(DICTIONARY).unwrap();
                let taken = usize::try_from(inflate.total_in()).unwrap();
                inflate.decompress_vec(&accepted[12 + taken..], &mut plain, FlushDecompress::Sync).unwrap();
            }
            assert_eq!(plain, [0; 4], "no headers");
        }
    }
}
