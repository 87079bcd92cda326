//! DELETE: an object goes, at once or when everything that holds it has let go.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use objects::kind::Kind;
use objects::names::EXPLICIT_GRACE;
use objects::status::Failure;
use serde_json::{Value, json};

use super::answer::{self, Form, Included};
use super::list::Selection;
use super::{Answer, ApiServer, Asked, Place, objects_in, refusals, write};
use crate::store::{Object, WriteError};

/// Kubernetes' grace period for pods that name none.
const GRACE_PERIOD_SECONDS_DEFAULT: i64 = 30;

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
struct Options {
    grace_period_seconds: Option<i64>,
    propagation: Propagation,
    uid: Option<String>,
    resource_version: Option<String>,
    is_dry_run: bool,
}

/// What becomes of the objects that it owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

/// What a deletion did.
enum Outcome {
    /// The object is gone; its last state.
    Removed(Value),
    /// The object waits for its finalizers, or for its processes to end.
    Marked(Value),
}

impl ApiServer {
    pub(super) async fn delete(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        let options = Options::read(asked)?;
        let (value, gone) = match self.delete_one(place, &options).await? {
            Outcome::Removed(value) => (value, true),
            Outcome::Marked(value) => (value, false),
        };
        let shown = match gone && !place.kind.answers_with_deleted {
            true => success(place.kind, &value),
            false => answer::object(place.kind, &value, form, Included::wanted(asked)?),
        };
        Ok(answer::json(StatusCode::OK, &shown, &[]))
    }

    /// Deletes with these DeleteOptions.
    pub(super) async fn delete_as(&self, place: &Place, options: &Value) -> Result<(), Failure> {
        let place = Place { subresource: None, ..place.clone() };
        self.delete_one(&place, &Options::of(options, None, None)?).await.map(drop)
    }

    pub(super) async fn delete_collection(&self, place: &Place, asked: &Asked) -> Answer {
        let options = Options::read(asked)?;
        let selection = Selection::read(place.kind, asked)?;
        let listing = self.store.list(&place.resource(), place.namespace.as_deref());
        let mut items = Vec::new();
        for object in listing.objects.iter().filter(|object| selection.holds(place.kind, &object.value)) {
            let one = Place { name: object.value["metadata"]["name"].as_str().map(str::to_owned), ..place.clone() };
            match self.delete_one(&one, &options).await {
                Ok(Outcome::Removed(value) | Outcome::Marked(value)) => items.push(value),
                Err(failure) if failure.code == StatusCode::NOT_FOUND.as_u16() => {}
                Err(failure) => return Err(failure),
            }
        }
        let list = json!({"kind": format!("{}List", place.kind.kind), "apiVersion": place.kind.api_version(),
            "metadata": {"resourceVersion": self.store.revision().to_string()}, "items": items});
        Ok(answer::json(StatusCode::OK, &list, &[]))
    }

    async fn delete_one(&self, place: &Place, options: &Options) -> Result<Outcome, Failure> {
        loop {
            let old = self.find(place)?;
            options.check(place, &old)?;
            let marked = marked(place.kind, &old.value, options);
            let outcome = match marked {
                None if options.is_dry_run => return Ok(Outcome::Removed(old.value.clone())),
                Some(value) if options.is_dry_run => return Ok(Outcome::Marked(value)),
                Some(value) if value == old.value => return Ok(Outcome::Marked(value)),
                None => self.remove(place, &old).await.map(Outcome::Removed),
                Some(value) => self.mark(place, &old, value).await.map(Outcome::Marked),
            };
            match outcome {
                // Somebody changed the object meanwhile: what it is now decides.
                Err(WriteError::Changed(_)) => {}
                Err(error) => return Err(write::failed(&error)),
                Ok(outcome) => return Ok(outcome),
            }
        }
    }

    async fn remove(&self, place: &Place, old: &Object) -> Result<Value, WriteError> {
        let name = (place.namespace().to_owned(), place.name().to_owned());
        let removed = self.store.remove(&place.resource(), name, old.revision).await?;
        self.release_addresses(place.kind, &removed.value);
        let mut value = removed.value.clone();
        if place.kind.kind == "Pod" {
            value["metadata"]["deletionGracePeriodSeconds"] = Value::from(0);
        }
        Ok(value)
    }

    async fn mark(&self, place: &Place, old: &Object, value: Value) -> Result<Value, WriteError> {
        let name = (place.namespace().to_owned(), place.name().to_owned());
        let written =
            self.store.write(&place.resource(), name, crate::store::Expected::Revision(old.revision), value).await?;
        Ok(written.value.clone())
    }
}

impl Options {
    /// Reads the options from the body, else from the query.
    fn read(asked: &Asked) -> Result<Self, Failure> {
        write::check_dry_run(asked, "DeleteOptions")?;
        let body = match asked.body.is_empty() {
            true => Value::Null,
            false => objects_in::parse(asked)?.value,
        };
        let from_query = asked.query.number("gracePeriodSeconds").map_err(Failure::bad_request)?;
        let options = Self::of(&body, from_query, asked.query.get("propagationPolicy"))?;
        Ok(Self { is_dry_run: options.is_dry_run || write::is_dry_run(asked), ..options })
    }

    /// What the body says, or else what the query did.
    fn of(body: &Value, grace: Option<i64>, propagation: Option<&str>) -> Result<Self, Failure> {
        let word = body["propagationPolicy"].as_str().or(propagation);
        let orphans = body["orphanDependents"].as_bool();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = body["gracePeriodSeconds"].as_i64().or(grace);
        let options = Self {
            // Kubernetes takes a negative period to be one second.
            grace_period_seconds: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation: Propagation::of(word, orphans)?,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            is_dry_run: is_dry_run(&body["dryRun"])?,
        };
        Ok(options)
    }

    fn check(&self, place: &Place, old: &Object) -> Result<(), Failure> {
        let found = &old.value["metadata"]["uid"];
        if let Some(uid) = &self.uid
            && found != uid
        {
            let found = found.as_str().unwrap_or_default();
            return Err(refusals::deletion_precondition(
                place,
                &format!(
                    "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
                ),
            ));
        }
        if let Some(version) = &self.resource_version
            && *version != old.revision.to_string()
        {
            let found = old.revision;
            return Err(refusals::deletion_precondition(
                place,
                &format!(
                    "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). The object might have been modified"
                ),
            ));
        }
        Ok(())
    }
}

/// A client may say it in the body, as kubectl does.
fn is_dry_run(stages: &Value) -> Result<bool, Failure> {
    let listed = stages.as_array().map(Vec::as_slice).or(stages.is_null().then_some(&[]));
    let stages = listed.ok_or_else(|| Failure::bad_request("dryRun: must be a list"))?;
    match stages.iter().find(|stage| *stage != "All") {
        None => Ok(!stages.is_empty()),
        Some(other) => {
            let cause = refusals::unsupported_option("dryRun", &format!("[{other}]"), "\"All\"");
            Err(refusals::option("DeleteOptions", cause))
        }
    }
}

impl Propagation {
    fn of(word: Option<&str>, orphans: Option<bool>) -> Result<Self, Failure> {
        match (word, orphans) {
            (Some(word), Some(_)) => {
                let sentence = "orphanDependents and deletionPropagation cannot be both set";
                let cause = refusals::invalid_option("propagationPolicy", &format!("{word:?}"), sentence);
                Err(refusals::option("DeleteOptions", cause))
            }
            (None | Some("Background"), None | Some(false)) => Ok(Self::Background),
            (Some("Orphan"), None) | (None, Some(true)) => Ok(Self::Orphan),
            (Some("Foreground"), None) => Ok(Self::Foreground),
            (Some(other), None) => {
                let supported = "\"Foreground\", \"Background\", \"Orphan\", \"nil\"";
                let cause = refusals::unsupported_option("propagationPolicy", &format!("{other:?}"), supported);
                Err(refusals::option("DeleteOptions", cause))
            }
        }
    }

    fn finalizer(self) -> Option<&'static str> {
        match self {
            Self::Background => None,
            Self::Foreground => Some("foregroundDeletion"),
            Self::Orphan => Some("orphan"),
        }
    }
}

/// The object as it waits for its end, or `None` if it may go at once.
fn marked(kind: &Kind, old: &Value, options: &Options) -> Option<Value> {
    let mut value = old.clone();
    if let Some(finalizer) = options.propagation.finalizer() {
        add_finalizer(&mut value, finalizer);
    }
    let grace_seconds = grace_seconds(kind, old, options);
    let held = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let holds = held(&value["metadata"]["finalizers"]) || held(&value["spec"]["finalizers"]);
    if !holds && grace_seconds == 0 {
        return None;
    }
    let already = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if already.is_none_or(|already| grace_seconds < already) {
        let seconds = SignedDuration::from_secs(grace_seconds);
        let now = Timestamp::now();
        let end = now.checked_add(seconds).unwrap_or(now);
        value["metadata"]["deletionTimestamp"] = Value::String(write::timestamp(end));
        value["metadata"]["deletionGracePeriodSeconds"] = Value::from(grace_seconds);
        if already.is_none()
            && let Some(generation) = value["metadata"]["generation"].as_i64()
        {
            value["metadata"]["generation"] = Value::from(generation + 1);
        }
        if let Some(explicit) = options.grace_period_seconds.filter(|_| kind.kind == "Pod") {
            value["metadata"]["annotations"][EXPLICIT_GRACE] = Value::String(explicit.to_string());
        }
    }
    if kind.kind == "Namespace" {
        value["status"]["phase"] = Value::String("Terminating".to_owned());
    }
    Some(value)
}

/// How long an object may take to end: pods that run somewhere have their grace period, all else goes at once.
fn grace_seconds(kind: &Kind, old: &Value, options: &Options) -> i64 {
    let runs = kind.kind == "Pod"
        && old["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
        && !matches!(old["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    match runs {
        false => 0,
        true => options
            .grace_period_seconds
            .or_else(|| old["metadata"]["deletionGracePeriodSeconds"].as_i64())
            .or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(GRACE_PERIOD_SECONDS_DEFAULT),
    }
}

fn add_finalizer(value: &mut Value, finalizer: &str) {
    let finalizers = &mut value["metadata"]["finalizers"];
    if !finalizers.is_array() {
        *finalizers = Value::Array(Vec::new());
    }
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|found| found == finalizer)
    {
        list.push(Value::String(finalizer.to_owned()));
    }
}

fn success(kind: &Kind, value: &Value) -> Value {
    let mut details = json!({"name": value["metadata"]["name"], "kind": kind.plural, "uid": value["metadata"]["uid"]});
    if !kind.group.is_empty() {
        details["group"] = Value::from(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
