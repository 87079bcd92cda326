//! Content by digest. Bytes are hashed while they are written and get their name only once they are on disk, so
//! that a blob that has its name has its content.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digest::{Digest, Digester};
use super::disk::{self, StoreError};
use super::scratch::{Scratch, Temporary};

/// The directory `blobs/sha256`.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    directory: PathBuf,
    scratch: Arc<Scratch>,
}

/// A blob that is being written.
pub(crate) struct Staging {
    file: File,
    temporary: Temporary,
    digester: Digester,
    size: u64,
}

/// A blob that is written and flushed, and not yet in the store.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    temporary: Temporary,
}

impl Blobs {
    pub(crate) fn open(store: &Path, scratch: Arc<Scratch>) -> Result<Blobs, StoreError> {
        let directory = store.join("blobs").join("sha256");
        disk::create_private_directory(&directory)?;
        Ok(Blobs { directory, scratch })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        disk::open(&self.path(digest))
    }

    /// Reads a document whole. `None` when the blob isn't here.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(digest);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    pub(crate) fn stage(&self) -> Result<Staging, StoreError> {
        let temporary = self.scratch.temporary();
        let file = File::create_new(temporary.path())
            .map_err(|source| StoreError::Create { path: temporary.path().to_owned(), source })?;
        Ok(Staging { file, temporary, digester: Digester::default(), size: 0 })
    }

    /// Gives a staged blob its name.
    pub(crate) fn commit(&self, staged: &Staged) -> Result<(), StoreError> {
        disk::rename_durably(staged.temporary.path(), &self.path(&staged.digest))
    }

    /// Stores a document.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut staging = self.stage()?;
        staging.write(bytes)?;
        let staged = staging.finish()?;
        self.commit(&staged)?;
        Ok(staged.digest.clone())
    }
}

impl Staging {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.digester.update(bytes);
        self.size += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|source| StoreError::Write { path: self.temporary.path().to_owned(), source })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Result<Staged, StoreError> {
        disk::sync(&self.file, self.temporary.path())?;
        Ok(Staged { digest: self.digester.finish(), size: self.size, temporary: self.temporary })
    }
}

impl Staged {
    /// Reads the whole blob; the caller has looked at `size` first.
    pub(crate) fn read(&self) -> Result<Vec<u8>, StoreError> {
        let failed = |source| StoreError::Read { path: self.temporary.path().to_owned(), source };
        let mut bytes = Vec::new();
        File::open(self.temporary.path()).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
        Ok(bytes)
    }
}
