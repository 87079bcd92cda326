//! Where half-done work lies: a directory per process, which the next process to open the store removes when
//! its owner has gone. A file or tree leaves it only by a rename, finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use super::disk::{self, StoreError};

/// This process's own directory under `tmp/`. Its lock says that the owner lives.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: PathBuf,
    _lock: File,
    next: AtomicU64,
}

/// A file or tree that vanishes unless it was renamed away.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

/// The store's lock, held until dropped. It orders processes that share a store: the engine and `segue image load`.
pub(crate) struct StoreLock {
    _file: File,
}

/// Waits for the store's lock.
pub(crate) fn lock(store: &Path) -> Result<StoreLock, StoreError> {
    let path = store.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| StoreError::Create { path: path.clone(), source })?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|errno| StoreError::Lock { path, source: errno.into() })?;
    Ok(StoreLock { _file: file })
}

impl Scratch {
    /// Removes what dead processes left, then makes a directory for this one.
    pub(crate) fn open(store: &Path, _lock: &StoreLock) -> Result<Scratch, StoreError> {
        let tmp = store.join("tmp");
        disk::create_private_directory(&tmp)?;
        for left in disk::list(&tmp)? {
            remove_if_abandoned(&left)?;
        }
        let directory = unused_name(&tmp);
        disk::create_private_directory(&directory)?;
        let file = disk::open(&directory)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| StoreError::Lock { path: directory.clone(), source: errno.into() })?;
        Ok(Scratch { directory, _lock: file, next: AtomicU64::new(0) })
    }

    /// A path that nothing uses yet.
    pub(crate) fn temporary(&self) -> Temporary {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Temporary { path: self.directory.join(number.to_string()) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_quietly(&self.directory);
    }
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        remove_quietly(&self.path);
    }
}

fn unused_name(tmp: &Path) -> PathBuf {
    let process = std::process::id();
    (0_u64..)
        .map(|number| tmp.join(format!("{process}-{number}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| tmp.join(process.to_string()))
}

fn remove_if_abandoned(path: &Path) -> Result<(), StoreError> {
    let owner = disk::open(path)?;
    match rustix::fs::flock(&owner, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            remove_quietly(path);
            Ok(())
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        Err(errno) => Err(StoreError::Lock { path: path.to_owned(), source: errno.into() }),
    }
}

/// What cannot be removed now is removed by the next process that opens the store.
fn remove_quietly(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    if let Err(error) = removed {
        tracing::debug!(path = %path.display(), %error, "left a temporary file for later");
    }
}
