//! Every pod of this node has a task. A list says which pods there are, a watch wakes their tasks, and a directory
//! without an object is what somebody deleted while no engine ran.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use decide::node_pressure::Evict;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tracing::{error, info, warn};

use super::news::News;
use super::pod_task::{PodKey, PodTask};
use super::runtime::chain;
use super::{AgentError, Machine, Order};

/// The API ends a watch at the latest after this; a client that was cut off notices.
const WATCH_SECONDS: u32 = 290;
/// Before listing again after the API has failed.
const RETRY: Duration = Duration::from_secs(1);

/// All tasks.
struct Pods {
    machine: Arc<Machine>,
    orders: watch::Receiver<Order>,
    contacts: BTreeMap<PodKey, Contact>,
    tasks: JoinSet<()>,
    keys: HashMap<Id, PodKey>,
}

/// How a pod's task is reached.
struct Contact {
    wake: Arc<Notify>,
    tell: mpsc::Sender<News>,
}

/// How a pod's task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskEnd {
    /// Nothing of the pod is left.
    Over,
    /// It panicked.
    Failed,
}

/// Looks after the node's pods until the order to leave, or until all are down.
pub(super) async fn look_after_all(
    machine: Arc<Machine>,
    mut orders: watch::Receiver<Order>,
    mut evict: mpsc::Receiver<Evict>,
) -> Result<(), AgentError> {
    let mut pods = Pods {
        machine,
        orders: orders.clone(),
        contacts: BTreeMap::new(),
        tasks: JoinSet::new(),
        keys: HashMap::new(),
    };
    let mut version = pods.relist().await?;
    pods.remove_orphans().await?;
    loop {
        if pods.is_done() {
            return Ok(());
        }
        let mut events = Box::pin(pods.watch(&version).await);
        version = loop {
            tokio::select! {
                changed = orders.changed() => {
                    // Whoever gave orders is gone: so is the engine.
                    if changed.is_err() || pods.is_done() {
                        return Ok(());
                    }
                }
                Some(evict) = evict.recv() => pods.evict(evict),
                Some(ended) = pods.tasks.join_next_with_id() => {
                    let ended = pods.forget(ended);
                    if pods.is_done() {
                        return Ok(());
                    }
                    if ended == TaskEnd::Failed {
                        tokio::time::sleep(RETRY).await;
                        break pods.relist_patiently().await;
                    }
                }
                event = events.next() => match event {
                    Some(Ok(event)) => if !pods.hear(event) { break pods.relist_patiently().await },
                    Some(Err(error)) => {
                        warn!(error = chain(&error), "the watch of pods broke; listing again");
                        tokio::time::sleep(RETRY).await;
                        break pods.relist_patiently().await;
                    }
                    None => break pods.relist_patiently().await,
                },
            }
        };
    }
}

impl Pods {
    fn is_done(&self) -> bool {
        match self.order() {
            Order::Run => false,
            Order::Leave => true,
            Order::Down => self.tasks.is_empty(),
        }
    }

    fn order(&self) -> Order {
        *self.orders.borrow()
    }

    fn api(&self) -> Api<Pod> {
        Api::all(self.machine.client.clone())
    }

    fn field_selector(&self) -> String {
        format!("spec.nodeName={}", self.machine.settings.node_name)
    }

    async fn relist(&mut self) -> Result<String, AgentError> {
        let params = ListParams::default().fields(&self.field_selector());
        let list = self.api().list(&params).await.map_err(AgentError::List)?;
        let version = list.metadata.resource_version.clone().unwrap_or_default();
        for pod in list.items {
            self.look_after(pod);
        }
        // Those that are not in the list find out for themselves.
        self.contacts.values().for_each(|contact| contact.wake.notify_one());
        Ok(version)
    }

    async fn relist_patiently(&mut self) -> String {
        loop {
            match self.relist().await {
                Ok(version) => return version,
                Err(error) => warn!(error = chain(&error), "trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn watch(&self, version: &str) -> impl Stream<Item = kube::Result<WatchEvent<Pod>>> + Send + use<> {
        let params = WatchParams::default().fields(&self.field_selector()).timeout(WATCH_SECONDS);
        match self.api().watch(&params, version).await {
            Ok(events) => events.boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    /// Whether the watch goes on.
    fn hear(&mut self, event: WatchEvent<Pod>) -> bool {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => match self.order() {
                Order::Run => self.look_after(pod),
                Order::Down | Order::Leave => self.wake(&pod),
            },
            WatchEvent::Deleted(pod) => self.wake(&pod),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => {
                info!(code = status.code, reason = status.reason, "the watch of pods ended; listing again");
                return false;
            }
        }
        true
    }

    fn wake(&self, pod: &Pod) {
        if let Some(contact) = PodKey::of(pod).and_then(|key| self.contacts.get(&key)) {
            contact.wake.notify_one();
        }
    }

    /// A pod that hears too much to hear this is named again. While the engine goes down all pods do, to come back.
    fn evict(&self, Evict { uid, message }: Evict) {
        if *self.orders.borrow() == Order::Down {
            return;
        }
        if let Some((key, contact)) = self.contacts.iter().find(|(key, _)| key.uid == uid) {
            warn!(pod = %key.name, message, "evicting");
            let _ = contact.tell.try_send(News::Evict { message });
        }
    }

    fn look_after(&mut self, pod: Pod) {
        let Some(key) = PodKey::of(&pod) else { return };
        if let Some(contact) = self.contacts.get(&key) {
            return contact.wake.notify_one();
        }
        let wake = Arc::new(Notify::new());
        let machine = Arc::clone(&self.machine);
        let task = PodTask::new(machine, key.clone(), pod, Arc::clone(&wake), self.orders.clone());
        let contact = Contact { wake, tell: task.tell.clone() };
        let handle = self.tasks.spawn(task.run());
        self.keys.insert(handle.id(), key.clone());
        self.contacts.insert(key, contact);
    }

    /// A pod whose task failed runs on meanwhile; the next list starts its task again.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) -> TaskEnd {
        let (id, end) = match &ended {
            Ok((id, ())) => (*id, TaskEnd::Over),
            Err(failure) => (failure.id(), TaskEnd::Failed),
        };
        if let Some(key) = self.keys.remove(&id) {
            self.contacts.remove(&key);
            if let Err(failure) = ended {
                error!(pod = %key.name, error = chain(&failure), "the pod's task failed; it is started again");
            }
        }
        end
    }

    /// Nobody knows these pods any more, so nobody is to be asked. A pod of another node's name is known.
    async fn remove_orphans(&self) -> Result<(), AgentError> {
        let all = self.api().list(&ListParams::default()).await.map_err(AgentError::List)?;
        let known: BTreeSet<String> = all.items.into_iter().filter_map(|pod| pod.metadata.uid).collect();
        for uid in self.machine.runtime.find_pods().await?.iter().filter(|uid| !known.contains(*uid)) {
            info!(uid, "removing a pod whose object is gone");
            self.machine.runtime.remove(uid).await?;
        }
        self.remove_orphaned_files(&known).await;
        Ok(())
    }

    async fn remove_orphaned_files(&self, known: &BTreeSet<String>) {
        let directory = self.machine.settings.data_dir.join("pods");
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_known = entry.file_name().to_str().is_some_and(|uid| known.contains(uid));
            if !is_known && let Err(error) = super::apply::remove_directory(entry.path()).await {
                warn!(error = chain(&error), "files of a deleted pod stay");
            }
        }
    }
}
