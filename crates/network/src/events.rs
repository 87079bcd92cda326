//! Events on objects of the API.

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

impl About {
    pub(crate) fn of<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Self {
        let metadata = object.metadata();
        Self {
            api_version: K::API_VERSION,
            kind: K::KIND,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
        }
    }
}

/// Who says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    Routing,
    Tailnet,
}

impl Component {
    const fn name(self) -> &'static str {
        match self {
            Self::Routing => "segue-routing",
            Self::Tailnet => "segue-tailnet",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

/// What is to be said, in one word and in sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) by: Component,
    pub(crate) type_: EventType,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Said {
    /// What routing says is wrong.
    pub(crate) fn by_routing(reason: &'static str, message: String) -> Self {
        Self { by: Component::Routing, type_: EventType::Warning, reason, message }
    }
}

pub(crate) async fn write_event(client: Client, about: About, said: Said) {
    let events: Api<Event> = Api::namespaced(client, &about.namespace);
    let event = event(&about, said, Timestamp::now());
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!("can't write an event on {} {}/{}: {error}", about.kind, about.namespace, about.name);
    }
}

fn event(about: &About, Said { by, type_, reason, message }: Said, now: Timestamp) -> Event {
    let name = format!("{}.{:x}", about.name, now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(about.namespace.clone()), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some(about.api_version.to_owned()),
            kind: Some(about.kind.to_owned()),
            namespace: Some(about.namespace.clone()),
            name: Some(about.name.clone()),
            uid: about.uid.clone(),
            ..ObjectReference::default()
        },
        type_: Some(format!("{type_:?}")),
        reason: Some(reason.to_owned()),
        message: Some(message),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(by.name().to_owned()), host: None }),
        reporting_component: Some(by.name().to_owned()),
        ..Event::default()
    }
}
