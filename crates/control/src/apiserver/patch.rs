//! PATCH: an object is changed by a description of the change.

use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use objects::patch;
use objects::status::Failure;
use serde_json::Value;

use super::answer::{self, Form, Included};
use super::objects_in::{self, FieldValidation};
use super::{Answer, ApiServer, Asked, Place, refusals, write};

/// The media types of patches that are read.
const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// A description of a change, by its media type.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl ApiServer {
    pub(super) async fn patch(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        write::check_dry_run(asked, "PatchOptions")?;
        let validation = FieldValidation::wanted(asked)?;
        let (patch, duplicates) = Patch::read(asked)?;
        let warned = Mutex::new(Vec::new());
        let written = self
            .change(place, asked, |stored| {
                let mut patched = patch.apply(place, stored)?;
                let mut mistakes = duplicates.clone();
                mistakes.extend(objects_in::decode(place.kind, &mut patched)?);
                objects_in::check_path(&patched, place)?;
                write::check_revision(place, &patched, stored)?;
                *warned.lock().unwrap_or_else(PoisonError::into_inner) =
                    validation.judge(mistakes).map_err(|sentence| refusals::invalid_patch(&sentence))?;
                self.replace(place, stored, patched)
            })
            .await?;
        let mut warnings = warned.into_inner().unwrap_or_else(PoisonError::into_inner);
        if place.subresource.is_none() {
            warnings.extend((place.kind.warnings)(&written));
        }
        let shown = answer::object(place.kind, &written, form, Included::wanted(asked)?);
        Ok(answer::json(StatusCode::OK, &shown, &warnings))
    }
}

impl Patch {
    /// Reads a patch, with the fields that stand in it twice.
    pub(super) fn read(asked: &Asked) -> Result<(Self, Vec<String>), Failure> {
        let make = match objects_in::media_type(asked).as_str() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            other => {
                return Err(Failure::unsupported_patch_type(&format!("{ACCEPTED}, not {other}")));
            }
        };
        let parsed = objects::body::parse_json(&asked.body).map_err(|error| Failure::bad_request(error.to_string()))?;
        Ok((make(parsed.value), parsed.duplicates))
    }

    /// The object after the change.
    pub(super) fn apply(&self, place: &Place, current: &Value) -> Result<Value, Failure> {
        let patched = match self {
            Self::Json(operations) => patch::json_patch(current, operations),
            Self::Merge(changes) => Ok(patch::merge(current, changes)),
            Self::Strategic(changes) => patch::strategic(place.kind.type_name, current, changes),
        };
        patched.map_err(|error| error.to_failure())
    }
}
