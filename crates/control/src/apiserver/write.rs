//! What every change of an object has in common: read, change, check, write if nothing else changed it meanwhile.

use std::sync::Arc;

use jiff::Timestamp;
use objects::kind::Kind;
use objects::metadata;
use objects::status::Failure;
use serde_json::Value;

use super::{ApiServer, Asked, Place, refusals};
use crate::store::{Expected, Object, WriteError};

/// Times a change is tried again when others keep changing the object; the caller named no resourceVersion then.
const ATTEMPTS: usize = 16;

impl ApiServer {
    /// The object that a path names.
    pub(super) fn find(&self, place: &Place) -> Result<Arc<Object>, Failure> {
        self.store.get(&place.resource(), place.namespace(), place.name()).ok_or_else(|| refusals::not_found(place))
    }

    /// Changes an object by a function that may be called again on a newer state, and writes it.
    /// The function is given the stored object and leaves what is to be stored. Where a client named the version that
    /// it wants to change, the function calls [`check_revision`], so that a later look refuses it.
    pub(super) async fn change<F>(&self, place: &Place, asked: &Asked, change: F) -> Result<Value, Failure>
    where
        F: Fn(&mut Value) -> Result<(), Failure>,
    {
        for _ in 0..ATTEMPTS {
            let old = self.find(place)?;
            let mut new = old.value.clone();
            change(&mut new)?;
            self.check_grant(&asked.caller, place, &new, Some(&old.value))?;
            match self.write_changed(place, asked, &old, new).await {
                Ok(written) => return Ok(written),
                Err(WriteError::Changed(_)) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(refusals::modified(place))
    }

    /// Writes a changed object, or removes it when the change took away the last thing that held it.
    async fn write_changed(
        &self,
        place: &Place,
        asked: &Asked,
        old: &Object,
        mut new: Value,
    ) -> Result<Value, WriteError> {
        new["metadata"]["resourceVersion"] = old.value["metadata"]["resourceVersion"].clone();
        if new == old.value || is_dry_run(asked) {
            self.release_unused_node_ports(place.kind, &old.value);
            return Ok(new);
        }
        let name = (place.namespace().to_owned(), place.name().to_owned());
        if is_finished(&new) {
            let removed = self.store.remove(&place.resource(), name, old.revision).await?;
            self.release_addresses(place.kind, &removed.value);
            return Ok(new);
        }
        let written = self.store.write(&place.resource(), name, Expected::Revision(old.revision), new).await?;
        self.release_unused_node_ports(place.kind, &written.value);
        Ok(written.value.clone())
    }

    /// Checks a whole object that replaces another through the main path, and counts its generation.
    pub(super) fn check_replacement(&self, kind: &Kind, new: &mut Value, old: &Value) -> Result<(), Failure> {
        metadata::keep_identity(new, old);
        (kind.default)(new);
        (kind.prepare_update)(new, old);
        self.allocate_addresses(kind, new, Some(old))?;
        count_generation(kind, new, old);
        let mut causes = (kind.validate)(new);
        causes.extend((kind.validate_update)(new, old));
        match causes.is_empty() {
            true => Ok(()),
            false => {
                self.release_unused_node_ports(kind, old);
                Err(Failure::invalid_object(kind, new["metadata"]["name"].as_str().unwrap_or_default(), causes))
            }
        }
    }
}

/// Refuses a change of another object than the one that a client means by the `uid` it sent.
pub(super) fn check_uid(place: &Place, sent: &Value, stored: &Value) -> Result<(), Failure> {
    match differing(sent, stored, "uid") {
        None => Ok(()),
        Some((wanted, found)) => Err(refusals::uid_differs(place, wanted, found)),
    }
}

/// Refuses a change of another state than the one that a client means by the `resourceVersion` it sent.
pub(super) fn check_revision(place: &Place, sent: &Value, stored: &Value) -> Result<(), Failure> {
    match differing(sent, stored, "resourceVersion") {
        None | Some(("0", _)) => Ok(()),
        Some(_) => Err(refusals::modified(place)),
    }
}

/// What was sent and what is stored, where a field of the metadata was sent and is not the same.
fn differing<'a>(sent: &'a Value, stored: &'a Value, field: &str) -> Option<(&'a str, &'a str)> {
    let wanted = sent["metadata"][field].as_str().filter(|text| !text.is_empty())?;
    let found = stored["metadata"][field].as_str().unwrap_or_default();
    (wanted != found).then_some((wanted, found))
}

/// A failure of the store as a client sees it.
pub(super) fn failed(error: &WriteError) -> Failure {
    match error {
        WriteError::Changed(_) | WriteError::Closed => Failure::internal(error),
        WriteError::TooDeep => Failure::bad_request(error.to_string()),
        WriteError::Disk(source) => {
            Failure::internal(format!("{error}: {source}; free some space on the data directory's disk"))
        }
    }
}

/// Whether nothing but its own deletion is left to do with an object.
fn is_finished(value: &Value) -> bool {
    let metadata = &value["metadata"];
    let held = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    metadata["deletionTimestamp"].is_string()
        && !held(&metadata["finalizers"])
        && !held(&value["spec"]["finalizers"])
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// One generation more when anything but metadata and status changed.
fn count_generation(kind: &Kind, new: &mut Value, old: &Value) {
    let Some(generation) = old["metadata"]["generation"].as_i64().filter(|_| kind.counts_generations) else { return };
    let desired = |value: &Value| {
        let mut fields = value.as_object().cloned().unwrap_or_default();
        for field in ["metadata", "status"] {
            fields.remove(field);
        }
        fields
    };
    if desired(new) != desired(old) {
        new["metadata"]["generation"] = Value::from(generation + 1);
    }
}

/// Puts a condition into `status.conditions` in place of the one of its type.
pub(super) fn set_condition(object: &mut Value, condition: Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = Value::Array(Vec::new());
    }
    if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
        conditions.retain(|found| found["type"] != condition["type"]);
        conditions.push(condition);
    }
}

pub(super) fn is_dry_run(asked: &Asked) -> bool {
    asked.query.get("dryRun").is_some()
}

/// Refuses a `dryRun` that is neither absent nor `All`; `subject` is the type of the request's options.
pub(super) fn check_dry_run(asked: &Asked, subject: &str) -> Result<(), Failure> {
    match asked.query.get("dryRun") {
        None | Some("All") => Ok(()),
        Some(other) => {
            Err(refusals::option(subject, refusals::unsupported_option("dryRun", &format!("[\"{other}\"]"), "\"All\"")))
        }
    }
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub(super) fn timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
