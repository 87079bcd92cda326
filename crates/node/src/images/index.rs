//! Which name means which manifest: the file `index.json`. It is read afresh for every question, because another
//! process may have loaded an image meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use decide::images::ImageReference;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::disk::{self, StoreError};
use super::scratch::{self, Scratch};

const VERSION: u32 = 1;

/// All names in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    /// By canonical reference.
    images: BTreeMap<String, Entry>,
}

/// What one name means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Registry and repository of the name.
    pub(crate) repository: String,
    /// What the name stands for: a manifest, or an index of manifests for several platforms.
    pub(crate) target: Digest,
    /// The manifest for this machine's platform.
    pub(crate) manifest: Digest,
    pub(crate) origin: Origin,
}

/// How an image came into the store. Only what was pulled has a digest that a registry knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Origin {
    Pulled,
    Loaded,
}

impl Index {
    /// Reads the store's index; a store that has none yet has no images.
    pub(crate) fn read(store: &Path) -> Result<Index, StoreError> {
        let path = path(store);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::empty()),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        parse(&path, &bytes)
    }

    /// Applies one change, alone among all processes, and writes it durably.
    pub(crate) fn change<T>(
        store: &Path,
        scratch: &Scratch,
        change: impl FnOnce(&mut Index) -> T,
    ) -> Result<T, StoreError> {
        let _lock = scratch::lock(store)?;
        let path = path(store);
        let before = Index::read(store)?;
        let mut index = before.clone();
        let answer = change(&mut index);
        if index != before {
            let bytes = serde_json::to_vec_pretty(&index)
                .map_err(|source| StoreError::DamagedIndex { path: path.clone(), source })?;
            disk::write_durably(&path, scratch.temporary().path(), &bytes)?;
        }
        Ok(answer)
    }

    /// Finds what a reference means. A digest is found under any name of its repository.
    pub(crate) fn find(&self, reference: &ImageReference) -> Option<&Entry> {
        match reference.digest() {
            None => self.images.get(&reference.canonical()),
            Some(digest) => self.images.values().find(|entry| {
                entry.repository == reference.name()
                    && [&entry.target, &entry.manifest].iter().any(|known| known.to_string() == digest)
            }),
        }
    }

    pub(crate) fn insert(&mut self, reference: &ImageReference, entry: Entry) {
        self.images.insert(reference.canonical(), entry);
    }

    /// Whether there was such a name.
    pub(crate) fn remove(&mut self, reference: &ImageReference) -> bool {
        self.images.remove(&reference.canonical()).is_some()
    }

    /// All names with what they mean, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.images.iter()
    }

    fn empty() -> Index {
        Index { version: VERSION, images: BTreeMap::new() }
    }
}

fn path(store: &Path) -> PathBuf {
    store.join("index.json")
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Index, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |source| StoreError::DamagedIndex { path: path.to_owned(), source };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StoreError::NewerIndex { path: path.to_owned(), found: version, newest: VERSION });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}
