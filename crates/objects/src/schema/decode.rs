//! Checks that a body has the types its kind's fields have, and brings it into the form the real server stores:
//! unknown fields, nulls and empty optional values go; quantities, times and bytes get their canonical text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Shape, Type, of, omitted};
use crate::kind::Kind;
use crate::quantity;

/// A body whose values have the wrong types; the text is what a 400 BadRequest says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in version \"{version}\" cannot be handled as a {kind}: {message}")]
pub struct DecodeError {
    pub kind: String,
    pub version: String,
    /// Path of the field, e.g. `spec.template.spec.containers`; empty for the body as a whole.
    pub field: String,
    /// What is wrong, in the real server's words.
    pub message: String,
}

/// Checks and cleans a body of this kind in place and fills apiVersion and kind. The answer has one sentence for each
/// unknown field, e.g. `unknown field "spec.containers[0].foo"`; those fields are removed.
///
/// # Errors
/// When a value has another type than its field.
pub fn decode(kind: &Kind, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    let unknown = decode_as(kind.type_name, value).map_err(|fault| DecodeError {
        kind: kind.kind.to_owned(),
        version: kind.version.to_owned(),
        ..fault
    })?;
    name_kind(kind, value);
    Ok(unknown)
}

/// The same for a type that is no kind of ours, such as the body of a subresource, by its full name.
///
/// # Errors
/// When a value has another type than its field.
///
/// # Panics
/// When no served kind uses such a type.
pub fn decode_as(type_name: &str, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder { path: Vec::new(), unknown: Vec::new() };
    let Some(body_type) = of(type_name) else { panic!("{type_name} is the type of a served kind") };
    let decoded = decoder.decode_body(body_type, value);
    decoded.map(|()| decoder.unknown).map_err(|fault| DecodeError {
        kind: short_name(type_name).to_owned(),
        version: version_of(type_name).to_owned(),
        field: fault.field,
        message: fault.message,
    })
}

fn name_kind(kind: &Kind, value: &mut Value) {
    let Value::Object(fields) = value else { return };
    let rest = std::mem::take(fields);
    fields.insert("apiVersion".to_owned(), Value::from(kind.api_version()));
    fields.insert("kind".to_owned(), Value::from(kind.kind));
    for (name, value) in rest {
        fields.entry(name).or_insert(value);
    }
}

struct Decoder {
    path: Vec<Step>,
    unknown: Vec<String>,
}

enum Step {
    /// A field, or a key of a map.
    Name(String),
    Index(usize),
}

struct Fault {
    field: String,
    message: String,
}

impl Decoder {
    fn decode_body(&mut self, body_type: &Type, value: &mut Value) -> Result<(), Fault> {
        if let Value::Object(fields) = value {
            return self.decode_fields(body_type, fields);
        }
        let (found, expected) = (word(value), go_name(&body_type.name));
        let message = format!("json: cannot unmarshal {found} into Go value of type {expected}");
        Err(Fault { field: String::new(), message })
    }

    fn decode_fields(&mut self, of_type: &Type, fields: &mut Map<String, Value>) -> Result<(), Fault> {
        for (name, mut value) in std::mem::take(fields) {
            self.path.push(Step::Name(name.clone()));
            match of_type.fields.get(&name) {
                None => self.unknown.push(format!("unknown field \"{}\"", self.path_with_indexes())),
                Some(_) if value.is_null() => {}
                Some(field) => {
                    self.decode_value(&field.shape, of_type, &mut value)?;
                    if !omitted::is_omitted(&of_type.name, &name, field, &value) {
                        fields.insert(name, value);
                    }
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    fn decode_value(&mut self, shape: &Shape, within: &Type, value: &mut Value) -> Result<(), Fault> {
        match (shape, &mut *value) {
            (Shape::Any, _)
            | (Shape::Text | Shape::IntOrText, Value::String(_))
            | (Shape::Boolean, Value::Bool(_))
            | (Shape::Number, Value::Number(_)) => Ok(()),
            (Shape::Integer | Shape::IntOrText, Value::Number(number)) if fits_int32(number) => Ok(()),
            (Shape::Long, Value::Number(number)) if number.is_i64() => Ok(()),
            (Shape::Quantity, Value::Number(number)) => {
                let text = number.to_string();
                self.decode_quantity(&text, value)
            }
            (Shape::Quantity, Value::String(text)) => {
                let text = std::mem::take(text);
                self.decode_quantity(&text, value)
            }
            (Shape::Bytes, Value::String(text)) => self.decode_bytes(text),
            (Shape::Time, Value::String(text)) => self.decode_time(text, 0),
            (Shape::MicroTime, Value::String(text)) => self.decode_time(text, 6),
            (Shape::List(item), Value::Array(items)) => self.decode_items(item, within, items),
            (Shape::Map(item), Value::Object(fields)) => self.decode_entries(item, within, fields),
            (Shape::Object(name), Value::Object(fields)) => match of(name) {
                Some(inner) => self.decode_fields(inner, fields),
                None => Ok(()),
            },
            (_, other) => Err(self.wrong_type(shape, within, other)),
        }
    }

    fn decode_items(&mut self, shape: &Shape, within: &Type, items: &mut [Value]) -> Result<(), Fault> {
        for (index, item) in items.iter_mut().enumerate() {
            self.path.push(Step::Index(index));
            self.decode_element(shape, within, item)?;
            self.path.pop();
        }
        Ok(())
    }

    fn decode_entries(&mut self, shape: &Shape, within: &Type, fields: &mut Map<String, Value>) -> Result<(), Fault> {
        for (name, value) in fields.iter_mut() {
            self.path.push(Step::Name(name.clone()));
            self.decode_element(shape, within, value)?;
            self.path.pop();
        }
        Ok(())
    }

    /// A null inside a list or map is the empty value of its type, since it can't be left out.
    fn decode_element(&mut self, shape: &Shape, within: &Type, value: &mut Value) -> Result<(), Fault> {
        if value.is_null() {
            *value = shape.empty();
            return Ok(());
        }
        self.decode_value(shape, within, value)
    }

    fn decode_quantity(&self, text: &str, value: &mut Value) -> Result<(), Fault> {
        let canonical = quantity::canonical(text.trim()).map_err(|error| self.fault(error.to_string()))?;
        *value = Value::from(canonical);
        Ok(())
    }

    fn decode_bytes(&self, text: &mut String) -> Result<(), Fault> {
        text.retain(|letter| letter != '\r' && letter != '\n');
        match STANDARD.decode(&*text) {
            Ok(bytes) => *text = STANDARD.encode(bytes),
            Err(_) => {
                let at = illegal_base64_at(text);
                return Err(self.fault(format!("illegal base64 data at input byte {at}")));
            }
        }
        Ok(())
    }

    fn decode_time(&self, text: &mut String, precision: usize) -> Result<(), Fault> {
        let read: Result<Timestamp, _> = text.parse();
        let time = read.map_err(|_| {
            let layout = "2006-01-02T15:04:05Z07:00";
            self.fault(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as {layout:?}"))
        })?;
        *text = format!("{time:.precision$}");
        Ok(())
    }

    fn wrong_type(&self, shape: &Shape, within: &Type, value: &Value) -> Fault {
        let found = match (shape, value) {
            (Shape::Integer | Shape::Long | Shape::IntOrText, Value::Number(number)) => format!("number {number}"),
            _ => word(value).to_owned(),
        };
        let (holder, expected) = (short_name(&within.name), go_type(shape));
        let field = self.path_without_indexes();
        self.fault(format!("json: cannot unmarshal {found} into Go struct field {holder}.{field} of type {expected}"))
    }

    fn fault(&self, message: String) -> Fault {
        Fault { field: self.path_with_indexes(), message }
    }

    fn path_with_indexes(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) if path.is_empty() => path.push_str(name),
                Step::Name(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    fn path_without_indexes(&self) -> String {
        let names = self.path.iter().filter_map(|step| match step {
            Step::Name(name) => Some(name.as_str()),
            Step::Index(_) => None,
        });
        names.collect::<Vec<_>>().join(".")
    }
}

impl Shape {
    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Map(_))
    }

    fn empty(&self) -> Value {
        match self {
            Self::Text | Self::Bytes => Value::from(""),
            Self::Boolean => Value::from(false),
            Self::Integer | Self::Long | Self::Number | Self::IntOrText => Value::from(0),
            Self::Quantity => Value::from("0"),
            Self::Time | Self::MicroTime | Self::Any | Self::List(_) | Self::Map(_) => Value::Null,
            Self::Object(_) => Value::Object(Map::new()),
        }
    }
}

fn fits_int32(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

fn illegal_base64_at(text: &str) -> usize {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let content = text.trim_end_matches('=');
    content.bytes().position(|byte| !is_legal(byte)).unwrap_or(content.len())
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Text => "string".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::Integer => "int32".to_owned(),
        Shape::Long => "int64".to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrText => "intstr.IntOrString".to_owned(),
        Shape::Any => "interface {}".to_owned(),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(item) => format!("map[string]{}", go_type(item)),
        Shape::Object(name) => go_name(name),
    }
}

fn go_name(type_name: &str) -> String {
    format!("{}.{}", version_of(type_name), short_name(type_name))
}

fn short_name(type_name: &str) -> &str {
    type_name.rsplit('.').next().unwrap_or(type_name)
}

fn version_of(type_name: &str) -> &str {
    type_name.rsplit('.').nth(1).unwrap_or("v1")
}

#[cfg(test)]
mod tests;
