//! How large a document is: what is deeper than this API's clients can read must never be stored.

use serde_json::Value;

/// The most that objects and lists are nested in what is stored. JSON parsers give up at 128, and lists of objects and events
/// of watches put some more around.
pub const DEEPEST: usize = 100;

/// The size of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Objects and lists that are nested: 0 for a text or a number.
    pub depth: usize,
    /// About as many bytes as its text has.
    pub bytes: usize,
}

impl Size {
    #[must_use]
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Self { depth: 0, bytes: 5 },
            Value::String(text) => Self { depth: 0, bytes: text.len() + 2 },
            Value::Array(items) => Self::around(items.iter().map(Self::of)),
            Value::Object(fields) => Self::around(fields.iter().map(|(name, value)| {
                let Self { depth, bytes } = Self::of(value);
                Self { depth, bytes: bytes + name.len() + 3 }
            })),
        }
    }

    fn around(parts: impl Iterator<Item = Self>) -> Self {
        parts.fold(Self { depth: 1, bytes: 2 }, |all, part| Self {
            depth: all.depth.max(part.depth + 1),
            bytes: all.bytes + part.bytes + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_counts_what_is_nested() {
        for (value, depth) in [(json!("x"), 0), (json!({}), 1), (json!([1, [2]]), 2), (json!({"a": {"b": [1]}}), 3)] {
            assert_eq!(Size::of(&value).depth, depth, "{value}");
            assert!(Size::of(&value).bytes >= value.to_string().len(), "{value}");
        }
    }
}
