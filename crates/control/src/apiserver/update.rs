//! PUT: an object is replaced, or its status.

use http::StatusCode;
use objects::kind::Subresource;
use objects::status::Failure;
use serde_json::Value;

use super::answer::{self, Form, Included};
use super::{Answer, ApiServer, Asked, Place, objects_in, write};

impl ApiServer {
    pub(super) async fn update(&self, place: &Place, asked: &Asked) -> Answer {
        let form = Form::wanted(asked)?;
        write::check_dry_run(asked, "UpdateOptions")?;
        let incoming = objects_in::read(asked, place)?;
        let mut warnings = incoming.warnings;
        let written = self
            .change(place, asked, |stored| {
                let sent = incoming.value.clone();
                write::check_uid(place, &sent, stored)?;
                write::check_revision(place, &sent, stored)?;
                self.replace(place, stored, sent)
            })
            .await?;
        if place.subresource.is_none() {
            warnings.extend((place.kind.warnings)(&written));
        }
        let shown = answer::object(place.kind, &written, form, Included::wanted(asked)?);
        Ok(answer::json(StatusCode::OK, &shown, &warnings))
    }

    /// Replaces the part of a stored object that a path stands for by what was sent.
    pub(super) fn replace(&self, place: &Place, stored: &mut Value, sent: Value) -> Result<(), Failure> {
        match place.subresource {
            None => {
                let old = std::mem::replace(stored, sent);
                self.check_replacement(place.kind, stored, &old)
            }
            Some(Subresource::Status) => {
                replace_field(stored, sent, "status");
                (place.kind.default)(stored);
                Ok(())
            }
            Some(Subresource::Finalize) => {
                replace_field(stored, sent, "spec");
                Ok(())
            }
            Some(
                other @ (Subresource::Scale
                | Subresource::Log
                | Subresource::Exec
                | Subresource::PortForward
                | Subresource::Binding
                | Subresource::Eviction
                | Subresource::Token),
            ) => Err(Failure::internal(format!("{} is not replaced through the object", other.path()))),
        }
    }
}

/// Replaces one field of the stored object, and nothing else.
fn replace_field(stored: &mut Value, mut sent: Value, field: &str) {
    let given = sent[field].take();
    if !given.is_null() {
        stored[field] = given;
    } else if let Some(fields) = stored.as_object_mut() {
        fields.shift_remove(field);
    }
}
