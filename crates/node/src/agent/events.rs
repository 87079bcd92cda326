//! Events on pods, as the kubelet reports them. Best effort: what cannot be written soon is dropped, never waited for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

/// Events that wait to be written. A pod reports a dozen while it starts; a full node's start fits.
const QUEUED: usize = 2048;
/// Events that are remembered in order to be counted instead of repeated.
const REMEMBERED: usize = 4096;
/// An event's message is cut here, as the API demands.
const LONGEST_MESSAGE: usize = 1024;

/// Takes events.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<PodEvent>,
}

/// Whether somebody should worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodEvent {
    namespace: String,
    name: String,
    uid: String,
    container: Option<String>,
    type_: EventType,
    reason: &'static str,
    message: String,
}

struct Writer {
    client: kube::Client,
    node_name: String,
    written: BTreeMap<PodEvent, Written>,
}

#[derive(Clone, Debug)]
struct Written {
    name: String,
    count: i32,
}

impl Recorder {
    /// A recorder, and the task that writes what it takes until the recorder and all its clones are gone.
    pub(crate) fn start(client: kube::Client, node_name: String) -> Self {
        let (queue, events) = mpsc::channel(QUEUED);
        let writer = Writer { client, node_name, written: BTreeMap::new() };
        tokio::spawn(writer.write_all(events));
        Self { queue }
    }

    /// Reports something about the pod, or about one of its containers.
    pub(crate) fn record(
        &self,
        pod: &Pod,
        container: Option<&str>,
        type_: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut message: String = message.into();
        let end = message.floor_char_boundary(LONGEST_MESSAGE);
        message.truncate(end);
        let metadata = &pod.metadata;
        let event = PodEvent {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            container: container.map(|container| field_path(pod, container)),
            type_,
            reason,
            message,
        };
        if self.queue.try_send(event).is_err() {
            debug!(reason, "too many events wait to be written; this one is dropped");
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    let is_init = init.into_iter().flatten().any(|init| init.name == container);
    format!("spec.{}{{{container}}}", if is_init { "initContainers" } else { "containers" })
}

impl Writer {
    async fn write_all(mut self, mut events: mpsc::Receiver<PodEvent>) {
        while let Some(event) = events.recv().await {
            if let Err(error) = self.write(&event).await {
                debug!(%error, reason = event.reason, pod = event.name, "an event could not be written");
            }
        }
    }

    async fn write(&mut self, event: &PodEvent) -> kube::Result<()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.namespace);
        let now = Timestamp::now();
        if let Some(written) = self.written.get_mut(event) {
            let count = written.count + 1;
            let patch = Patch::Merge(json!({"count": count, "lastTimestamp": Time(now)}));
            match api.patch(&written.name, &PatchParams::default(), &patch).await {
                Ok(_) => {
                    written.count = count;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", event.name, now.as_nanosecond());
        api.create(&PostParams::default(), &self.object(event, &name, now)).await?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(event.clone(), Written { name, count: 1 });
        Ok(())
    }

    fn object(&self, event: &PodEvent, name: &str, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(event.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(event.name.clone()),
                namespace: Some(event.namespace.clone()),
                uid: Some(event.uid.clone()),
                field_path: event.container.clone(),
                ..ObjectReference::default()
            },
            reason: Some(event.reason.to_owned()),
            message: Some(event.message.clone()),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node_name.clone()) }),
            type_: Some(
                match event.type_ {
                    EventType::Normal => "Normal",
                    EventType::Warning => "Warning",
                }
                .to_owned(),
            ),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}
