//! Reads request bodies, JSON and YAML, into one value. Knows nothing of kinds and types.

use serde_json::Value;

mod json;
mod yaml;

/// A body that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub value: Value,
    /// A sentence for each key that was given more than once, e.g. `duplicate field "metadata.name"`; the last one
    /// given counts.
    pub duplicates: Vec<String>,
}

/// A body that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is not JSON: {0}")]
    Json(String),
    #[error("the body is not YAML: {0}")]
    Yaml(String),
    #[error("the body is not UTF-8 text")]
    Encoding,
    #[error("the body holds more than one YAML document; send them one by one")]
    SeveralDocuments,
    #[error("the body is nested more than {0} levels deep")]
    TooDeep(usize),
    #[error("the body, with its YAML aliases written out, is larger than {0} values or bytes")]
    TooLarge(usize),
}

/// Reads a JSON body.
///
/// # Errors
/// When it is not one JSON value, or is nested more than 127 levels deep.
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, BodyError> {
    json::parse(bytes)
}

/// Reads a body of one YAML 1.1 document, as the real server reads it: `y`, `no` and `on` are booleans, `0777` is octal.
/// An empty body is null.
///
/// # Errors
/// When it is not one YAML document, or is too deep or too large once its aliases are written out.
pub fn parse_yaml(bytes: &[u8]) -> Result<Parsed, BodyError> {
    yaml::parse(std::str::from_utf8(bytes).map_err(|_| BodyError::Encoding)?)
}
