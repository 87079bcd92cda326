//! One engine's connection to the shim. Never blocks: what can't be written yet waits here, up to a limit, since a
//! reader that has stopped must not cost the pod memory.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::Deserialize;

use super::protocol::{self, Call, Decoder, ProtocolError};
use crate::container::chain;

/// Ten thousand events and more: beyond this, nobody is reading.
const MAX_UNSENT_BYTES: usize = 4 * 1024 * 1024;

pub(super) struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
}

/// What came in: a request, or the number of one that can't be understood and why.
pub(super) enum Received {
    Call(Call),
    Unknown { id: u64, message: String },
}

/// The connection is over and to be forgotten.
pub(super) struct Closed;

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, decoder: Decoder::default(), unsent: Vec::new() })
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there.
    pub(super) fn receive(&mut self) -> Result<Vec<Received>, Closed> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Closed),
                Ok(length) => self.decoder.push(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        self.decode().map_err(|error| {
            super::journal::log(&format!("a connection is closed: {error}"));
            Closed
        })
    }

    fn decode(&mut self) -> Result<Vec<Received>, ProtocolError> {
        let mut received = Vec::new();
        while let Some(json) = self.decoder.next_frame()? {
            received.push(read_call(&json)?);
        }
        Ok(received)
    }

    /// Sends a frame, as far as that goes now.
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), Closed> {
        self.unsent.extend_from_slice(frame);
        self.flush()
    }

    pub(super) fn flush(&mut self) -> Result<(), Closed> {
        let mut sent = 0;
        while let Some(rest) = self.unsent.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Closed),
            }
        }
        self.unsent.drain(..sent);
        if self.unsent.len() > MAX_UNSENT_BYTES { Err(Closed) } else { Ok(()) }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn read_call(json: &[u8]) -> Result<Received, ProtocolError> {
    #[derive(Deserialize)]
    struct Numbered {
        id: u64,
    }
    match protocol::decode::<Call>(json) {
        Ok(call) => Ok(Received::Call(call)),
        Err(error @ ProtocolError::Decode(_)) => match protocol::decode::<Numbered>(json) {
            Ok(Numbered { id }) => Ok(Received::Unknown { id, message: chain(&error) }),
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}
