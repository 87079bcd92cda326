//! Unpacked layers, each named by its chain id and shared by all images that stand on the same layers.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blobs::Blobs;
use super::digest::Digest;
use super::disk::{self, StoreError};
use super::limits::Limits;
use super::manifest::Layer;
use super::scratch::Scratch;
use super::turns::Turns;
use super::unpack::{UnpackError, unpack};

/// The directory `layers`.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    directory: PathBuf,
    scratch: Arc<Scratch>,
    turns: Arc<Turns>,
}

/// Why a layer can't be put in place. `layer` is the digest of its blob.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("cannot unpack layer {layer}")]
    Unpack { layer: Digest, source: UnpackError },
    #[error("layer {layer} unpacks to {actual}, the image's configuration says {expected}")]
    DiffId { layer: Digest, expected: Digest, actual: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Layers {
    pub(crate) fn open(store: &Path, scratch: Arc<Scratch>, turns: Arc<Turns>) -> Result<Layers, StoreError> {
        let directory = store.join("layers");
        disk::create_private_directory(&directory)?;
        Ok(Layers { directory, scratch, turns })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn path(&self, layer: &Layer) -> PathBuf {
        self.directory.join(layer.chain_id.hex())
    }

    pub(crate) fn contains(&self, layer: &Layer) -> bool {
        self.path(layer).is_dir()
    }

    /// Makes sure that the topmost of `layers` is unpacked; those below it are already. Takes the bytes it unpacked
    /// from what `limits` allow the image.
    pub(crate) fn ensure(&self, layers: &[Layer], blobs: &Blobs, limits: &mut Limits) -> Result<(), LayerError> {
        let Some((layer, below)) = layers.split_last() else {
            return Ok(());
        };
        let _turn = self.turns.wait_blocking(&format!("layer {}", layer.chain_id));
        if self.contains(layer) {
            self.touch(layer);
            return Ok(());
        }
        let temporary = self.scratch.temporary();
        disk::create_private_directory(temporary.path())?;
        let below: Vec<PathBuf> = below.iter().map(|layer| self.path(layer)).collect();
        let blob = blobs.open_blob(&layer.blob.digest)?;
        let unpacked = unpack(blob, temporary.path(), &below, limits)
            .map_err(|source| LayerError::Unpack { layer: layer.blob.digest.clone(), source })?;
        if unpacked.diff_id != layer.diff_id {
            return Err(LayerError::DiffId {
                layer: layer.blob.digest.clone(),
                expected: layer.diff_id.clone(),
                actual: unpacked.diff_id,
            });
        }
        limits.unpacked_bytes = limits.unpacked_bytes.saturating_sub(unpacked.bytes);
        tracing::debug!(layer = %layer.blob.digest, bytes = unpacked.bytes, "unpacked a layer");
        self.put_in_place(temporary.path(), layer)
    }

    /// Whoever sweeps the store sees that it is counted on.
    fn touch(&self, layer: &Layer) {
        let path = self.path(layer);
        let same = std::fs::metadata(&path).map(|metadata| metadata.permissions());
        // What can't be touched is as safe as before.
        let _ = same.and_then(|permissions| std::fs::set_permissions(&path, permissions));
    }

    /// One flush of the filesystem instead of one per file; a layer has its name only when all of it is on disk.
    fn put_in_place(&self, tree: &Path, layer: &Layer) -> Result<(), LayerError> {
        let failed = |source| StoreError::Sync { path: tree.to_owned(), source };
        let directory: File = disk::open(tree)?;
        rustix::fs::syncfs(&directory).map_err(|errno| failed(errno.into()))?;
        match disk::rename_durably(tree, &self.path(layer)) {
            // Another process unpacked the same layer meanwhile.
            Err(StoreError::Rename { source, .. }) if is_taken(&source) => Ok(()),
            renamed => Ok(renamed?),
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}
