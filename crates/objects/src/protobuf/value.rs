//! Single values: what their encoding says, as JSON. A value that isn't there is the empty one of its type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Number, Value};

use super::ProtobufError;
use super::wire::{self, Wire};

const NANOSECONDS_PER_MICROSECOND: i32 = 1_000;

/// The field whose value is read.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The full name of the type that has it.
    pub(super) type_name: &'a str,
    pub(super) field: &'a str,
}

/// The fields 1 to N of a small message, the last value of each; other fields are skipped.
pub(super) fn parts<const N: usize>(message: &[u8]) -> Result<[Option<Wire<'_>>; N], ProtobufError> {
    let mut parts = [None; N];
    for value in wire::values(message) {
        let (number, wire) = value?;
        if let Some(part) = parts.get_mut(number as usize - 1) {
            *part = Some(wire);
        }
    }
    Ok(parts)
}

impl Spot<'_> {
    /// E.g. `PodSpec.hostname`.
    fn name(self) -> String {
        let short = self.type_name.rsplit('.').next().unwrap_or(self.type_name);
        format!("{short}.{}", self.field)
    }

    fn wrong_encoding(self) -> ProtobufError {
        ProtobufError::WrongEncoding { field: self.name() }
    }

    pub(super) fn bytes<'w>(self, wire: Option<Wire<'w>>) -> Result<&'w [u8], ProtobufError> {
        match wire {
            None => Ok(&[]),
            Some(Wire::Bytes(bytes)) => Ok(bytes),
            Some(Wire::Varint(_) | Wire::Fixed64(_) | Wire::Fixed32) => Err(self.wrong_encoding()),
        }
    }

    pub(super) fn text<'w>(self, wire: Option<Wire<'w>>) -> Result<&'w str, ProtobufError> {
        std::str::from_utf8(self.bytes(wire)?).map_err(|_| ProtobufError::NotText { field: self.name() })
    }

    pub(super) fn base64(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        Ok(Value::from(STANDARD.encode(self.bytes(wire)?)))
    }

    pub(super) fn long(self, wire: Option<Wire<'_>>) -> Result<i64, ProtobufError> {
        match wire {
            None => Ok(0),
            Some(Wire::Varint(number)) => Ok(number.cast_signed()),
            Some(Wire::Bytes(_) | Wire::Fixed64(_) | Wire::Fixed32) => Err(self.wrong_encoding()),
        }
    }

    /// A number of 32 bits, sent with its sign extended to 64.
    pub(super) fn integer(self, wire: Option<Wire<'_>>) -> Result<i32, ProtobufError> {
        i32::try_from(self.long(wire)?).map_err(|_| self.wrong_encoding())
    }

    /// Null for what JSON can't say: infinities and what is no number.
    pub(super) fn number(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        let bits = match wire {
            None => 0,
            Some(Wire::Fixed64(bits)) => bits,
            Some(Wire::Varint(_) | Wire::Bytes(_) | Wire::Fixed32) => return Err(self.wrong_encoding()),
        };
        Ok(Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number))
    }

    /// Null for an empty message, which stands for no time. Fractions of a second are not kept.
    pub(super) fn time(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        self.timestamp(wire, |_| 0)
    }

    /// Null for an empty message, which stands for no time.
    pub(super) fn micro_time(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        self.timestamp(wire, |nanoseconds| nanoseconds - nanoseconds % NANOSECONDS_PER_MICROSECOND)
    }

    fn timestamp(self, wire: Option<Wire<'_>>, kept: impl Fn(i32) -> i32) -> Result<Value, ProtobufError> {
        let (seconds, nanoseconds) = match parts(self.bytes(wire)?)? {
            [None, None] => return Ok(Value::Null),
            [seconds, nanoseconds] => (self.long(seconds)?, kept(self.integer(nanoseconds)?)),
        };
        let time = Timestamp::new(seconds, nanoseconds).map_err(|_| ProtobufError::NoTime { field: self.name() })?;
        Ok(Value::from(time.to_string()))
    }

    pub(super) fn quantity(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        let [text] = parts(self.bytes(wire)?)?;
        match self.text(text)? {
            "" => Ok(Value::from("0")),
            text => Ok(Value::from(text)),
        }
    }

    pub(super) fn int_or_text(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        let [kind, integer, text] = parts(self.bytes(wire)?)?;
        match self.long(kind)? {
            0 => Ok(Value::from(self.integer(integer)?)),
            1 => Ok(Value::from(self.text(text)?)),
            _ => Err(self.wrong_encoding()),
        }
    }

    /// A value of any type is sent as its JSON text.
    pub(super) fn json(self, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        let [text] = parts(self.bytes(wire)?)?;
        match self.bytes(text)? {
            [] => Ok(Value::Null),
            text => serde_json::from_slice(text).map_err(|_| ProtobufError::NotJson { field: self.name() }),
        }
    }
}
