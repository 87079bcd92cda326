//! A container's log in the CRI format: what `kubectl logs` and every log collector read.
//! `2026-11-23T09:00:00.000000000Z stdout F text`; a line longer than 16 KiB comes in `P` pieces, the last one `F`.
//! The files `0.log`, `0.log.1` … `0.log.4`, newest first, hold 10 MiB each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// A log file that would grow beyond this is rotated first.
pub const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;
/// The file that is written and its rotated predecessors.
pub const MAX_FILES: usize = 5;
/// Longer lines are split, as the CRI demands of a runtime.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Which of the container's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Whether a record ends a line of the container's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    Full,
    Partial,
}

/// One record of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: Timestamp,
    pub stream: Stream,
    pub tag: Tag,
    /// Without the newline, which a `Full` record's line ended in.
    pub text: &'a [u8],
}

/// Reads one line of a log file, with or without its newline. None for what is no CRI record.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tag = match fields.next()? {
        b"F" => Tag::Full,
        b"P" => Tag::Partial,
        _ => return None,
    };
    Some(Record { time, stream, tag, text: fields.next()? })
}

/// The file that the log was renamed to `generation` rotations ago; the log itself for 0.
pub fn rotated(path: &Path, generation: usize) -> PathBuf {
    if generation == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{generation}"));
    PathBuf::from(name)
}

/// Makes records of the bytes of one stream. Keeps an unfinished line, at most `MAX_LINE_BYTES` of it.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: Stream,
    unfinished: Vec<u8>,
}

/// Whole records, ready to be appended to a file.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    count: u64,
}

impl Lines {
    pub(crate) fn of(stream: Stream) -> Self {
        Self { stream, unfinished: Vec::new() }
    }

    /// Takes what was read and adds the records it completes.
    pub(crate) fn take(&mut self, mut bytes: &[u8], now: Timestamp, records: &mut Records) {
        let head = format!("{now:.9} {} ", self.stream.name());
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.unfinished.len();
            match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    records.push(&head, "F", &self.unfinished, &bytes[..end]);
                    self.unfinished.clear();
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() <= room => {
                    self.unfinished.extend_from_slice(bytes);
                    return;
                }
                None => {
                    records.push(&head, "P", &self.unfinished, &bytes[..room]);
                    self.unfinished.clear();
                    bytes = &bytes[room..];
                }
            }
        }
    }

    /// The stream has ended: a last line without a newline is part of one, so that no reader adds what was not written.
    pub(crate) fn finish(&mut self, now: Timestamp, records: &mut Records) {
        if !self.unfinished.is_empty() {
            let head = format!("{now:.9} {} ", self.stream.name());
            records.push(&head, "P", &self.unfinished, b"");
            self.unfinished = Vec::new();
        }
    }
}

impl Records {
    fn push(&mut self, head: &str, tag: &str, first: &[u8], rest: &[u8]) {
        for part in [head.as_bytes(), tag.as_bytes(), b" ", first, rest, b"\n"] {
            self.bytes.extend_from_slice(part);
        }
        self.count += 1;
    }
}

/// The log of one container. A write that fails loses records and is counted; it never fails the container.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    lost: u64,
    max_bytes: u64,
}

impl LogFile {
    /// Opens a log, and the directory it is in, to append to it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::open_sized(path, MAX_FILE_BYTES)
    }

    fn open_sized(path: &Path, max_bytes: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let (file, bytes) = open_for_append(path)?;
        Ok(Self { path: path.to_owned(), file: Some(file), bytes, lost: 0, max_bytes })
    }

    /// Opens the path again, after somebody else has moved the file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (file, bytes) = open_for_append(&self.path)?;
        (self.file, self.bytes) = (Some(file), bytes);
        Ok(())
    }

    /// Appends whole records or none of them.
    pub(crate) fn append(&mut self, records: &Records) {
        if records.count == 0 {
            return;
        }
        let appended = self.append_note().and_then(|()| self.write(&records.bytes));
        if appended.is_err() {
            self.lost += records.count;
        }
    }

    fn append_note(&mut self) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let now = Timestamp::now();
        let note = format!("{now:.9} stderr F segue: {} lines could not be written here\n", self.lost);
        self.write(note.as_bytes())?;
        self.lost = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = self.file.as_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        match file.write_all(bytes) {
            Ok(()) => self.bytes += bytes.len() as u64,
            Err(error) => {
                // A torn record would swallow the next one. If this fails too, the file has other troubles.
                let _ = file.set_len(self.bytes);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for generation in (1..MAX_FILES).rev() {
            let from = rotated(&self.path, generation - 1);
            match fs::rename(&from, rotated(&self.path, generation)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.file = None;
        self.reopen()
    }
}

fn open_for_append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records_of(chunks: &[&[u8]]) -> Records {
        let (mut lines, mut records) = (Lines::of(Stream::Stdout), Records::default());
        for chunk in chunks {
            lines.take(chunk, Timestamp::UNIX_EPOCH, &mut records);
        }
        lines.finish(Timestamp::UNIX_EPOCH, &mut records);
        records
    }

    fn text_of(chunks: &[&[u8]]) -> String {
        String::from_utf8(records_of(chunks).bytes).unwrap()
    }

    #[test]
    fn lines_are_written_as_the_cri_wants_them() {
        let expected = "1970-01-01T00:00:00.000000000Z stdout F one\n\
                        1970-01-01T00:00:00.000000000Z stdout F \n\
                        1970-01-01T00:00:00.000000000Z stdout P two\n";
        assert_eq!(text_of(&[b"o", b"ne\n\ntw", b"o"]), expected);
    }

    #[test]
    fn a_long_line_comes_in_pieces_that_join_to_it() {
        for length in [MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 2 * MAX_LINE_BYTES, 40_000] {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            let records = records_of(&[&line[..100], &line[100..]]);
            let parsed: Vec<Record<'_>> =
                records.bytes.split_inclusive(|b| *b == b'\n').map(|l| parse(l).unwrap()).collect();
            let (last, pieces) = parsed.split_last().unwrap();
            assert_eq!(last.tag, Tag::Full);
            assert!(pieces.iter().all(|piece| piece.tag == Tag::Partial && piece.text.len() == MAX_LINE_BYTES));
            assert_eq!(parsed.iter().map(|record| record.text.len()).sum::<usize>(), length);
            assert_eq!(parsed.len(), length.div_ceil(MAX_LINE_BYTES));
        }
    }

    #[test]
    fn what_is_no_record_is_not_parsed() {
        for line in ["", "x", "2026-11-23T09:00:00Z stdin F x", "2026-11-23T09:00:00Z stdout X x"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn five_files_are_kept_and_no_record_is_torn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/0.log");
        let mut log = LogFile::open_sized(&path, 1000).unwrap();
        for number in 0..200 {
            log.append(&records_of(&[format!("line {number}\n").as_bytes()]));
        }
        let mut kept = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(kept, MAX_FILES);
        kept = 0;
        for generation in (0..MAX_FILES).rev() {
            let text = fs::read(rotated(&path, generation)).unwrap();
            assert!(text.len() <= 1000);
            kept += text.split_inclusive(|b| *b == b'\n').filter(|line| parse(line).is_some()).count();
        }
        let newest = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        assert!(newest.ends_with("line 199\n") && kept > 60, "{kept} lines are left");
    }

    #[test]
    fn lines_lost_to_a_full_disk_are_counted_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.append(&records_of(&[b"before\n"]));
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.append(&records_of(&[b"lost\nlost too\n"]));
        log.reopen().unwrap();
        log.append(&records_of(&[b"after\n"]));
        let text = fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = text.lines().map(|line| &line[31..]).collect();
        assert_eq!(said, ["stdout F before", "stderr F segue: 2 lines could not be written here", "stdout F after"]);
    }
}
