//! Answers of the API that say no: a `Status` with reason, message and details, in the real server's words.

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::validation::Cause;

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The HTTP status.
    pub code: u16,
    /// `NotFound`, `Conflict`, …; empty where the real server gives none.
    pub reason: &'static str,
    /// A sentence for the user.
    pub message: String,
    /// What it is about; none where the real server says nothing of it, not even that it is empty.
    pub details: Option<Box<Details>>,
}

/// What a failure is about; empty parts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// A resource such as `deployments`, or a kind when an object was invalid.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

impl Details {
    /// Names an object of a resource, e.g. `deployments` of `apps`.
    #[must_use]
    pub fn of(group: &str, resource: &str, name: &str) -> Self {
        Self { name: name.to_owned(), group: group.to_owned(), kind: resource.to_owned(), ..Self::default() }
    }

    /// `deployments.apps`, as messages have it.
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

impl Failure {
    /// 404: there is no such object.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let details = Details::of(group, resource, name);
        Self::about(404, "NotFound", format!("{} \"{name}\" not found", details.qualified()), details)
    }

    /// 404: nothing is served under this path.
    #[must_use]
    pub fn no_such_resource() -> Self {
        Self::about_nothing(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: an object of this name exists.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let details = Details::of(group, resource, name);
        Self::about(409, "AlreadyExists", format!("{} \"{name}\" already exists", details.qualified()), details)
    }

    /// 409: the object is not as the request takes it to be.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let details = Details::of(group, resource, name);
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", details.qualified());
        Self::about(409, "Conflict", message, details)
    }

    /// 409: somebody changed the object since it was read.
    #[must_use]
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422: the object has mistakes; all of them are listed.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let details = Details { causes, ..Details::of(group, kind, name) };
        let message = format!("{} \"{name}\" is invalid: {}", details.qualified(), listed(&details.causes));
        Self::about(422, "Invalid", message, details)
    }

    /// [`Failure::invalid`] for an object of a served kind.
    #[must_use]
    pub fn invalid_object(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid(kind.group, kind.kind, name, causes)
    }

    /// 422 for a JSON patch that can't be carried out.
    #[must_use]
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::about_nothing(422, "Invalid", message)
    }

    /// 400: the request can't be read.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: the client did not say who it is.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the client, or the state of things, does not allow it.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let details = Details::of(group, resource, name);
        let subject = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!("{}{subject} is forbidden: {why}", details.qualified());
        Self::about(403, "Forbidden", message, details)
    }

    /// 405: the resource does not know this verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::about_nothing(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: none of the accepted forms can be served.
    #[must_use]
    pub fn not_acceptable(served: &str) -> Self {
        let message = format!("only the following media types are accepted: {served}");
        Self::new(406, "NotAcceptable", message)
    }

    /// 429: something has been used up, for this cause.
    #[must_use]
    pub fn used_up(message: impl Into<String>, cause: Cause) -> Self {
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::about(429, "TooManyRequests", message.into(), details)
    }

    /// 413: the body is larger than allowed.
    #[must_use]
    pub fn request_entity_too_large(limit_bytes: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("limit is {limit_bytes}"))
    }

    /// 415: the body is in a form that is not known.
    #[must_use]
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 415 for a patch in a form that is not known.
    #[must_use]
    pub fn unsupported_patch_type(accepted: &str) -> Self {
        Self { details: Some(Box::default()), ..Self::unsupported_media_type(accepted) }
    }

    /// Adds a cause.
    #[must_use]
    pub fn because(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Says that it is about something below the object, e.g. `pods/binding`.
    #[must_use]
    pub fn at_subresource(mut self, path: &str) -> Self {
        if let Some(details) = &mut self.details {
            details.kind = format!("{}/{path}", details.kind);
        }
        self
    }

    /// 410 Expired: what was asked to continue from is no longer kept.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 429: try again later.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::about(429, "TooManyRequests", message.into(), details)
    }

    /// 500: something in the server went wrong.
    #[must_use]
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self::new(500, "InternalError", message)
    }

    /// 503: not now.
    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long.
    #[must_use]
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::about(504, "Timeout", message.into(), details)
    }

    /// The `Status` object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = Value::Object(details.to_fields());
        }
        status["code"] = json!(self.code);
        status
    }

    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about_nothing(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self::about(code, reason, message.into(), Details::default())
    }

    fn about(code: u16, reason: &'static str, message: String, details: Details) -> Self {
        Self { code, reason, message, details: Some(Box::new(details)) }
    }
}

impl Details {
    fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            fields.insert(key.to_owned(), json!(text));
        }
        if !self.causes.is_empty() {
            let causes: Vec<_> = self.causes.iter().map(cause_value).collect();
            fields.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            fields.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        fields
    }
}

/// The `Status` that a deletion answers when nothing of the object is left.
#[must_use]
pub fn success(details: &Details) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": Value::Object(details.to_fields()),
    })
}

fn cause_value(cause: &Cause) -> Value {
    let mut value = json!({"reason": cause.reason, "message": cause.message});
    if !cause.field.is_empty() {
        value["field"] = json!(cause.field);
    }
    value
}

/// One mistake stands alone, several in brackets; one that is found twice is listed once.
fn listed(causes: &[Cause]) -> String {
    let mut sentences: Vec<String> = Vec::new();
    for cause in causes {
        let sentence = format!("{}: {}", cause.field, cause.message);
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    match sentences.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(field: &str) -> Cause {
        Cause { reason: "FieldValueRequired", field: field.into(), message: "Required value".into() }
    }

    #[test]
    fn messages_are_the_real_servers() {
        let table = [
            (Failure::not_found("", "configmaps", "none"), "configmaps \"none\" not found"),
            (Failure::not_found("apps", "deployments", "web"), "deployments.apps \"web\" not found"),
            (Failure::already_exists("", "configmaps", "a"), "configmaps \"a\" already exists"),
            (
                Failure::modified("", "configmaps", "a"),
                "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
                 changes to the latest version and try again",
            ),
            (
                Failure::invalid("apps", "Deployment", "web", vec![required("a")]),
                "Deployment.apps \"web\" is invalid: a: Required value",
            ),
            (
                Failure::invalid("", "Pod", "p", vec![required("a"), required("b"), required("a")]),
                "Pod \"p\" is invalid: [a: Required value, b: Required value]",
            ),
        ];
        for (failure, message) in table {
            assert_eq!(failure.to_string(), message);
        }
    }

    #[test]
    fn value_has_what_is_known_and_nothing_else() {
        let failure = Failure::invalid("", "Pod", "p", vec![required("spec.containers")]);
        assert_eq!(
            failure.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422,
                "message": "Pod \"p\" is invalid: spec.containers: Required value",
                "details": {"name": "p", "kind": "Pod", "causes": [
                    {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"},
                ]},
            })
        );
        assert_eq!(Failure::unauthorized().to_value().get("details"), None);
    }
}
