//! Answers: bodies, and the form in which a client wants objects (as they are, metadata only, or as a table).

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use objects::kind::Kind;
use objects::status::Failure;
use serde_json::{Value, json};

use super::{Asked, refusals};

/// An answer's body: bytes at hand, or a stream that goes on.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// How a client wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// `PartialObjectMetadata`
    Metadata,
    /// `PartialObjectMetadataList`
    MetadataList,
    /// `Table`
    Table,
}

/// What a table's rows carry of their objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Included {
    Nothing,
    Metadata,
    Object,
}

impl Form {
    /// The first form in the Accept header that is served here.
    pub(super) fn wanted(asked: &Asked) -> Result<Self, Failure> {
        let Some(accept) = asked.headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
            return Ok(Self::Whole);
        };
        accept.split(',').find_map(Self::of_media_type).ok_or_else(refusals::not_acceptable)
    }

    fn of_media_type(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?;
        if !matches!(media_type, "application/json" | "*/*" | "application/*") {
            return None;
        }
        match parts.find_map(|parameter| parameter.strip_prefix("as=")) {
            None => Some(Self::Whole),
            Some("Table") => Some(Self::Table),
            Some("PartialObjectMetadata") => Some(Self::Metadata),
            Some("PartialObjectMetadataList") => Some(Self::MetadataList),
            Some(_) => None,
        }
    }
}

impl Included {
    pub(super) fn wanted(asked: &Asked) -> Result<Self, Failure> {
        match asked.query.get("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::Nothing),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Failure::bad_request(format!(
                "includeObject: {other:?} is not supported: use None, Metadata or Object"
            ))),
        }
    }
}

/// One object in the form that was asked for.
pub(super) fn object(kind: &Kind, value: &Value, form: Form, included: Included) -> Value {
    match form {
        Form::Whole => value.clone(),
        Form::Metadata | Form::MetadataList => metadata_of(value),
        Form::Table => {
            let meta = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            table(kind, [value], &meta, included)
        }
    }
}

/// A `Table` of objects with the list's metadata.
pub(super) fn table<'a>(
    kind: &Kind,
    values: impl IntoIterator<Item = &'a Value>,
    meta: &Value,
    included: Included,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = values
        .into_iter()
        .map(|value| {
            let mut row = json!({"cells": (kind.row)(value, now)});
            match included {
                Included::Nothing => row["object"] = Value::Null,
                Included::Metadata => row["object"] = metadata_of(value),
                Included::Object => row["object"] = value.clone(),
            }
            row
        })
        .collect();
    let columns: Vec<Value> = kind
        .columns
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.kind, "format": column.format,
                   "description": column.description, "priority": column.priority})
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows})
}

/// An object's `PartialObjectMetadata`.
pub(super) fn metadata_of(value: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
}

/// A JSON answer with `Warning` headers.
pub(super) fn json(code: StatusCode, value: &Value, warnings: &[String]) -> Response<Body> {
    let mut answer = json_bytes(Bytes::from(value.to_string()));
    *answer.status_mut() = code;
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(WARNING, value);
        }
    }
    answer
}

/// A 200 with JSON text that is at hand.
pub(super) fn json_bytes(text: Bytes) -> Response<Body> {
    with_type(full(text), "application/json")
}

/// A 200 with plain text.
pub(super) fn text(text: &'static str) -> Response<Body> {
    with_type(full(Bytes::from_static(text.as_bytes())), "text/plain; charset=utf-8")
}

/// What the engine says of itself.
pub(super) fn metrics(text: String) -> Response<Body> {
    with_type(full(Bytes::from(text)), "application/openmetrics-text; version=1.0.0; charset=utf-8")
}

/// A 404 for a path that has nothing to do with the API.
pub(super) fn page_not_found() -> Response<Body> {
    let mut answer = text("404 page not found\n");
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

/// A 200 that goes on until the stream ends.
pub(super) fn stream<S>(stream: S, media_type: &'static str) -> Response<Body>
where
    S: futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    use futures::StreamExt;
    with_type(StreamBody::new(stream.map(|part| part.map(Frame::data))).boxed_unsync(), media_type)
}

/// A failure as the `Status` that it is.
pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(code, &failure.to_value(), &[]);
    if let Some(details) = failure.details.as_ref().filter(|details| details.retry_after_seconds > 0) {
        answer.headers_mut().insert(RETRY_AFTER, details.retry_after_seconds.into());
    }
    answer
}

pub(super) fn full(text: Bytes) -> Body {
    Full::new(text).map_err(|never| match never {}).boxed_unsync()
}

fn with_type(body: Body, media_type: &'static str) -> Response<Body> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}
