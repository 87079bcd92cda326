//! Watches that never end: they connect again, and read everything anew when they have missed something. A watch only
//! wakes; nobody believes what it says.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Resource;
use serde::de::DeserializeOwned;
use tracing::debug;

/// After this long without a connection the API is asked again; it is in the same process, so it is there or nowhere.
const RECONNECT: Duration = Duration::from_millis(200);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
    /// Seen when everything was read anew; something may have been missed.
    Listed,
}

/// Calls `wake` for every object and every change of one, for ever. Calls `missed` when changes may have been missed,
/// after the objects that are left.
pub(super) async fn watch<K>(api: Api<K>, wake: impl Fn(Change, &K), missed: impl Fn())
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    loop {
        match api.list(&ListParams::default()).await {
            Ok(list) => {
                list.items.iter().for_each(|object| wake(Change::Listed, object));
                missed();
                follow(&api, list.metadata.resource_version.unwrap_or_default(), &wake).await;
            }
            Err(error) => debug!(kind = api.resource_url(), %error, "cannot list; trying again"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Follows changes until one may have been missed.
async fn follow<K>(api: &Api<K>, mut version: String, wake: &impl Fn(Change, &K))
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    loop {
        let stream = match api.watch(&WatchParams::default(), &version).await {
            Ok(stream) => stream,
            Err(error) => return debug!(kind = api.resource_url(), %error, "cannot watch; reading anew"),
        };
        let before = version.clone();
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let (change, object) = match event {
                Ok(WatchEvent::Added(object)) => (Change::Added, object),
                Ok(WatchEvent::Modified(object)) => (Change::Modified, object),
                Ok(WatchEvent::Deleted(object)) => (Change::Deleted, object),
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                Ok(WatchEvent::Error(status)) => {
                    return debug!(kind = api.resource_url(), %status, "the watch was ended; reading anew");
                }
                Err(error) => return debug!(kind = api.resource_url(), %error, "the watch broke; reading anew"),
            };
            wake(change, &object);
            if let Some(newer) = &object.meta().resource_version {
                version.clone_from(newer);
            }
        }
        // A server that ends watches at once must not be asked in a busy loop.
        if version == before {
            tokio::time::sleep(RECONNECT).await;
        }
    }
}
