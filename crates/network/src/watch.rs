//! What the API holds of one kind, kept up to date by list and watch.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use kube::api::{ListParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The pause after a list or watch that failed; nothing tells when the API answers again.
const PAUSE: Duration = Duration::from_millis(500);

/// Objects by `namespace/name`.
pub(crate) type Objects<K> = Arc<BTreeMap<String, Arc<K>>>;

/// The latest known objects of one kind.
pub(crate) struct Cache<K> {
    /// None until the first list has come.
    objects: Mutex<Option<Objects<K>>>,
    fields: Option<&'static str>,
    changed: Arc<Notify>,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// A cache of what a field selector holds, or of everything, that tells `changed` after each change.
    pub(crate) fn new(changed: Arc<Notify>, fields: Option<&'static str>) -> Self {
        Self { objects: Mutex::new(None), fields, changed }
    }

    /// What is known; None until everything was listed once.
    pub(crate) fn objects(&self) -> Option<Objects<K>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the API until it is aborted.
    pub(crate) async fn follow(self: Arc<Self>, api: Api<K>) {
        loop {
            if let Err(error) = self.list_and_watch(&api).await {
                tracing::debug!("watching {} is begun again: {error}", K::plural(&()));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Comes back only with an error; an expired resourceVersion is one.
    async fn list_and_watch(&self, api: &Api<K>) -> Result<(), kube::Error> {
        let list =
            api.list(&ListParams { field_selector: self.fields.map(str::to_owned), ..ListParams::default() }).await?;
        let mut version = list.metadata.resource_version.unwrap_or_default();
        let listed = list.items.into_iter().map(|object| (key(&object), Arc::new(object))).collect();
        self.replace(listed);
        loop {
            let wanted = WatchParams { field_selector: self.fields.map(str::to_owned), ..WatchParams::default() };
            let mut events = Box::pin(api.watch(&wanted, &version).await?);
            while let Some(event) = events.try_next().await? {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        version = object.resource_version().unwrap_or(version);
                        self.change(|objects| drop(objects.insert(key(&object), Arc::new(object))));
                    }
                    WatchEvent::Deleted(object) => {
                        version = object.resource_version().unwrap_or(version);
                        self.change(|objects| drop(objects.remove(&key(&object))));
                    }
                    WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                }
            }
        }
    }

    fn replace(&self, objects: BTreeMap<String, Arc<K>>) {
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(objects));
        self.changed.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<K>>)) {
        if let Some(objects) = &mut *self.objects.lock().unwrap_or_else(PoisonError::into_inner) {
            change(Arc::make_mut(objects));
        }
        self.changed.notify_one();
    }
}

/// Follows what a field selector holds of one kind, or all of it.
pub(crate) fn follow<K>(
    client: &Client,
    changed: &Arc<Notify>,
    fields: Option<&'static str>,
    following: &mut JoinSet<()>,
) -> Arc<Cache<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let cache = Arc::new(Cache::new(changed.clone(), fields));
    following.spawn(cache.clone().follow(Api::all(client.clone())));
    cache
}

fn key(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
