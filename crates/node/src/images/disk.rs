//! File operations of the image store, each with an error that names what was done to which path.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::scratch::{Scratch, Temporary};

/// What failed in the image store's directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot flush {} to disk", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("cannot move {} into place", path.display())]
    Rename { path: PathBuf, source: io::Error },
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("{} is damaged; move it away and load or pull the images again", path.display())]
    DamagedIndex { path: PathBuf, source: serde_json::Error },
    #[error(
        "{} has version {found}, written by a newer Segue; this one reads up to {newest}", path.display()
    )]
    NewerIndex { path: PathBuf, found: u32, newest: u32 },
}

/// Makes a directory and its parents, readable by nobody else: images may hold files with the setuid bit.
pub(crate) fn create_private_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StoreError::Create { path: path.to_owned(), source })
}

pub(crate) fn open(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// The names in a directory.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::List { path: path.to_owned(), source };
    fs::read_dir(path).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

/// Moves everything in a directory but what is `kept` and what changed within `spared_for` to names of `scratch`, where
/// it vanishes when the answer is dropped: nothing is ever there in half under its own name.
pub(crate) fn move_others_away(
    directory: &Path,
    kept: &BTreeSet<PathBuf>,
    spared_for: Duration,
    scratch: &Scratch,
) -> Result<Vec<Temporary>, StoreError> {
    let mut moved = Vec::new();
    for path in list(directory)?.into_iter().filter(|path| !kept.contains(path)) {
        let metadata = std::fs::symlink_metadata(&path);
        let metadata = metadata.map_err(|source| StoreError::Read { path: path.clone(), source })?;
        // Not when it was modified: of a layer, that is what the image says.
        let changed =
            u64::try_from(metadata.ctime()).map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        if changed.map_or(Duration::ZERO, |time| time.elapsed().unwrap_or_default()) < spared_for {
            continue;
        }
        let temporary = scratch.temporary();
        fs::rename(&path, temporary.path()).map_err(|source| StoreError::Remove { path, source })?;
        moved.push(temporary);
    }
    if !moved.is_empty() {
        sync(&open(directory)?, directory)?;
    }
    Ok(moved)
}

/// Writes a file so that after a crash it has either its old bytes or the new ones.
pub(crate) fn write_durably(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |source| StoreError::Write { path: temporary.to_owned(), source };
    let mut file = File::create(temporary).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    sync(&file, temporary)?;
    rename_durably(temporary, path)
}

pub(crate) fn sync(file: &File, path: &Path) -> Result<(), StoreError> {
    file.sync_all().map_err(|source| StoreError::Sync { path: path.to_owned(), source })
}

pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|source| StoreError::Rename { path: to.to_owned(), source })?;
    match to.parent() {
        Some(parent) => sync(&open(parent)?, parent),
        None => Ok(()),
    }
}
