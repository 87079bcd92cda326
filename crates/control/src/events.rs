//! Core v1 Events about objects, for users to read. Repeats are counted in one Event. They are best effort: when they
//! can't be written, or come too fast, they are lost and nothing waits for them.

use std::collections::BTreeMap;

use decide::target::Target;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Resource;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

/// Events that wait to be written. A burst of a whole ReplicaSet fits.
const QUEUE_LENGTH: usize = 256;

/// Events whose repeats are counted; the least recent are forgotten, and their repeats are new Events.
const REMEMBERED: usize = 1024;

/// Kubernetes refuses longer messages.
const MESSAGE_LENGTH_MAX: usize = 1024;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub api_version: String,
    pub kind: String,
    /// Empty for objects without a namespace; their events are in `default`.
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Records events in the name of one component. Clones share what they count.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    subject: Subject,
    type_: EventType,
    reason: String,
    message: String,
}

/// How often an Event was recorded, and when it was last.
struct Counted {
    name: String,
    count: i32,
    last: Timestamp,
}

impl Subject {
    /// A whole object.
    #[must_use]
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self::of_target(&K::api_version(&()), &K::kind(&()), &Target::of(object.meta()))
    }

    /// The object that a step was about.
    #[must_use]
    pub(crate) fn of_target(api_version: &str, kind: &str, target: &Target) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
        }
    }
}

impl Events {
    /// Starts recording for a component, e.g. `deployment-controller`, until the last clone is dropped.
    #[must_use]
    pub(crate) fn start(client: Client, component: &'static str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(write_all(client, component, receiver));
        Self { sender }
    }

    /// Records that something happened to the object. `reason` is one CamelCase word.
    pub(crate) fn record(&self, subject: &Subject, type_: EventType, reason: &str, message: &str) {
        let message = message.chars().take(MESSAGE_LENGTH_MAX).collect();
        let record = Record { subject: subject.clone(), type_, reason: reason.to_owned(), message };
        if let Err(error) = self.sender.try_send(record) {
            debug!(%error, "an event is lost");
        }
    }
}

/// It reports by the newer Event API, whose events name only who reports them.
const SCHEDULER: &str = "default-scheduler";

async fn write_all(client: Client, component: &'static str, mut records: mpsc::Receiver<Record>) {
    let mut written: BTreeMap<Record, Counted> = BTreeMap::new();
    while let Some(record) = records.recv().await {
        let events = Api::<Event>::namespaced(client.clone(), namespace(&record.subject));
        let now = Timestamp::now();
        let repeated = match written.get_mut(&record) {
            Some(counted) => repeat(&events, counted, now).await,
            None => false,
        };
        if !repeated && let Some(name) = create(&events, component, &record, now).await {
            forget_the_oldest(&mut written);
            written.insert(record, Counted { name, count: 1, last: now });
        }
    }
}

/// Whether the Event is still there and was counted up.
async fn repeat(events: &Api<Event>, counted: &mut Counted, now: Timestamp) -> bool {
    let change = json!({"count": counted.count + 1, "lastTimestamp": Time(now)});
    match events.patch(&counted.name, &PatchParams::default(), &Patch::Merge(change)).await {
        Ok(_) => {
            counted.count += 1;
            counted.last = now;
            true
        }
        Err(error) => {
            debug!(%error, event = counted.name, "cannot count an event; recording a new one");
            false
        }
    }
}

async fn create(events: &Api<Event>, component: &str, record: &Record, now: Timestamp) -> Option<String> {
    let event = event(component, record, now);
    let name = event.metadata.name.clone();
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => name,
        Err(error) => {
            debug!(%error, reason = record.reason, "an event is lost");
            None
        }
    }
}

fn event(component: &str, record: &Record, now: Timestamp) -> Event {
    let subject = &record.subject;
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Event {
        metadata: ObjectMeta {
            // Two events of one object in the same nanosecond don't happen: they are written one after the other.
            name: Some(format!("{}.{:x}", subject.name, now.as_nanosecond())),
            namespace: Some(namespace(subject).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: some(&subject.api_version),
            kind: some(&subject.kind),
            namespace: some(&subject.namespace),
            name: some(&subject.name),
            uid: some(&subject.uid),
            ..ObjectReference::default()
        },
        type_: Some(format!("{:?}", record.type_)),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        source: (component != SCHEDULER).then(|| EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

fn namespace(subject: &Subject) -> &str {
    if subject.namespace.is_empty() { "default" } else { &subject.namespace }
}

fn forget_the_oldest(written: &mut BTreeMap<Record, Counted>) {
    if written.len() >= REMEMBERED {
        let oldest = written.iter().min_by_key(|(_, counted)| counted.last).map(|(record, _)| record.clone());
        oldest.map(|record| written.remove(&record));
    }
}
