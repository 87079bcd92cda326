//! Counts what is read from an archive or layer and stops at the limits.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::images::limits::Limits;

/// A reader that spends an [`Allowance`].
pub(crate) struct Meter<R> {
    inner: R,
    allowance: Allowance,
}

/// How much may still be read; shared between the meter under the tar reader and the one who drives it.
#[derive(Clone)]
pub(crate) struct Allowance(Rc<Counts>);

struct Counts {
    used: Cell<u64>,
    limit: u64,
    /// Bytes left for headers, or `None` while content is being read.
    headers_left: Cell<Option<u64>>,
    header_limit: u64,
}

/// A reader that stops at the limit even when its bytes don't come from the stream, as holes of sparse files.
pub(crate) struct Bounded<R> {
    inner: R,
    left: u64,
    limit: u64,
}

/// A limit that was reached, carried through `io::Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exceeded {
    #[error("more than {limit} bytes")]
    Bytes { limit: u64 },
    #[error("more than {limit} bytes of headers")]
    Headers { limit: u64 },
}

impl<R: Read> Meter<R> {
    pub(crate) fn new(inner: R, allowance: Allowance) -> Meter<R> {
        Meter { inner, allowance }
    }

    /// Reads what follows the last entry.
    pub(crate) fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.inner)
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.allowance
            .spend(read as u64)
            .and_then(|()| self.allowance.spend_headers(read as u64))
            .map_err(io::Error::other)?;
        Ok(read)
    }
}

impl Allowance {
    pub(crate) fn new(limits: &Limits) -> Allowance {
        Allowance(Rc::new(Counts {
            used: Cell::new(0),
            limit: limits.unpacked_bytes,
            headers_left: Cell::new(None),
            header_limit: limits.header_bytes,
        }))
    }

    /// From now on the tar reader reads headers, which it keeps in memory.
    pub(crate) fn expect_headers(&self) {
        self.0.headers_left.set(Some(self.0.header_limit));
    }

    /// From now on only content is read, which goes to disk.
    pub(crate) fn expect_content(&self) {
        self.0.headers_left.set(None);
    }

    pub(crate) fn used(&self) -> u64 {
        self.0.used.get()
    }

    pub(crate) fn spend(&self, bytes: u64) -> Result<(), Exceeded> {
        let used = self.0.used.get().saturating_add(bytes);
        self.0.used.set(used);
        if used > self.0.limit {
            return Err(Exceeded::Bytes { limit: self.0.limit });
        }
        Ok(())
    }

    /// Bounds a reader by what is left.
    pub(crate) fn bounded<R: Read>(&self, inner: R) -> Bounded<R> {
        Bounded { inner, left: self.0.limit.saturating_sub(self.0.used.get()), limit: self.0.limit }
    }

    fn spend_headers(&self, bytes: u64) -> Result<(), Exceeded> {
        let Some(left) = self.0.headers_left.get() else {
            return Ok(());
        };
        match left.checked_sub(bytes) {
            Some(left) => {
                self.0.headers_left.set(Some(left));
                Ok(())
            }
            None => Err(Exceeded::Headers { limit: self.0.header_limit }),
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::other(Exceeded::Bytes { limit: self.limit })),
        }
    }
}

impl Exceeded {
    pub(crate) fn find(error: &io::Error) -> Option<Exceeded> {
        let inner = error.get_ref()?;
        match inner.downcast_ref::<Exceeded>() {
            Some(exceeded) => Some(*exceeded),
            None => {
                let source = inner.source()?;
                Exceeded::find(source.downcast_ref::<io::Error>()?)
            }
        }
    }
}
