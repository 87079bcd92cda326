//! JSON with an eye on keys that are given twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{BodyError, Parsed};

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, BodyError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut seen = Seen { path: String::new(), duplicates: Vec::new() };
    let value = Reading(&mut seen).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    let value = value.map_err(|error| BodyError::Json(error.to_string()))?;
    Ok(Parsed { value, duplicates: seen.duplicates })
}

struct Seen {
    /// Where we are, e.g. `spec.containers[0]`.
    path: String,
    duplicates: Vec<String>,
}

impl Seen {
    /// Runs with the path made longer, and restores it.
    fn within<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let value = read(self);
        self.path.truncate(length);
        value
    }
}

struct Reading<'a>(&'a mut Seen);

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        loop {
            let step = format!("[{}]", found.len());
            match self.0.within(&step, |seen| items.next_element_seed(Reading(seen)))? {
                Some(item) => found.push(item),
                None => return Ok(Value::Array(found)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let is_duplicate = fields.contains_key(&key);
            let value = self.0.within(&key, |seen| {
                if is_duplicate {
                    seen.duplicates.push(format!("duplicate field \"{}\"", seen.path));
                }
                entries.next_value_seed(Reading(seen))
            })?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_of_duplicates_counts_and_each_is_named() {
        let body = br#"{"metadata":{"name":"a","name":"b"},"spec":{"containers":[{"x":1,"x":2,"x":3}]}}"#;
        let parsed = parse(body).unwrap();
        assert_eq!(parsed.value, json!({"metadata": {"name": "b"}, "spec": {"containers": [{"x": 3}]}}));
        let field = "duplicate field \"spec.containers[0].x\"";
        assert_eq!(parsed.duplicates, ["duplicate field \"metadata.name\"", field, field]);
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for body in ["", "nonsense", "{", "{} {}", "{\"a\":1,}", "[1e999]"] {
            assert!(matches!(parse(body.as_bytes()), Err(BodyError::Json(_))), "{body}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }
}
