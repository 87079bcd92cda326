//! What the agent needs of the image store: is an image here, and fetch it if not.

use std::collections::BTreeSet;
use std::path::PathBuf;

use decide::image_garbage::Disk;
use decide::images::ImageReference;
use futures::future::BoxFuture;

use super::runtime::{Cause, chain};
use crate::images::{Image, ImageStore, Keyring, Mirrors, Swept, Unswept};

/// Has images, or gets them.
pub trait Images: Send + Sync + 'static {
    /// The image if it is in the store.
    fn find<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Option<Image>, Cause>>;

    /// Asks the registry for the image, as somebody of the keyring or of the machine's own, and fetches what is missing.
    fn pull<'a>(&'a self, image: &'a ImageReference, keyring: Keyring) -> BoxFuture<'a, Result<Image, Cause>>;

    /// The filesystem that they are on.
    fn disk(&self) -> Disk;

    /// All that are here.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>, Cause>>;

    /// Takes these names away, and then all content to which no name leads, but for the layers in use.
    /// Content stays until the next time if an image is being pulled.
    fn remove(&self, names: Vec<ImageReference>, used: LayersInUse) -> BoxFuture<'_, Result<Swept, Cause>>;

    /// Keeps all content that is here, until the answer is dropped.
    fn unswept(&self) -> BoxFuture<'_, Unswept>;
}

/// Asked when nobody can start to use a layer any more.
pub(super) type LayersInUse = Box<dyn FnOnce() -> Result<BTreeSet<PathBuf>, Cause> + Send>;

/// The machine's image store and where it pulls from.
#[derive(Clone, Debug)]
pub struct StoredImages {
    pub store: ImageStore,
    pub mirrors: Mirrors,
    /// The file that `docker login` writes on this machine. It need not be there.
    pub docker_config: PathBuf,
}

impl StoredImages {
    /// Read anew for each pull: somebody may have logged in just now.
    fn own_keyring(&self) -> Keyring {
        let Ok(json) = std::fs::read(&self.docker_config) else { return Keyring::default() };
        Keyring::of_config(&json).unwrap_or_else(|error| {
            let (path, error) = (self.docker_config.display(), chain(&error));
            tracing::warn!("the credentials in {path} are not used: {error}");
            Keyring::default()
        })
    }
}

impl Images for StoredImages {
    fn find<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Option<Image>, Cause>> {
        Box::pin(async move { Ok(self.store.resolve(image).await?) })
    }

    fn pull<'a>(&'a self, image: &'a ImageReference, mut keyring: Keyring) -> BoxFuture<'a, Result<Image, Cause>> {
        keyring.add(self.own_keyring());
        Box::pin(async move { Ok(self.store.pull(image, &self.mirrors, &keyring).await?) })
    }

    fn disk(&self) -> Disk {
        self.store.disk()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>, Cause>> {
        Box::pin(async move { Ok(self.store.list().await?) })
    }

    fn remove(&self, names: Vec<ImageReference>, used: LayersInUse) -> BoxFuture<'_, Result<Swept, Cause>> {
        Box::pin(async move {
            for name in names {
                self.store.remove(&name).await?;
            }
            self.store.sweep(used).await
        })
    }

    fn unswept(&self) -> BoxFuture<'_, Unswept> {
        Box::pin(self.store.unswept())
    }
}
