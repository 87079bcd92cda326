//! Reads request bodies in Kubernetes' protobuf form into the JSON that says the same. Which field has which number is
//! data, what a field looks like comes from the schema. Knows nothing of defaults and of what is allowed.

use serde_json::{Map, Value};

use crate::body::Parsed;
use crate::schema;

mod fields;
mod message;
mod value;
mod wire;

use message::Decoder;
use value::Spot;

/// What such a body starts with; an `Unknown` message follows, which names the kind and holds the object's message.
const PREFIX: &[u8] = b"k8s\0";

/// Far more levels than any kind has.
const LEVELS_MAX: usize = 100;

/// A body in protobuf form that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body is not Kubernetes protobuf: it does not start with \"k8s\" and a zero byte")]
    NoPrefix,
    #[error("the body is not protobuf: it ends in the middle of a value")]
    CutShort,
    #[error("the body is not protobuf: a number in it has more than 64 bits")]
    LongNumber,
    #[error("the body is not protobuf: there is no field number {0}")]
    FieldNumber(u64),
    #[error("the body is not protobuf: there is no wire type {0}, or Kubernetes does not use it")]
    WireType(u64),
    #[error("the object in the body is encoded as {0:?}: send it as it is")]
    ContentEncoding(String),
    #[error("no kind \"{kind}\" in version \"{api_version}\" is known that is sent as protobuf: send it as JSON")]
    UnknownKind { api_version: String, kind: String },
    #[error("{field} is not encoded as a value of its type")]
    WrongEncoding { field: String },
    #[error("{field} is not UTF-8 text")]
    NotText { field: String },
    #[error("{field} is no time of the years up to 9999")]
    NoTime { field: String },
    #[error("{field} holds something that is not JSON")]
    NotJson { field: String },
    #[error("the body is nested more than {0} levels deep")]
    TooDeep(usize),
}

/// Reads a body of the media type `application/vnd.kubernetes.protobuf`.
///
/// Fields of unknown numbers are skipped, as the real server skips them: a newer client sends the fields that it has
/// more even when they are empty, so that they say nothing about what the user wants.
///
/// # Errors
/// When it is no such body, names a kind that has no known message, or a value doesn't fit its field's type.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProtobufError> {
    let unknown = bytes.strip_prefix(PREFIX).ok_or(ProtobufError::NoPrefix)?;
    let of_unknown = |field| Spot { type_name: "Unknown", field };
    let of_type_meta = |field| Spot { type_name: "TypeMeta", field };
    let [type_meta, raw, encoding] = value::parts(unknown)?;
    let [api_version, kind] = value::parts(of_unknown("typeMeta").bytes(type_meta)?)?;
    let api_version = of_type_meta("apiVersion").text(api_version)?;
    let kind = of_type_meta("kind").text(kind)?;
    let raw = of_unknown("raw").bytes(raw)?;
    let encoding = of_unknown("contentEncoding").text(encoding)?;
    if !encoding.is_empty() {
        return Err(ProtobufError::ContentEncoding(encoding.to_owned()));
    }
    Ok(Parsed { value: read_object(api_version, kind, raw)?, duplicates: Vec::new() })
}

fn read_object(api_version: &str, kind: &str, message: &[u8]) -> Result<Value, ProtobufError> {
    let type_name = type_name(api_version, kind);
    let (Some(shapes), Some(numbers)) = (schema::of(&type_name), fields::of(&type_name)) else {
        return Err(ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    Decoder::with_levels(LEVELS_MAX).read_message(shapes, numbers, message, &mut object)?;
    Ok(Value::Object(object))
}

/// The full name of a kind's type: packages are named after the first word of their group.
fn type_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        // Clients name the group of what they delete; the type is one for all groups.
        return "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or(group);
    format!("io.k8s.api.{package}.{version}.{kind}")
}

#[cfg(test)]
mod tests;
