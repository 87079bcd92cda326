//! The outputs of one container on their way into its log. The pipe is always emptied, whatever becomes of the log,
//! so that the container never waits for a disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;

use crate::cri_log::{Lines, LogFile, Records, Stream};

/// What is read at once; a pipe holds 64 KiB.
const READ_BYTES: usize = 16 * 1024;

pub(super) struct Output {
    streams: [Option<Pipe>; 2],
    log: LogFile,
}

struct Pipe {
    file: File,
    lines: Lines,
}

/// Whether there may be more to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Portion {
    More,
    NothingNow,
    End,
}

impl Output {
    pub(super) fn new(log: LogFile, [stdout, stderr]: [File; 2]) -> Self {
        let pipe = |file, stream| Some(Pipe { file, lines: Lines::of(stream) });
        Self { streams: [pipe(stdout, Stream::Stdout), pipe(stderr, Stream::Stderr)], log }
    }

    /// The pipes that are still open, with the numbers `read` takes.
    pub(super) fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let open = self.streams.iter().enumerate();
        open.filter_map(|(number, pipe)| Some((number, pipe.as_ref()?.file.as_fd())))
    }

    /// Takes one portion from a pipe to the log.
    pub(super) fn read(&mut self, number: usize) {
        self.read_some(number);
    }

    /// Takes all that is there, and closes. For a container that has ended, whose pipes nobody else holds.
    pub(super) fn finish(&mut self) {
        for number in 0..self.streams.len() {
            while self.read_some(number) == Portion::More {}
            self.close(number);
        }
    }

    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.log.reopen()
    }

    fn read_some(&mut self, number: usize) -> Portion {
        let Some(Some(pipe)) = self.streams.get_mut(number) else { return Portion::End };
        let mut buffer = [0; READ_BYTES];
        let length = match pipe.file.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Portion::NothingNow,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Portion::More,
            Err(_) => 0,
        };
        if length == 0 {
            self.close(number);
            return Portion::End;
        }
        let mut records = Records::default();
        pipe.lines.take(buffer.get(..length).unwrap_or_default(), Timestamp::now(), &mut records);
        self.log.append(&records);
        Portion::More
    }

    fn close(&mut self, number: usize) {
        let pipe = self.streams.get_mut(number).and_then(Option::take);
        if let Some(mut pipe) = pipe {
            let mut records = Records::default();
            pipe.lines.finish(Timestamp::now(), &mut records);
            self.log.append(&records);
        }
    }
}
