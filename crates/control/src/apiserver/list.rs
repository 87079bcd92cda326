//! GET: one object, or those of a kind that a selection holds.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use objects::kind::Kind;
use objects::selector::{FieldSelector, Selector};
use objects::status::Failure;
use serde_json::{Value, json};

use super::answer::{self, Form, Included};
use super::{Answer, ApiServer, Asked, Place, refusals};
use crate::store::{Listing, Object};

/// How long a read waits for a revision that has not been reached, as Kubernetes does.
const FUTURE_REVISION_WAIT: Duration = Duration::from_secs(3);

/// Which objects of a kind are meant.
#[derive(Clone)]
pub(super) struct Selection {
    labels: Option<Selector>,
    fields: Option<FieldSelector>,
    name: Option<String>,
}

/// How the listed revision relates to the one that was asked for.
enum Revision {
    Newest,
    NotOlderThan(u64),
    Exact(u64),
}

/// Where the next page begins: after this name, in the state of this revision.
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

impl ApiServer {
    pub(super) async fn get(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        if let Some(revision) = revision_number(asked)? {
            self.reach(revision).await?;
        }
        let object = self.find(place)?;
        match form {
            Form::Whole => Ok(answer::json_bytes(object.json())),
            Form::Metadata | Form::MetadataList | Form::Table => {
                let shown = answer::object(place.kind, &object.value, form, Included::wanted(asked)?);
                Ok(answer::json(StatusCode::OK, &shown, &[]))
            }
        }
    }

    pub(super) async fn list(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        if form == Form::Metadata {
            return Err(refusals::list_is_no_object(place));
        }
        if asked.query.get("sendInitialEvents").is_some() {
            let cause = refusals::forbidden_option("sendInitialEvents", "sendInitialEvents is forbidden for list");
            return Err(refusals::option("ListOptions", cause));
        }
        let selection = Selection::read(place.kind, asked)?;
        let limit: Option<usize> = asked.query.number("limit").map_err(Failure::bad_request)?;
        let after = Continue::read(asked)?;
        let listing = self.listing(place, asked, after.as_ref()).await?;
        let mut chosen: Vec<&Arc<Object>> = listing
            .objects
            .iter()
            .filter(|object| after.as_ref().is_none_or(|after| after.is_before(&object.value)))
            .filter(|object| selection.holds(place.kind, &object.value))
            .collect();
        let mut meta = json!({"resourceVersion": listing.revision.to_string()});
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit < chosen.len()) {
            if selection.is_everything() {
                meta["remainingItemCount"] = Value::from(chosen.len() - limit);
            }
            chosen.truncate(limit);
            meta["continue"] = chosen
                .last()
                .map(|last| Value::String(Continue::after(listing.revision, &last.value)))
                .unwrap_or_default();
        }
        Ok(match form {
            Form::Whole => answer::json_bytes(list_text(place.kind, &meta, &chosen)),
            Form::Metadata | Form::MetadataList => answer::json(StatusCode::OK, &metadata_list(&meta, &chosen), &[]),
            Form::Table => {
                let values = chosen.iter().map(|object| &object.value);
                answer::json(StatusCode::OK, &answer::table(place.kind, values, &meta, Included::wanted(asked)?), &[])
            }
        })
    }

    async fn listing(&self, place: &Place, asked: &Asked, after: Option<&Continue>) -> Result<Listing, Failure> {
        let (resource, namespace) = (place.resource(), place.namespace.as_deref());
        let revision = match after {
            Some(after) => Revision::Exact(after.revision),
            None => Revision::wanted(asked)?,
        };
        match revision {
            Revision::Newest => Ok(self.store.list(&resource, namespace)),
            Revision::NotOlderThan(revision) => {
                self.reach(revision).await?;
                Ok(self.store.list(&resource, namespace))
            }
            Revision::Exact(revision) => {
                self.reach(revision).await?;
                self.store.list_at(&resource, namespace, revision).map_err(|_| match after {
                    Some(_) => Failure::gone("The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter."),
                    None => Failure::gone(format!("too old resource version: {revision} ({})", self.store.revision())),
                })
            }
        }
    }

    /// Waits for a revision that the store hasn't reached; times out as Kubernetes does.
    pub(super) async fn reach(&self, revision: u64) -> Result<(), Failure> {
        match self.store.wait_for_revision(revision, FUTURE_REVISION_WAIT).await {
            true => Ok(()),
            false => Err(refusals::revision_not_reached(revision, self.store.revision())),
        }
    }
}

impl Selection {
    pub(super) fn read(kind: &Kind, asked: &Asked) -> Result<Self, Failure> {
        let labels = asked.query.get("labelSelector").map(Selector::parse).transpose();
        let fields = asked.query.get("fieldSelector").map(FieldSelector::parse).transpose();
        let selection = Self {
            labels: labels.map_err(|error| Failure::bad_request(error.to_string()))?,
            fields: fields.map_err(|error| Failure::bad_request(error.to_string()))?,
            name: None,
        };
        let known = (kind.field_labels)(&Value::Null);
        let terms = selection.fields.iter().flat_map(FieldSelector::terms);
        for field in terms.map(|term| &term.field) {
            let common = matches!(field.as_str(), "metadata.name" | "metadata.namespace");
            if !common && !known.iter().any(|(label, _)| label == field) {
                return Err(Failure::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(selection)
    }

    /// The selection narrowed to one object, as a watch of a named object is.
    pub(super) fn with_name(self, name: Option<&str>) -> Self {
        Self { name: name.map(str::to_owned), ..self }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    pub(super) fn holds(&self, kind: &Kind, value: &Value) -> bool {
        self.name.as_ref().is_none_or(|name| value["metadata"]["name"] == **name)
            && self
                .labels
                .as_ref()
                .is_none_or(|labels| labels.matches_by(|label| value["metadata"]["labels"][label].as_str()))
            && self.fields.as_ref().is_none_or(|fields| fields.matches_by(|field| field_value(kind, value, field)))
    }
}

fn field_value(kind: &Kind, value: &Value, field: &str) -> Option<String> {
    match field {
        "metadata.name" => value["metadata"]["name"].as_str().map(str::to_owned),
        "metadata.namespace" => Some(value["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()),
        _ => (kind.field_labels)(value).into_iter().find(|(label, _)| *label == field).map(|(_, found)| found),
    }
}

impl Revision {
    fn wanted(asked: &Asked) -> Result<Self, Failure> {
        let matching = asked.query.get("resourceVersionMatch");
        let revision = revision_number(asked)?;
        match (matching, revision) {
            (None, None) => Ok(Self::Newest),
            (Some(_), None) => Err(misuse("resourceVersionMatch is forbidden unless resourceVersion is provided")),
            (Some("Exact"), Some(0)) => {
                Err(misuse("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
            }
            (Some("Exact"), Some(revision)) => Ok(Self::Exact(revision)),
            (None | Some("NotOlderThan"), Some(revision)) => Ok(Self::NotOlderThan(revision)),
            (Some(other), Some(_)) => {
                let supported = "\"Exact\", \"NotOlderThan\", \"\"";
                let cause = refusals::unsupported_option("resourceVersionMatch", &format!("{other:?}"), supported);
                Err(refusals::option("ListOptions", cause))
            }
        }
    }
}

fn misuse(sentence: &str) -> Failure {
    refusals::option("ListOptions", refusals::forbidden_option("resourceVersionMatch", sentence))
}

/// The `resourceVersion` parameter as a number.
pub(super) fn revision_number(asked: &Asked) -> Result<Option<u64>, Failure> {
    let text = asked.query.get("resourceVersion");
    text.map(|text| {
        text.parse().map_err(|_| {
            let sentence = "must be a number that a get, list or watch gave";
            Failure::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: {sentence}"
            ))
        })
    })
    .transpose()
}

impl Continue {
    fn read(asked: &Asked) -> Result<Option<Self>, Failure> {
        let Some(token) = asked.query.get("continue") else { return Ok(None) };
        if asked.query.get("resourceVersion").is_some_and(|version| version != "0") {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        let wrong = || Failure::bad_request("continue key is not valid: it must be one that a list gave");
        let text = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
        let value: Value = serde_json::from_slice(&text).map_err(|_| wrong())?;
        match (value["rv"].as_u64(), value["namespace"].as_str(), value["name"].as_str()) {
            (Some(revision), Some(namespace), Some(name)) => {
                Ok(Some(Self { revision, namespace: namespace.to_owned(), name: name.to_owned() }))
            }
            _ => Err(wrong()),
        }
    }

    fn after(revision: u64, last: &Value) -> String {
        let (namespace, name) = names(last);
        BASE64_URL_SAFE_NO_PAD.encode(json!({"rv": revision, "namespace": namespace, "name": name}).to_string())
    }

    fn is_before(&self, value: &Value) -> bool {
        names(value) > (self.namespace.as_str(), self.name.as_str())
    }
}

fn names(value: &Value) -> (&str, &str) {
    let metadata = &value["metadata"];
    (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default())
}

/// The text of a whole list, put together from the objects' own texts.
fn list_text(kind: &Kind, meta: &Value, objects: &[&Arc<Object>]) -> Bytes {
    let head =
        format!(r#"{{"kind":"{}List","apiVersion":"{}","metadata":{meta},"items":["#, kind.kind, kind.api_version());
    let mut text = BytesMut::from(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.put_u8(b',');
        }
        put_item(&mut text, kind, object);
    }
    text.put(&b"]}"[..]);
    text.freeze()
}

/// Items of a list don't repeat their kind and version. They stand first in an object's text, so it is cut, not made anew.
fn put_item(text: &mut BytesMut, kind: &Kind, object: &Object) {
    let head = format!(r#"{{"kind":"{}","apiVersion":"{}","#, kind.kind, kind.api_version());
    let whole = object.json();
    match whole.strip_prefix(head.as_bytes()) {
        Some(rest) => {
            text.put_u8(b'{');
            text.put(rest);
        }
        None => text.put(whole),
    }
}

fn metadata_list(meta: &Value, objects: &[&Arc<Object>]) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| answer::metadata_of(&object.value)).collect();
    json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items})
}
