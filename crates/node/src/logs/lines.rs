//! Which lines of a log are wanted, and how they are shown.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::{LogOptions, Timestamps};
use crate::cri_log::{Record, Tag, parse};

/// Turns records into the text that was asked for.
pub(super) struct Lines {
    since: Option<Timestamp>,
    timestamps: Timestamps,
    /// The bytes that may still be given.
    left: Option<usize>,
    tail: Option<Tail>,
    unfinished: BytesMut,
    place: Place,
}

/// The last lines so far, while they are being looked for.
struct Tail {
    wanted: usize,
    lines: VecDeque<Bytes>,
    line: BytesMut,
}

/// Where in a line the next record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Beginning,
    /// After the part that was taken, or left out.
    Within(Wanted),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

impl Lines {
    pub(super) fn new(options: &LogOptions, since: Option<Timestamp>) -> Self {
        let tail = options.tail_lines.map(|wanted| Tail { wanted, lines: VecDeque::new(), line: BytesMut::new() });
        Self {
            since,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            tail,
            unfinished: BytesMut::new(),
            place: Place::Beginning,
        }
    }

    /// Takes what was read and gives what is to be shown now.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Bytes {
        self.unfinished.extend_from_slice(chunk);
        let mut shown = BytesMut::new();
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let record = self.unfinished.split_to(end + 1);
            self.take_record(&record, &mut shown);
        }
        self.limited(shown.freeze())
    }

    /// All that was written so far has been taken: the last lines are known, and from here on all are shown.
    pub(super) fn caught_up(&mut self) -> Bytes {
        let Some(tail) = self.tail.take() else { return Bytes::new() };
        let mut shown = BytesMut::new();
        tail.lines.iter().for_each(|line| shown.extend_from_slice(line));
        shown.extend_from_slice(&tail.line);
        self.limited(shown.freeze())
    }

    /// Whether nothing more may be given.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// What is no record is somebody else's doing and left out.
    fn take_record(&mut self, bytes: &[u8], shown: &mut BytesMut) {
        let Some(record) = parse(bytes) else { return };
        let wanted = match self.place {
            Place::Within(wanted) => wanted,
            Place::Beginning if self.since.is_some_and(|since| record.time < since) => Wanted::No,
            Place::Beginning => Wanted::Yes,
        };
        if wanted == Wanted::Yes {
            self.show(&record, shown);
        }
        self.place = match record.tag {
            Tag::Partial => Place::Within(wanted),
            Tag::Full => Place::Beginning,
        };
    }

    fn show(&mut self, record: &Record<'_>, shown: &mut BytesMut) {
        let out = self.tail.as_mut().map_or(shown, |tail| &mut tail.line);
        if self.place == Place::Beginning && self.timestamps == Timestamps::Shown {
            out.extend_from_slice(format!("{:.9} ", record.time).as_bytes());
        }
        out.extend_from_slice(record.text);
        if record.tag == Tag::Full {
            out.extend_from_slice(b"\n");
            self.tail.iter_mut().for_each(Tail::end_line);
        }
    }

    fn limited(&mut self, mut bytes: Bytes) -> Bytes {
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        bytes
    }
}

impl Tail {
    fn end_line(&mut self) {
        self.lines.push_back(self.line.split().freeze());
        if self.lines.len() > self.wanted {
            self.lines.pop_front();
        }
    }
}
