//! Objects as they come in: read from JSON, YAML or protobuf, checked against their type, made to agree with their
//! path.

use http::header::CONTENT_TYPE;
use objects::kind::Kind;
use objects::status::Failure;
use objects::{body, protobuf, schema};
use serde_json::Value;

use super::{Asked, Place};

/// The media types that a body may have.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What to do with fields that the type doesn't have, or that stand there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// A decoded object, and the warnings to give with the answer.
pub(super) struct Incoming {
    pub(super) value: Value,
    pub(super) warnings: Vec<String>,
}

impl FieldValidation {
    pub(super) fn wanted(asked: &Asked) -> Result<Self, Failure> {
        match asked.query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Failure::bad_request(format!(
                "fieldValidation: {other:?} is not supported: use Ignore, Warn or Strict"
            ))),
        }
    }

    /// Warnings for the mistakes found, or the sentence of a refusal that names every one.
    pub(super) fn judge(self, mistakes: Vec<String>) -> Result<Vec<String>, String> {
        match self {
            Self::Strict if !mistakes.is_empty() => Err(format!("strict decoding error: {}", mistakes.join(", "))),
            Self::Ignore | Self::Strict => Ok(Vec::new()),
            Self::Warn => Ok(mistakes),
        }
    }
}

/// The body as a value, with the fields that stand there twice.
pub(super) fn parse(asked: &Asked) -> Result<body::Parsed, Failure> {
    let parsed = match media_type(asked).as_str() {
        "" | "application/json" => body::parse_json(&asked.body).map_err(|error| error.to_string()),
        "application/yaml" => body::parse_yaml(&asked.body).map_err(|error| error.to_string()),
        "application/vnd.kubernetes.protobuf" => protobuf::parse(&asked.body).map_err(|error| error.to_string()),
        _ => return Err(Failure::unsupported_media_type(ACCEPTED)),
    };
    parsed.map_err(Failure::bad_request)
}

/// The media type of the body, without parameters; empty if none is named.
pub(super) fn media_type(asked: &Asked) -> String {
    let named = asked.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The object in the body, decoded as `kind` and put in the path's namespace.
pub(super) fn read(asked: &Asked, place: &Place) -> Result<Incoming, Failure> {
    let validation = FieldValidation::wanted(asked)?;
    let parsed = parse(asked)?;
    let mut value = parsed.value;
    let mut mistakes = parsed.duplicates;
    mistakes.extend(decode(place.kind, &mut value)?);
    let warnings = validation.judge(mistakes).map_err(Failure::bad_request)?;
    agree_with_path(&mut value, place)?;
    Ok(Incoming { value, warnings })
}

/// Makes a value an object of a kind: types checked, unknown fields dropped and named.
pub(super) fn decode(kind: &Kind, value: &mut Value) -> Result<Vec<String>, Failure> {
    agree_with_kind(value, kind)?;
    let unknown = schema::decode(kind, value).map_err(|error| Failure::bad_request(error.to_string()))?;
    if !value["metadata"].is_object() {
        value["metadata"] = Value::Object(serde_json::Map::new());
    }
    put_kind_first(value);
    Ok(unknown)
}

fn agree_with_kind(value: &mut Value, kind: &Kind) -> Result<(), Failure> {
    let Some(fields) = value.as_object_mut() else {
        return Err(Failure::bad_request(format!("the body is not an object: a {} was expected", kind.kind)));
    };
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(found)) if found.is_empty() || *found == expected => {}
            Some(found) => {
                let sentence = format!(
                    "{} in version \"{}\" cannot be handled as a {}: {field} is {found}, expected \"{expected}\"",
                    fields.get("kind").and_then(Value::as_str).unwrap_or(kind.kind),
                    fields.get("apiVersion").and_then(Value::as_str).unwrap_or_default(),
                    kind.kind,
                );
                return Err(Failure::bad_request(sentence));
            }
        }
        fields.insert(field.to_owned(), Value::String(expected));
    }
    Ok(())
}

/// The kind comes first and then its version, as in every answer of the API; lists count on it.
fn put_kind_first(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    for field in ["apiVersion", "kind"] {
        if let Some(text) = fields.shift_remove(field) {
            fields.shift_insert(0, field.to_owned(), text);
        }
    }
}

/// Puts the path's namespace and name where the object has none, and refuses others.
fn agree_with_path(value: &mut Value, place: &Place) -> Result<(), Failure> {
    for (field, from_path) in [("namespace", &place.namespace), ("name", &place.name)] {
        let given = &mut value["metadata"][field];
        if let Some(text) = from_path
            && given.as_str().is_none_or(str::is_empty)
        {
            *given = Value::String(text.clone());
        }
    }
    check_path(value, place)
}

/// Refuses an object whose namespace or name are not those of the path.
pub(super) fn check_path(value: &Value, place: &Place) -> Result<(), Failure> {
    let differs = |field: &str, from_path: &Option<String>| {
        from_path.as_ref().is_some_and(|wanted| value["metadata"][field] != **wanted)
    };
    if differs("namespace", &place.namespace) {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if differs("name", &place.name) {
        let (found, wanted) = (value["metadata"]["name"].as_str().unwrap_or_default(), place.name());
        let sentence = format!("the name of the object ({found}) does not match the name on the URL ({wanted})");
        return Err(Failure::bad_request(sentence));
    }
    Ok(())
}
