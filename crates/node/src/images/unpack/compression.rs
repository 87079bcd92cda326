//! Streams are told apart by their first bytes, not by what a manifest calls them: the two disagree in the wild.

use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

type Rejoined<R> = Chain<Cursor<Vec<u8>>, R>;

/// The plain bytes of a stream that is plain, gzip (of any number of members) or zstd.
pub(crate) fn decompressed(mut stream: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut first = Vec::new();
    stream.by_ref().take(4).read_to_end(&mut first)?;
    let is_gzip = first.starts_with(&GZIP);
    let is_zstd = first.starts_with(&ZSTD);
    let stream: Rejoined<_> = Cursor::new(first).chain(stream);
    if is_gzip {
        Ok(Box::new(MultiGzDecoder::new(stream)))
    } else if is_zstd {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(stream)?))
    } else {
        Ok(Box::new(stream))
    }
}
