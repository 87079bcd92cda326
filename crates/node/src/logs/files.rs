//! The bytes of a log and its rotated predecessors, oldest first, each byte once, although the writer may rotate
//! at any moment.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::inotify;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::cri_log::{MAX_FILES, rotated};

/// What is read at once.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// An open log.
pub(super) struct Files {
    path: PathBuf,
    /// Oldest first; the last one is written to.
    open: VecDeque<LogFile>,
    watch: pipe::Receiver,
}

struct LogFile {
    inode: u64,
    file: tokio::fs::File,
}

impl Files {
    /// Opens what there is. A log that isn't there yet is empty.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let watch = watch(path.parent().unwrap_or(Path::new("/")))?;
        Ok(Self { open: open_newer_than(path, None)?, path: path.to_owned(), watch })
    }

    /// The next bytes; None at the end of what has been written so far.
    pub(super) async fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(first) = self.open.front_mut() else {
                self.open = open_newer_than(&self.path, None)?;
                if self.open.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            let mut buffer = Vec::with_capacity(CHUNK_BYTES);
            if first.file.read_buf(&mut buffer).await? > 0 {
                return Ok(Some(buffer.into()));
            }
            let inode = first.inode;
            if self.open.len() == 1 {
                // The writer renames a file only after its last write to it, so what follows is in newer ones.
                self.open.extend(open_newer_than(&self.path, Some(inode))?);
                if self.open.len() == 1 {
                    return Ok(None);
                }
                let rest = self.read_rest().await?;
                if rest.is_some() {
                    return Ok(rest);
                }
            }
            self.open.pop_front();
        }
    }

    /// What was written between our last read and the rotation.
    async fn read_rest(&mut self) -> io::Result<Option<Bytes>> {
        let Some(first) = self.open.front_mut() else { return Ok(None) };
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        Ok((first.file.read_buf(&mut buffer).await? > 0).then(|| buffer.into()))
    }

    /// Waits until something was written or rotated.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.watch.readable().await?;
        let mut events = [0; 4096];
        loop {
            match self.watch.try_read(&mut events) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
        }
    }
}

/// To be read like a pipe; which file it was doesn't matter.
fn watch(directory: &Path) -> io::Result<pipe::Receiver> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, directory, changes)?;
    pipe::Receiver::from_owned_fd_unchecked(watch)
}

/// The log's files, oldest first, or only those younger than the one with this inode. They are opened from the
/// youngest to the oldest: a rotation meanwhile shows a file twice, never hides one.
fn open_newer_than(path: &Path, inode: Option<u64>) -> io::Result<VecDeque<LogFile>> {
    let mut open: VecDeque<LogFile> = VecDeque::new();
    for generation in 0..MAX_FILES {
        let file = match File::open(rotated(path, generation)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let found = file.metadata()?.ino();
        if Some(found) == inode {
            break;
        }
        if open.iter().all(|known| known.inode != found) {
            open.push_front(LogFile { inode: found, file: file.into() });
        }
    }
    Ok(open)
}
