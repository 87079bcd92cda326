//! ConfigMaps and Secrets change while pods have them mounted. Each change is told to every pod, and those that show it
//! bring their volumes up to date.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::runtime::chain;
use crate::volumes::{self, Shown};

/// The API ends a watch at the latest after this; a client that was cut off notices.
const WATCH_SECONDS: u32 = 290;
/// Before watching again after the API has failed.
const RETRY: Duration = Duration::from_secs(1);
/// A pod that is further behind looks at all its volumes.
const CHANGES_KEPT: usize = 256;

/// Follows what can be mounted, for as long as it lives.
pub(super) struct Mounted {
    changes: broadcast::Sender<Change>,
    _watches: JoinSet<()>,
}

/// What a pod hears.
pub(super) struct Changes(broadcast::Receiver<Change>);

#[derive(Clone, Debug)]
enum Change {
    One {
        namespace: String,
        shown: Shown,
    },
    /// Some were missed.
    Any,
}

impl Mounted {
    pub(super) fn follow(client: &Client) -> Self {
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        let mut watches = JoinSet::new();
        watches.spawn(follow::<ConfigMap>(client.clone(), Shown::ConfigMap, changes.clone()));
        watches.spawn(follow::<Secret>(client.clone(), Shown::Secret, changes.clone()));
        Self { changes, _watches: watches }
    }

    pub(super) fn changes(&self) -> Changes {
        Changes(self.changes.subscribe())
    }
}

impl Changes {
    /// Waits until something may have changed that a volume of the pod shows.
    pub(super) async fn changed_for(&mut self, pod: &Pod) {
        loop {
            match self.0.recv().await {
                Ok(Change::One { namespace, shown }) => {
                    if pod.metadata.namespace.as_ref() == Some(&namespace) && volumes::show(pod, &shown) {
                        return;
                    }
                }
                Ok(Change::Any) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }
}

async fn follow<K>(client: Client, shown: fn(String) -> Shown, changes: broadcast::Sender<Change>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::all(client);
    loop {
        if let Err(error) = watch_once(&api, shown, &changes).await {
            warn!(error = chain(&error), "the watch of what pods mount broke; watching again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Until the API ends it. What happened between two watches is told as [`Change::Any`], once the next has begun.
async fn watch_once<K>(
    api: &Api<K>,
    shown: fn(String) -> Shown,
    changes: &broadcast::Sender<Change>,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let version = api.list(&ListParams::default().limit(1)).await?.metadata.resource_version.unwrap_or_default();
    let mut events = api.watch(&WatchParams::default().timeout(WATCH_SECONDS), &version).await?.boxed();
    // Without pods nobody hears it.
    let _ = changes.send(Change::Any);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                let namespace = object.namespace().unwrap_or_default();
                let _ = changes.send(Change::One { namespace, shown: shown(object.name_any()) });
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => {
                debug!(code = status.code, "the watch of what pods mount ended");
                return Ok(());
            }
        }
    }
    Ok(())
}
