//! The images of one machine: pulled from registries or loaded from archives, verified, unpacked, found by name.
//! Knows nothing of pods and containers; a container is given an image's layers, to stack and never to change.

mod archive;
mod blobs;
pub mod build;
mod credentials;
mod digest;
mod disk;
#[cfg(test)]
mod fixtures;
mod index;
mod layers;
mod limits;
mod manifest;
mod mirrors;
mod pull_error;
mod registry;
mod scratch;
mod turns;
mod unpack;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use decide::image_garbage::Disk;
use decide::images::ImageReference;
use oci_spec::image::ImageConfiguration;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::task::JoinError;

pub use archive::{LoadError, Loaded};
pub use credentials::{InvalidCredentials, Keyring};
pub use digest::{Digest, InvalidDigest};
pub use disk::StoreError;
pub use layers::LayerError;
pub use manifest::ManifestError;
pub use mirrors::{Endpoint, InvalidMirror, Mirrors};
pub use pull_error::PullError;
pub use unpack::UnpackError;

use blobs::Blobs;
use index::{Entry, Index, Origin};
use layers::Layers;
use limits::Limits;
use manifest::{Contents, Document};
use scratch::{Scratch, Temporary};
use turns::Turns;

/// `segue image load` takes no longer between the first of an image's content and its name.
const SPARED_FOR: Duration = Duration::from_mins(15);

/// All images of one machine, in one directory. Cloning it is cheap; processes may share the directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

/// An image that is whole in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration, which is the image's identity.
    pub id: Digest,
    /// The canonical name that it was found by, such as `docker.io/library/nginx:1.25`.
    pub reference: String,
    /// `repository@digest` names that a registry knows; none for images that were loaded from an archive.
    pub repo_digests: Vec<String>,
    /// Entry point, command, environment, user, working directory, stop signal, exposed ports.
    pub config: ImageConfiguration,
    /// Unpacked layers for overlayfs, bottom to top. Whiteouts in them are overlayfs' own. Read only.
    pub layers: Vec<PathBuf>,
    /// Bytes of configuration and layers as they are transferred.
    pub size: u64,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    limits: Limits,
    blobs: Blobs,
    layers: Layers,
    turns: Arc<Turns>,
    scratch: Arc<Scratch>,
    /// Held by who brings content in before it has a name, and alone by who removes what has none.
    sweeping: Arc<RwLock<()>>,
}

/// Whether a sweep had its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swept {
    Yes,
    /// Content was coming in.
    No,
}

/// While it lives, no content goes.
#[derive(Debug)]
pub struct Unswept {
    pub(crate) _lock: OwnedRwLockReadGuard<()>,
}

impl ImageStore {
    /// Opens a store, makes it if it isn't there, and removes what a killed process left half done.
    pub fn open(directory: &Path) -> Result<ImageStore, StoreError> {
        ImageStore::open_with(directory, Limits::DEFAULT)
    }

    fn open_with(directory: &Path, limits: Limits) -> Result<ImageStore, StoreError> {
        disk::create_private_directory(directory)?;
        let scratch = {
            let lock = scratch::lock(directory)?;
            Arc::new(Scratch::open(directory, &lock)?)
        };
        Index::read(directory)?;
        let turns = Arc::new(Turns::default());
        Ok(ImageStore {
            inner: Arc::new(Inner {
                directory: directory.to_owned(),
                limits,
                blobs: Blobs::open(directory, Arc::clone(&scratch))?,
                layers: Layers::open(directory, Arc::clone(&scratch), Arc::clone(&turns))?,
                turns,
                scratch,
                sweeping: Arc::default(),
            }),
        })
    }

    /// Pulls an image from its registry's mirrors or the registry itself, whatever the store has under that name.
    /// Layers that are here already are not fetched again; pulls of one image at a time do the work once.
    pub async fn pull(
        &self,
        reference: &ImageReference,
        mirrors: &Mirrors,
        keyring: &Keyring,
    ) -> Result<Image, PullError> {
        let _unswept = self.unswept().await;
        registry::pull(self, reference, mirrors, keyring).await
    }

    /// Loads all images of an archive of `docker save` or of an OCI archive, compressed or not, under the names that
    /// the archive gives them.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<Loaded>, LoadError> {
        let _unswept = self.unswept().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || archive::load(&inner, archive)).await
    }

    /// Finds an image by name, or by a digest under which its repository has been pulled or loaded.
    pub async fn resolve(&self, reference: &ImageReference) -> Result<Option<Image>, StoreError> {
        let inner = Arc::clone(&self.inner);
        let reference = reference.clone();
        blocking(move || {
            let index = Index::read(&inner.directory)?;
            match index.find(&reference) {
                Some(entry) => inner.describe(reference.canonical(), entry),
                None => Ok(None),
            }
        })
        .await
    }

    /// All images by name, in the order of their names.
    pub async fn list(&self) -> Result<Vec<Image>, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let index = Index::read(&inner.directory)?;
            index.iter().filter_map(|(name, entry)| inner.describe(name.clone(), entry).transpose()).collect()
        })
        .await
    }

    /// Removes a name; answers whether there was one. Content stays, for containers may be running from it.
    pub async fn remove(&self, reference: &ImageReference) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let reference = reference.clone();
        blocking(move || Index::change(&inner.directory, &inner.scratch, |index| index.remove(&reference))).await
    }

    /// Keeps all content that is here, until the answer is dropped.
    pub async fn unswept(&self) -> Unswept {
        Unswept { _lock: Arc::clone(&self.inner.sweeping).read_owned().await }
    }

    /// Removes content that no name leads to, except layers that are `used` and what is so young that another process
    /// may be about to give it a name. Nobody starts to use a layer after `used` is asked. Does nothing while content
    /// comes in: waiting for that would hold up whatever comes next.
    pub async fn sweep<E>(
        &self,
        used: impl FnOnce() -> Result<BTreeSet<PathBuf>, E> + Send + 'static,
    ) -> Result<Swept, E>
    where
        E: From<StoreError> + Send + 'static,
    {
        self.sweep_older(used, SPARED_FOR).await
    }

    async fn sweep_older<E>(
        &self,
        used: impl FnOnce() -> Result<BTreeSet<PathBuf>, E> + Send + 'static,
        than: Duration,
    ) -> Result<Swept, E>
    where
        E: From<StoreError> + Send + 'static,
    {
        let Ok(alone) = Arc::clone(&self.inner.sweeping).try_write_owned() else { return Ok(Swept::No) };
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let gone = inner.move_unused_away(used()?, than)?;
            drop(alone);
            drop(gone);
            Ok(Swept::Yes)
        })
        .await
    }

    /// Bytes of the filesystem that holds the store.
    pub(crate) fn disk(&self) -> Disk {
        rustix::fs::statvfs(&self.inner.directory).map_or_else(
            |_| Disk::default(),
            |disk| Disk { capacity: disk.f_blocks * disk.f_frsize, available: disk.f_bavail * disk.f_frsize },
        )
    }

    /// Gives a name to an image that is whole in the store.
    async fn record(&self, reference: &ImageReference, entry: Entry, contents: Contents) -> Result<Image, StoreError> {
        let inner = Arc::clone(&self.inner);
        let reference = reference.clone();
        blocking(move || inner.record(&reference, entry, contents)).await
    }
}

impl Image {
    /// The `imageID` of a container's status: the name that a registry knows, or else the image's identity.
    pub fn image_id(&self) -> String {
        match self.repo_digests.first() {
            Some(digest) => digest.clone(),
            None => self.id.to_string(),
        }
    }
}

impl Inner {
    fn move_unused_away(&self, used: BTreeSet<PathBuf>, older_than: Duration) -> Result<Vec<Temporary>, StoreError> {
        let _lock = scratch::lock(&self.directory)?;
        let (mut blobs, mut layers) = (BTreeSet::new(), used);
        for (_, entry) in Index::read(&self.directory)?.iter() {
            let Some(contents) = self.read_contents(entry)? else { continue };
            let documents = [&entry.target, &entry.manifest, &contents.config_digest];
            blobs.extend(documents.map(|digest| self.blobs.path(digest)));
            layers.extend(contents.layers.iter().map(|layer| self.layers.path(layer)));
        }
        // What a layer was unpacked from is needed no more.
        let mut gone = disk::move_others_away(self.blobs.directory(), &blobs, older_than, &self.scratch)?;
        gone.extend(disk::move_others_away(self.layers.directory(), &layers, older_than, &self.scratch)?);
        Ok(gone)
    }

    fn record(&self, reference: &ImageReference, entry: Entry, contents: Contents) -> Result<Image, StoreError> {
        let image = self.image(reference.canonical(), &entry, contents);
        Index::change(&self.directory, &self.scratch, |index| {
            index.insert(reference, entry);
        })?;
        Ok(image)
    }

    /// Reads an image's description. One that isn't whole any more counts as absent, so that it is pulled again.
    fn describe(&self, name: String, entry: &Entry) -> Result<Option<Image>, StoreError> {
        let Some(contents) = self.read_contents(entry)? else {
            tracing::warn!(image = name, "an image is damaged and counts as absent");
            return Ok(None);
        };
        Ok(Some(self.image(name, entry, contents)))
    }

    fn read_contents(&self, entry: &Entry) -> Result<Option<Contents>, StoreError> {
        let Some(bytes) = self.read_verified(&entry.manifest)? else {
            return Ok(None);
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else {
            return Ok(None);
        };
        let Some(config) = self.read_verified(&manifest.config.digest)? else {
            return Ok(None);
        };
        let whole = Contents::read(&manifest, &config)
            .ok()
            .filter(|contents| contents.layers.iter().all(|layer| self.layers.contains(layer)));
        Ok(whole)
    }

    fn read_verified(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = self.blobs.read(digest)?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
    }

    fn image(&self, reference: String, entry: &Entry, contents: Contents) -> Image {
        let repo_digests = match entry.origin {
            Origin::Pulled => vec![format!("{}@{}", entry.repository, entry.target)],
            Origin::Loaded => Vec::new(),
        };
        Image {
            id: contents.config_digest,
            reference,
            repo_digests,
            config: contents.config,
            layers: contents.layers.iter().map(|layer| self.layers.path(layer)).collect(),
            size: contents.size,
        }
    }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    finished(tokio::task::spawn_blocking(work).await)
}

/// A panic in blocking work goes on in the one who waits for it.
fn finished<T>(joined: Result<T, JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("nobody waits for blocking work after its runtime has ended: {error}"),
        },
    }
}

#[cfg(test)]
mod tests;
