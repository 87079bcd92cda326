//! Which field of which type has which number in Kubernetes' published protobuf definitions.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// A type's fields by their numbers.
pub(super) type Numbers = BTreeMap<u32, Field>;

/// What a field number stands for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(super) enum Field {
    Named {
        name: String,
        when_empty: WhenEmpty,
    },
    /// A message of this type, whose fields stand among those of the type itself in JSON.
    Inline(String),
}

/// Clients send every field that can't be absent in their types, even when nobody has set it; whether an empty one
/// means that it isn't there depends on the field, as in their JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenEmpty {
    /// An empty text, a zero or a false was given by somebody: the field is only sent when it is set, or is required.
    Kept,
    /// The field is sent always, and empty means that nobody has set it.
    LeftOut,
}

static TYPES: LazyLock<BTreeMap<String, Numbers>> = LazyLock::new(|| {
    let read = serde_json::from_str::<Published>(include_str!("../../data/protobuf-fields.json"));
    read.unwrap_or_else(|error| panic!("the field numbers that are compiled in can be read: {error}")).types
});

#[derive(Deserialize)]
struct Published {
    types: BTreeMap<String, Numbers>,
}

/// The fields of the type of this full name; None for a type that is never sent as protobuf.
pub(super) fn of(type_name: &str) -> Option<&'static Numbers> {
    TYPES.get(type_name)
}

impl From<String> for Field {
    fn from(text: String) -> Self {
        if let Some(type_name) = text.strip_prefix('+') {
            return Self::Inline(type_name.to_owned());
        }
        match text.strip_suffix('?') {
            Some(name) => Self::Named { name: name.to_owned(), when_empty: WhenEmpty::LeftOut },
            None => Self::Named { name: text, when_empty: WhenEmpty::Kept },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::schema::Shape;
    use crate::{kinds, schema};

    /// An alpha field of 1.36 that newer definitions no longer have.
    const WITHDRAWN: (&str, &str) = ("io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus", "resources");

    /// The JSON names of a type's fields, with those of its inline messages.
    fn names(numbers: &Numbers) -> Vec<&str> {
        let named = numbers.values().flat_map(|field| match field {
            Field::Named { name, .. } => vec![name.as_str()],
            Field::Inline(type_name) => names(of(type_name).unwrap()),
        });
        named.collect()
    }

    fn type_within(shape: &Shape) -> Option<&str> {
        match shape {
            Shape::List(item) | Shape::Map(item) => type_within(item),
            Shape::Object(name) => Some(name),
            Shape::Text | Shape::Boolean | Shape::Integer | Shape::Long | Shape::Number | Shape::Bytes => None,
            Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrText | Shape::Any => None,
        }
    }

    #[test]
    fn every_field_of_every_served_type_has_one_number() {
        let mut bodies: Vec<&str> =
            kinds::all().iter().filter(|kind| !kind.is_computed).map(|kind| kind.type_name).collect();
        bodies.extend(["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "io.k8s.api.autoscaling.v1.Scale"]);
        bodies.push("io.k8s.api.core.v1.Binding");
        let mut waiting = bodies.clone();
        let mut seen = BTreeSet::new();
        while let Some(type_name) = waiting.pop() {
            if !seen.insert(type_name) {
                continue;
            }
            let shapes = &schema::of(type_name).unwrap_or_else(|| panic!("{type_name} has a shape")).fields;
            let mut numbered = names(of(type_name).unwrap_or_else(|| panic!("{type_name} has field numbers")));
            numbered.sort_unstable();
            let in_envelope = |name: &str| bodies.contains(&type_name) && matches!(name, "apiVersion" | "kind");
            let is_numbered = |name: &&String| !in_envelope(name) && (type_name, name.as_str()) != WITHDRAWN;
            let expected: Vec<_> = shapes.keys().filter(is_numbered).collect();
            assert_eq!(numbered, expected, "{type_name}");
            waiting.extend(shapes.values().filter_map(|field| type_within(&field.shape)));
        }
        assert!(seen.len() > 150, "{} types were compared", seen.len());
    }

    #[test]
    fn marks_say_what_a_number_stands_for() {
        let table = [
            ("name", Field::Named { name: "name".into(), when_empty: WhenEmpty::Kept }),
            ("paused?", Field::Named { name: "paused".into(), when_empty: WhenEmpty::LeftOut }),
            ("+io.k8s.api.core.v1.VolumeSource", Field::Inline("io.k8s.api.core.v1.VolumeSource".into())),
        ];
        for (text, expected) in table {
            assert_eq!(Field::from(text.to_owned()), expected);
        }
    }
}
