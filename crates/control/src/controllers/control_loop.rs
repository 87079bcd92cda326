//! The one shape of all controllers: watches wake keys, and each key is looked at afresh.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::core::Resource;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::watches::{Change, watch};
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error};

/// A controller that is being put together; its tasks end with the set they are in.
pub(super) struct ControlLoop<'a> {
    pub(super) context: Context,
    name: &'static str,
    queue: Arc<WorkQueue>,
    tasks: &'a mut JoinSet<()>,
}

impl<'a> ControlLoop<'a> {
    pub(super) fn new(name: &'static str, context: Context, tasks: &'a mut JoinSet<()>) -> Self {
        Self { context, name, queue: Arc::new(WorkQueue::default()), tasks }
    }

    /// Has `wake` called for every change of objects of this kind.
    pub(super) fn wakes_on<K>(self, wake: fn(&WorkQueue, Change, &K)) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let api = Api::<K>::all(self.context.client.clone());
        self.wakes_on_any(api, wake)
    }

    /// The same for objects of a kind that is known only now.
    pub(super) fn wakes_on_any<K>(self, api: Api<K>, wake: fn(&WorkQueue, Change, &K)) -> Self
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (told, missed) = (Arc::clone(&self.queue), Arc::clone(&self.queue));
        let tell = move |change, object: &K| wake(&told, change, object);
        self.tasks.spawn(watch(api, tell, move || missed.wake_known(|_| true)));
        self
    }

    /// Looks at keys, `at_once` of them at a time.
    pub(super) fn works<F>(self, at_once: usize, reconcile: impl Fn(Context, Key) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Next, Error>> + Send + 'static,
    {
        let Self { context, name, queue, tasks } = self;
        tasks.spawn(async move { queue.work(at_once, name, |key| reconcile(context.clone(), key)).await });
    }
}

impl Key {
    /// The key of the object with this metadata.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }

    /// The key of a controller that looks at everything at once.
    pub(super) fn everything() -> Self {
        Self { namespace: String::new(), name: "everything".to_owned() }
    }

    /// The key of an object in the same namespace.
    pub(super) fn beside(meta: &ObjectMeta, name: &str) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: name.to_owned() }
    }
}
