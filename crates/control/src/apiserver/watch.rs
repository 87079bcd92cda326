//! GET with `watch`: changes as they happen, as the client's selection sees them.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use objects::kind::Kind;
use objects::status::Failure;
use objects::validation::Cause;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::{self, Form, Included};
use super::list::{Selection, revision_number};
use super::{Answer, ApiServer, Asked, Place, refusals};
use crate::store::{Change, ChangeKind, Listing, Watch};

/// How long a watch lasts whose client names no end; such clients come back by themselves.
const WATCH_LENGTH_DEFAULT: Duration = Duration::from_mins(45);

/// How often a client that wants bookmarks is told how far it has seen.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);

/// How a client sees changes.
pub(super) struct View {
    pub(super) kind: &'static Kind,
    namespace: Option<String>,
    pub(super) selection: Selection,
    form: Form,
    included: Included,
}

/// What a watch has still to tell.
struct Follow {
    view: View,
    watch: Watch,
    ends: Instant,
    next_bookmark: Option<Instant>,
    over: bool,
}

impl ApiServer {
    pub(super) async fn watch(&self, place: Place, asked: &Asked) -> Answer {
        let start = self.start(&place, asked).await?;
        let bookmarks = asked.query.is_true("allowWatchBookmarks");
        let ends = end(asked)?;
        let view = View::wanted(&place, asked)?;
        let (revision, mut text) = match &start {
            Start::After(revision) => (*revision, Vec::new()),
            Start::With(listing, end) => (listing.revision, view.initial(listing, *end)),
        };
        let watch = match self.store.watch(&place.resource(), revision) {
            Ok(watch) => watch,
            Err(error) => {
                let failure = Failure::gone(format!("{error}: {revision} ({})", self.store.revision()));
                text.extend(line("ERROR", &failure.to_value()));
                return Ok(answer::stream(stream::iter([Ok(Bytes::from(text))]), "application/json"));
            }
        };
        let next_bookmark = bookmarks.then(|| Instant::now() + BOOKMARK_INTERVAL);
        let follow = Follow { view, watch, ends, next_bookmark, over: false };
        let first = stream::iter((!text.is_empty()).then(|| Ok(Bytes::from(text))));
        Ok(answer::stream(first.chain(stream::unfold(follow, Follow::next)), "application/json"))
    }

    /// Where a watch begins.
    async fn start(&self, place: &Place, asked: &Asked) -> Result<Start, Failure> {
        let initial = asked.query.get("sendInitialEvents");
        let matching = asked.query.get("resourceVersionMatch");
        check_initial_events(initial, matching)?;
        let revision = revision_number(asked)?;
        if let Some(revision) = revision {
            self.reach(revision).await?;
        }
        let listing = || self.store.list(&place.resource(), place.namespace.as_deref());
        Ok(match (initial, revision) {
            (Some("true"), _) => Start::With(listing(), InitialEnd::Bookmark),
            (Some(_), _) if revision.is_none_or(|revision| revision == 0) => Start::After(self.store.revision()),
            (_, None | Some(0)) => Start::With(listing(), InitialEnd::Silent),
            (_, Some(revision)) => Start::After(revision),
        })
    }
}

/// A watch ends after a day at the latest.
const WATCH_LENGTH_MOST: Duration = Duration::from_hours(24);

/// When a watch ends.
pub(super) fn end(asked: &Asked) -> Result<Instant, Failure> {
    let length = asked.query.number("timeoutSeconds").map_err(Failure::bad_request)?;
    let length = length.filter(|seconds| *seconds > 0).map_or(WATCH_LENGTH_DEFAULT, Duration::from_secs);
    Ok(Instant::now() + length.min(WATCH_LENGTH_MOST))
}

enum Start {
    After(u64),
    With(Listing, InitialEnd),
}

/// Whether the client is told that it has seen the initial state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InitialEnd {
    Bookmark,
    Silent,
}

const MATCH: &str = "resourceVersionMatch";

pub(super) fn check_initial_events(initial: Option<&str>, matching: Option<&str>) -> Result<(), Failure> {
    match (initial, matching) {
        (None, None) | (Some(_), Some("NotOlderThan")) => Ok(()),
        (None, Some(_)) => Err(misuse(refusals::forbidden_option(
            MATCH,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ))),
        (Some(_), None) => Err(misuse(refusals::forbidden_option(
            MATCH,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ))),
        (Some(_), Some(other)) => {
            Err(misuse(refusals::unsupported_option(MATCH, &format!("{other:?}"), "\"NotOlderThan\"")))
        }
    }
}

fn misuse(cause: Cause) -> Failure {
    refusals::option("ListOptions", cause)
}

impl Follow {
    async fn next(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        while !self.over {
            let wake = self.next_bookmark.map_or(self.ends, |bookmark| bookmark.min(self.ends));
            let text = match tokio::time::timeout_at(wake, self.watch.next()).await {
                Ok(Ok(changes)) if changes.is_empty() => return None,
                Ok(Ok(changes)) => changes.iter().flat_map(|change| self.view.tell(change)).collect(),
                Ok(Err(error)) => {
                    self.over = true;
                    line("ERROR", &Failure::gone(error.to_string()).to_value())
                }
                Err(_) if Instant::now() >= self.ends => return None,
                Err(_) => {
                    self.next_bookmark = Some(Instant::now() + BOOKMARK_INTERVAL);
                    self.view.bookmark(self.watch.seen(), InitialEnd::Silent)
                }
            };
            if !text.is_empty() {
                return Some((Ok(Bytes::from(text)), self));
            }
        }
        None
    }
}

impl View {
    pub(super) fn wanted(place: &Place, asked: &Asked) -> Result<Self, Failure> {
        Ok(Self {
            kind: place.kind,
            selection: Selection::read(place.kind, asked)?.with_name(place.name.as_deref()),
            form: Form::wanted(asked)?,
            included: Included::wanted(asked)?,
            namespace: place.namespace.clone(),
        })
    }

    /// The objects that are there at the beginning, as if they were added now.
    fn initial(&self, listing: &Listing, end: InitialEnd) -> Vec<u8> {
        let mut text: Vec<u8> = listing
            .objects
            .iter()
            .filter(|object| self.selection.holds(self.kind, &object.value))
            .flat_map(|object| self.event("ADDED", &object.value))
            .collect();
        if end == InitialEnd::Bookmark {
            text.extend(self.bookmark(listing.revision, end));
        }
        text
    }

    /// A change as the selection sees it: an object that leaves it was deleted, one that enters it was added.
    fn tell(&self, change: &Change) -> Vec<u8> {
        let value = &change.object.value;
        if self.namespace.as_ref().is_some_and(|namespace| value["metadata"]["namespace"] != **namespace) {
            return Vec::new();
        }
        let was = change.previous_value().is_some_and(|previous| self.selection.holds(self.kind, previous));
        let is = change.kind != ChangeKind::Deleted && self.selection.holds(self.kind, value);
        match (was, is) {
            (false, false) => Vec::new(),
            (false, true) => self.event("ADDED", value),
            (true, true) => self.event("MODIFIED", value),
            (true, false) => self.event("DELETED", &last_seen(change)),
        }
    }

    pub(super) fn event(&self, kind: &str, value: &Value) -> Vec<u8> {
        line(kind, &answer::object(self.kind, value, self.form, self.included))
    }

    pub(super) fn bookmark(&self, revision: u64, end: InitialEnd) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end == InitialEnd::Bookmark {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Whole => json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata}),
            Form::Metadata | Form::MetadataList => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => {
                let object =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                let mut table =
                    answer::table(self.kind, [], &json!({"resourceVersion": revision.to_string()}), self.included);
                table["rows"] = json!([{"cells": vec![Value::from(""); self.kind.columns.len()], "object": object}]);
                table
            }
        };
        line("BOOKMARK", &object)
    }
}

/// An object as the selection last saw it, at the revision at which it went out of sight.
fn last_seen(change: &Change) -> Value {
    let mut value = change.previous_value().unwrap_or(&change.object.value).clone();
    value["metadata"]["resourceVersion"] = change.object.value["metadata"]["resourceVersion"].clone();
    value
}

pub(super) fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut text = format!(r#"{{"type":"{kind}","object":{object}}}"#).into_bytes();
    text.push(b'\n');
    text
}
