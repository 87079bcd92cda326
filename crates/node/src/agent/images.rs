//! What the agent needs of the image store: is an image here, and fetch it if not.

use decide::images::ImageReference;
use futures::future::BoxFuture;

use super::runtime::Cause;
use crate::images::{Image, ImageStore, Mirrors};

/// Has images, or gets them.
pub trait Images: Send + Sync + 'static {
    /// The image if it is in the store.
    fn find<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Option<Image>, Cause>>;

    /// Asks the registry for the image and fetches what is missing.
    fn pull<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Image, Cause>>;
}

/// The machine's image store and where it pulls from.
#[derive(Clone, Debug)]
pub struct StoredImages {
    pub store: ImageStore,
    pub mirrors: Mirrors,
}

impl Images for StoredImages {
    fn find<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Option<Image>, Cause>> {
        Box::pin(async move { Ok(self.store.resolve(image).await?) })
    }

    fn pull<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Image, Cause>> {
        Box::pin(async move { Ok(self.store.pull(image, &self.mirrors).await?) })
    }
}
