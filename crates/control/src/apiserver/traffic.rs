//! What happened to the traffic: read from the data plane's counts when it is asked for, and not kept in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use jiff::Timestamp;
use objects::names::ROLLED_OUT_AGAIN;
use objects::selector::matches_map;
use objects::status::Failure;
use objects::traffic::{Period, Series, SeriesKey, rollout_status, service_status};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::answer::{self, Form, Included};
use super::list::{Selection, revision_number};
use super::watch::{InitialEnd, View, check_initial_events, end, line};
use super::{Answer, ApiServer, Asked, Place, refusals};

/// Changes that a client may have missed between a list and its watch.
const MOST_MISSED: u64 = 60;

/// The shortest time between two looks for a watch.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The data plane's side: what it has counted.
pub trait Traffic: Send + Sync {
    /// What was counted since a moment, or one shortly before it, of the series that are wanted.
    fn since(&self, moment: Option<Timestamp>, holds: &dyn Fn(&SeriesKey) -> bool) -> Period;

    /// A number that grows whenever something was counted.
    fn changes(&self) -> watch::Receiver<u64>;
}

impl ApiServer {
    pub(super) fn get_traffic(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        let all = self.traffic_objects(place, since(place, asked)?);
        let value = all.into_iter().next().ok_or_else(|| refusals::not_found(place))?;
        Ok(answer::json(StatusCode::OK, &answer::object(place.kind, &value, form, Included::wanted(asked)?), &[]))
    }

    pub(super) fn list_traffic(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        let selection = Selection::read(place.kind, asked)?;
        let meta = json!({"resourceVersion": self.traffic.changes().borrow().to_string()});
        let mut items = self.traffic_objects(place, since(place, asked)?);
        items.retain(|value| selection.holds(place.kind, value));
        let list = match form {
            Form::Table => answer::table(place.kind, &items, &meta, Included::wanted(asked)?),
            Form::Whole => json!({
                "kind": format!("{}List", place.kind.kind), "apiVersion": place.kind.api_version(), "metadata": meta,
                "items": items,
            }),
            Form::Metadata | Form::MetadataList => json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                "items": items.iter().map(answer::metadata_of).collect::<Vec<_>>(),
            }),
        };
        Ok(answer::json(StatusCode::OK, &list, &[]))
    }

    pub(super) fn watch_traffic(&self, place: Place, asked: &Asked) -> Answer {
        let view = View::wanted(&place, asked)?;
        let initial = asked.query.get("sendInitialEvents");
        check_initial_events(initial, asked.query.get("resourceVersionMatch"))?;
        let changes = self.traffic.changes();
        let seen = *changes.borrow();
        let known = match revision_number(asked)?.filter(|revision| *revision > 0 && initial != Some("true")) {
            None => BTreeMap::new(),
            Some(revision) if revision == seen => self.by_name(&place, since(&place, asked)?),
            // It has seen nearly this; what has changed is not known any more, so all of it is told.
            Some(revision) if revision < seen && seen - revision < MOST_MISSED => {
                let names = self.by_name(&place, None).into_keys();
                names.map(|name| (name, Value::Null)).collect()
            }
            Some(revision) => {
                let gone = Failure::gone(format!("too old resource version: {revision} ({seen})"));
                let text = line("ERROR", &gone.to_value());
                return Ok(answer::stream(stream::iter([Ok(Bytes::from(text))]), "application/json"));
            }
        };
        let follow = Follow {
            api: self.clone(),
            since: since(&place, asked)?,
            place,
            view,
            changes,
            known,
            end_of_initial: (initial == Some("true")).then_some(InitialEnd::Bookmark),
            ends: end(asked)?,
            look_at: Instant::now(),
        };
        Ok(answer::stream(stream::unfold(follow, Follow::next), "application/json"))
    }

    fn by_name(&self, place: &Place, since: Option<Timestamp>) -> BTreeMap<String, Value> {
        let objects = self.traffic_objects(place, since).into_iter();
        let name = |value: &Value| format!("{}/{}", value["metadata"]["namespace"], value["metadata"]["name"]);
        objects.map(|value| (name(&value), value)).collect()
    }

    /// The objects of a place: one for each Service, or for each Deployment.
    fn traffic_objects(&self, place: &Place, since: Option<Timestamp>) -> Vec<Value> {
        match place.kind.kind {
            "RolloutTraffic" => self.rollout_traffic(place),
            _ => self.service_traffic(place, since),
        }
    }

    fn service_traffic(&self, place: &Place, since: Option<Timestamp>) -> Vec<Value> {
        let is_wanted = |key: &SeriesKey| {
            place.namespace.as_ref().is_none_or(|namespace| key.namespace == *namespace)
                && place.name.as_ref().is_none_or(|name| key.service == *name)
        };
        let Period { since, until, series } = self.traffic.since(since, &is_wanted);
        let mut by_service: BTreeMap<(String, String), Vec<Series>> = BTreeMap::new();
        for one in series {
            by_service.entry((one.key.namespace.clone(), one.key.service.clone())).or_default().push(one);
        }
        let services = self.store.list("services", place.namespace.as_deref()).objects;
        let named =
            services.iter().filter(|service| place.name.as_ref().is_none_or(|name| name_of(&service.value) == *name));
        let shown = named.map(|service| {
            let key = (namespace_of(&service.value).to_owned(), name_of(&service.value).to_owned());
            let series = by_service.remove(&key).unwrap_or_default();
            self.shown(place, &service.value, json!(service_status(&Period { since, until, series })))
        });
        shown.collect()
    }

    fn rollout_traffic(&self, place: &Place) -> Vec<Value> {
        let deployments = self.store.list("deployments.apps", place.namespace.as_deref()).objects;
        let named = deployments.iter().filter(|it| place.name.as_ref().is_none_or(|name| name_of(&it.value) == *name));
        named.filter_map(|deployment| self.traffic_of_rollout(place, &deployment.value)).collect()
    }

    /// None before there is a ReplicaSet to roll out.
    fn traffic_of_rollout(&self, place: &Place, deployment: &Value) -> Option<Value> {
        let namespace = namespace_of(deployment);
        let sets = self.store.list("replicasets.apps", Some(namespace)).objects;
        let newest = sets
            .iter()
            .map(|set| &set.value)
            .filter(|set| is_owned_by(set, deployment))
            .max_by_key(|set| revision(set))?;
        let version = newest["metadata"]["labels"]["pod-template-hash"].as_str().unwrap_or_default();
        let services = self.services_that_select(namespace, &deployment["spec"]["template"]["metadata"]["labels"]);
        let is_wanted = |key: &SeriesKey| key.namespace == namespace && services.contains(&key.service);
        let period = self.traffic.since(Some(rolled_out_at(newest)), &is_wanted);
        let status = rollout_status(&period, version, revision(newest), services);
        Some(self.shown(place, deployment, json!(status)))
    }

    fn services_that_select(&self, namespace: &str, labels: &Value) -> Vec<String> {
        let texts =
            |value: &Value| -> BTreeMap<String, String> { serde_json::from_value(value.clone()).unwrap_or_default() };
        let labels = texts(labels);
        let selects = |service: &Value| {
            let selector = texts(&service["spec"]["selector"]);
            !selector.is_empty() && matches_map(&selector, &labels)
        };
        let services = self.store.list("services", Some(namespace)).objects;
        services.iter().filter(|it| selects(&it.value)).map(|it| name_of(&it.value).to_owned()).collect()
    }

    fn shown(&self, place: &Place, about: &Value, status: Value) -> Value {
        let metadata = &about["metadata"];
        json!({
            "kind": place.kind.kind,
            "apiVersion": place.kind.api_version(),
            "metadata": {
                "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "labels": metadata["labels"], "creationTimestamp": metadata["creationTimestamp"],
                "resourceVersion": self.traffic.changes().borrow().to_string(),
            },
            "status": status,
        })
    }
}

/// A watch of counts.
struct Follow {
    api: ApiServer,
    place: Place,
    since: Option<Timestamp>,
    view: View,
    changes: watch::Receiver<u64>,
    /// As they were told last.
    known: BTreeMap<String, Value>,
    /// Set until the client was told that it has seen what was there at first, if it wants that.
    end_of_initial: Option<InitialEnd>,
    ends: Instant,
    look_at: Instant,
}

impl Follow {
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        loop {
            timeout_at(self.ends, tokio::time::sleep_until(self.look_at)).await.ok()?;
            let seen = *self.changes.borrow_and_update();
            let text = self.look(seen);
            self.look_at = Instant::now() + LOOK_EVERY;
            if !text.is_empty() {
                return Some((Ok(Bytes::from(text)), self));
            }
            // A Service that came or went counts nothing: it is seen with the next look.
            let _ = timeout_at(self.ends.min(self.look_at + LOOK_EVERY), self.changes.changed()).await;
        }
    }

    fn look(&mut self, seen: u64) -> Vec<u8> {
        let mut now = self.api.by_name(&self.place, self.since);
        now.retain(|_, value| self.view.selection.holds(self.view.kind, value));
        let mut text = Vec::new();
        for (name, value) in &now {
            match self.known.get(name) {
                None => text.extend(self.view.event("ADDED", value)),
                Some(old) if counted(old) != counted(value) => text.extend(self.view.event("MODIFIED", value)),
                Some(_) => {}
            }
        }
        for (_, gone) in self.known.iter().filter(|(name, _)| !now.contains_key(*name)) {
            text.extend(self.view.event("DELETED", gone));
        }
        self.known = now;
        if let Some(end) = self.end_of_initial.take() {
            text.extend(self.view.bookmark(seen, end));
        }
        text
    }
}

/// What a look may have changed: everything but the time of the look.
fn counted(value: &Value) -> Value {
    let mut status = value["status"].clone();
    if let Some(fields) = status.as_object_mut() {
        fields.shift_remove("since");
        fields.shift_remove("until");
    }
    status
}

fn since(place: &Place, asked: &Asked) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = asked.query.get("since") else { return Ok(None) };
    if place.kind.kind == "RolloutTraffic" {
        return Err(Failure::bad_request(
            "since: a rollout's traffic is counted since the rollout began; leave it out",
        ));
    }
    let wrong = |error| Failure::bad_request(format!("since: {error}; write it as 2026-01-31T12:00:00Z"));
    text.parse().map(Some).map_err(wrong)
}

fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_of(value: &Value) -> &str {
    value["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn is_owned_by(value: &Value, owner: &Value) -> bool {
    let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().any(|reference| reference["uid"] == owner["metadata"]["uid"])
}

fn revision(set: &Value) -> i64 {
    let text = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// When a ReplicaSet became its Deployment's new one.
fn rolled_out_at(set: &Value) -> Timestamp {
    let metadata = &set["metadata"];
    let again = metadata["annotations"][ROLLED_OUT_AGAIN].as_str();
    let time = again.or_else(|| metadata["creationTimestamp"].as_str());
    time.and_then(|time| time.parse().ok()).unwrap_or_default()
}
