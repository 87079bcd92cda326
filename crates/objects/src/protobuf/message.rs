//! Turns a message into the fields of a JSON object, as Kubernetes' own JSON encoding would write them.

use serde_json::{Map, Value};

use super::ProtobufError;
use super::fields::{self, Field, Numbers, WhenEmpty};
use super::value::{Spot, parts};
use super::wire::{self, Wire};
use crate::schema::{self, Shape, Type};

/// Reads messages down to a depth.
#[derive(Clone, Copy)]
pub(super) struct Decoder {
    levels: usize,
    levels_left: usize,
}

impl Decoder {
    pub(super) fn with_levels(levels: usize) -> Self {
        Self { levels, levels_left: levels }
    }

    /// Reads a message into `into`, which may hold fields of it already.
    pub(super) fn read_message(
        self,
        shapes: &Type,
        numbers: &Numbers,
        message: &[u8],
        into: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let inner = self.deeper()?;
        for value in wire::values(message) {
            let (number, wire) = value?;
            match numbers.get(&number) {
                None => {}
                Some(Field::Inline(type_name)) => inner.read_inline(shapes, type_name, wire, into)?,
                Some(Field::Named { name, when_empty }) => inner.read_field(shapes, name, *when_empty, wire, into)?,
            }
        }
        Ok(())
    }

    fn read_inline(
        self,
        shapes: &Type,
        type_name: &str,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let Some(numbers) = fields::of(type_name) else { panic!("an inline message has field numbers: {type_name}") };
        let message = Spot { type_name, field: "(self)" }.bytes(Some(wire))?;
        self.read_message(shapes, numbers, message, into)
    }

    fn read_field(
        self,
        shapes: &Type,
        name: &str,
        when_empty: WhenEmpty,
        wire: Wire<'_>,
        into: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let Some(field) = shapes.fields.get(name) else { panic!("{} has a field {name}", shapes.name) };
        let slot = into.entry(name).or_insert(Value::Null);
        self.read_value(Spot { type_name: &shapes.name, field: name }, &field.shape, Some(wire), slot)?;
        if slot.is_null() || (when_empty == WhenEmpty::LeftOut && is_empty(slot)) {
            into.shift_remove(name);
        }
        Ok(())
    }

    /// Reads a value into `slot`. What is there is replaced, but lists and maps grow and messages are merged.
    fn read_value(
        self,
        spot: Spot<'_>,
        shape: &Shape,
        wire: Option<Wire<'_>>,
        slot: &mut Value,
    ) -> Result<(), ProtobufError> {
        *slot = match shape {
            Shape::Text => Value::from(spot.text(wire)?),
            Shape::Boolean => Value::from(spot.long(wire)? != 0),
            Shape::Integer => Value::from(spot.integer(wire)?),
            Shape::Long => Value::from(spot.long(wire)?),
            Shape::Number => spot.number(wire)?,
            Shape::Bytes => spot.base64(wire)?,
            Shape::Time => spot.time(wire)?,
            Shape::MicroTime => spot.micro_time(wire)?,
            Shape::Quantity => spot.quantity(wire)?,
            Shape::IntOrText => spot.int_or_text(wire)?,
            Shape::Any => spot.json(wire)?,
            Shape::List(item) => return self.read_items(spot, item, wire, as_list(slot)),
            Shape::Map(item) => return self.read_entry(spot, item, wire, as_object(slot)),
            Shape::Object(type_name) => return self.read_object(spot, type_name, wire, as_object(slot)),
        };
        Ok(())
    }

    /// Reads one item, or several numbers that are packed together.
    fn read_items(
        self,
        spot: Spot<'_>,
        item: &Shape,
        wire: Option<Wire<'_>>,
        into: &mut Vec<Value>,
    ) -> Result<(), ProtobufError> {
        match (item, wire) {
            (Shape::Boolean | Shape::Integer | Shape::Long, Some(Wire::Bytes(numbers))) => {
                for number in wire::packed(numbers) {
                    into.push(self.read_element(spot, item, Some(Wire::Varint(number?)))?);
                }
            }
            (_, wire) => into.push(self.read_element(spot, item, wire)?),
        }
        Ok(())
    }

    fn read_entry(
        self,
        spot: Spot<'_>,
        item: &Shape,
        wire: Option<Wire<'_>>,
        into: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let [key, value] = parts(spot.bytes(wire)?)?;
        let value = self.read_element(spot, item, value)?;
        into.insert(spot.text(key)?.to_owned(), value);
        Ok(())
    }

    fn read_object(
        self,
        spot: Spot<'_>,
        type_name: &str,
        wire: Option<Wire<'_>>,
        into: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let message = spot.bytes(wire)?;
        let (Some(shapes), Some(numbers)) = (schema::of(type_name), fields::of(type_name)) else {
            panic!("a field's type has a shape and field numbers: {type_name}");
        };
        self.read_message(shapes, numbers, message, into)
    }

    /// Reads an item of a list or a value of a map. A list among them is sent as a message whose field 1 it is.
    fn read_element(self, spot: Spot<'_>, shape: &Shape, wire: Option<Wire<'_>>) -> Result<Value, ProtobufError> {
        let mut element = Value::Null;
        let Shape::List(item) = shape else {
            self.read_value(spot, shape, wire, &mut element)?;
            return Ok(element);
        };
        let items = as_list(&mut element);
        for value in wire::values(spot.bytes(wire)?) {
            if let (1, wire) = value? {
                self.read_items(spot, item, Some(wire), items)?;
            }
        }
        Ok(element)
    }

    fn deeper(self) -> Result<Self, ProtobufError> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Self { levels_left, ..self }),
            None => Err(ProtobufError::TooDeep(self.levels)),
        }
    }
}

/// Whether Kubernetes' JSON encoding takes this value as not given, where it may.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn as_list(slot: &mut Value) -> &mut Vec<Value> {
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    let Value::Array(items) = slot else { panic!("a field that is a list holds a list: {slot}") };
    items
}

fn as_object(slot: &mut Value) -> &mut Map<String, Value> {
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    let Value::Object(fields) = slot else { panic!("a field that is an object holds an object: {slot}") };
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is read of these values of one field.
    fn read(shape: &Shape, values: &[Wire<'_>]) -> Result<Value, ProtobufError> {
        let mut slot = Value::Null;
        for value in values {
            Decoder::with_levels(1).read_value(Spot { type_name: "T", field: "f" }, shape, Some(*value), &mut slot)?;
        }
        Ok(slot)
    }

    #[test]
    fn a_list_in_a_map_is_a_message_of_its_own() {
        let lists = Shape::Map(Box::new(Shape::List(Box::new(Shape::Text))));
        let entries = [b"\x0a\x01k\x12\x06\x0a\x01a\x0a\x01b".as_slice(), b"\x0a\x01l\x12\x00", b"\x0a\x01m"];
        let read = read(&lists, &entries.map(Wire::Bytes));
        assert_eq!(read, Ok(json!({"k": ["a", "b"], "l": [], "m": []})));
    }

    #[test]
    fn numbers_with_a_fraction_have_eight_bytes() {
        let table = [(1.5, json!(1.5)), (f64::INFINITY, Value::Null), (f64::NAN, Value::Null)];
        for (number, expected) in table {
            assert_eq!(read(&Shape::Number, &[Wire::Fixed64(number.to_bits())]), Ok(expected), "{number}");
        }
        let wrong = ProtobufError::WrongEncoding { field: "T.f".to_owned() };
        assert_eq!(read(&Shape::Number, &[Wire::Fixed32]), Err(wrong));
    }
}
