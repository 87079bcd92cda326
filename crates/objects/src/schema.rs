//! What type every field has, and how lists of it are merged: made once from the types' published schemas and the
//! published list keys, and then used to decode, to patch and to describe.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use schemars::SchemaGenerator;
use serde::Deserialize;
use serde_json::Value;

use crate::kinds;

mod decode;
mod omitted;

pub use decode::{DecodeError, decode, decode_as};

/// A type with named fields, e.g. `io.k8s.api.core.v1.PodSpec`.
#[derive(Debug)]
pub struct Type {
    /// The full name in the OpenAPI document.
    pub name: String,
    /// Its fields by their JSON names.
    pub fields: BTreeMap<String, Field>,
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    pub shape: Shape,
    /// Whether it is written even when empty.
    pub is_required: bool,
    pub merging: Merging,
}

/// What a value may look like.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Boolean,
    /// A whole number of 32 bits.
    Integer,
    /// A whole number of 64 bits.
    Long,
    Number,
    /// Base64 text.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    Quantity,
    IntOrText,
    /// Anything, kept as it is.
    Any,
    List(Box<Shape>),
    /// Any keys, values of one shape.
    Map(Box<Shape>),
    /// The name of a [`Type`].
    Object(String),
}

/// How a field's value is merged with a patch, as a real API server publishes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Merging {
    /// `merge`, `retainKeys`, `merge,retainKeys`, or empty.
    pub patch_strategy: String,
    /// The key by which a strategic merge patch finds a list's items.
    pub patch_merge_key: String,
    /// `atomic`, `set`, `map`, or empty.
    pub list_type: String,
    pub list_map_keys: Vec<String>,
    /// `atomic` or empty.
    pub map_type: String,
}

impl Merging {
    /// Whether a strategic merge patch merges a list instead of replacing it.
    #[must_use]
    pub fn merges(&self) -> bool {
        self.patch_strategy.split(',').any(|strategy| strategy == "merge")
    }
}

static LIST_KEYS: LazyLock<BTreeMap<String, BTreeMap<String, Merging>>> = LazyLock::new(|| {
    let read: Result<ListKeys, _> = serde_json::from_str(include_str!("../data/list-keys.json"));
    let keys = read.unwrap_or_else(|error| panic!("the list keys that are compiled in can be read: {error}"));
    keys.types.into_iter().map(|(name, entries)| (name, merging_fields(entries))).collect()
});

static TYPES: LazyLock<BTreeMap<String, Type>> = LazyLock::new(|| {
    let definitions = definitions(kinds::all().iter().map(|kind| kind.add_types), SchemaGenerator::default());
    definitions.iter().filter_map(|(name, schema)| Some((name.clone(), to_type(name, schema)?))).collect()
});

#[derive(Deserialize)]
struct ListKeys {
    types: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// What the data say of one field, or of unions, which nothing here needs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Field(Merging),
    Unions(serde::de::IgnoredAny),
}

/// The type of this full name; None for a type that no served kind uses, or that has no fields.
#[must_use]
pub fn of(type_name: &str) -> Option<&'static Type> {
    TYPES.get(type_name)
}

/// The published merging data of a type's fields; `(self)` stands for the type as a whole.
pub(crate) fn list_keys(type_name: &str) -> Option<&'static BTreeMap<String, Merging>> {
    LIST_KEYS.get(type_name)
}

/// The schemas of types and all they refer to, by full name, with those of the bodies that subresources take.
pub(crate) fn definitions(
    types: impl Iterator<Item = fn(&mut SchemaGenerator)>,
    mut generator: SchemaGenerator,
) -> serde_json::Map<String, Value> {
    types.for_each(|add| add(&mut generator));
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Scale>();
    generator.subschema_for::<Binding>();
    generator.subschema_for::<Eviction>();
    generator.subschema_for::<TokenRequest>();
    generator.take_definitions(true)
}

fn merging_fields(entries: BTreeMap<String, Entry>) -> BTreeMap<String, Merging> {
    let field = |(name, entry)| match entry {
        Entry::Field(merging) => Some((name, merging)),
        Entry::Unions(_) => None,
    };
    entries.into_iter().filter_map(field).collect()
}

fn to_type(name: &str, schema: &Value) -> Option<Type> {
    let properties = schema.get("properties")?.as_object()?;
    let required: Vec<_> = schema.get("required").and_then(Value::as_array).into_iter().flatten().collect();
    let merging = list_keys(name);
    let fields = properties.iter().map(|(field, schema)| {
        let is_required = required.iter().any(|name| name.as_str() == Some(field));
        let merging = merging.and_then(|fields| fields.get(field)).cloned().unwrap_or_default();
        (field.clone(), Field { shape: to_shape(schema), is_required, merging })
    });
    Some(Type { name: name.to_owned(), fields: fields.collect() })
}

fn to_shape(schema: &Value) -> Shape {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    if let Some((_, name)) = text("$ref").rsplit_once('/') {
        return named_shape(name);
    }
    let inner = |key: &str| Box::new(schema.get(key).map_or(Shape::Any, to_shape));
    match (text("type"), text("format")) {
        ("string", "byte") => Shape::Bytes,
        ("string", _) => Shape::Text,
        ("boolean", _) => Shape::Boolean,
        ("integer", "int64") => Shape::Long,
        ("integer", _) => Shape::Integer,
        ("number", _) => Shape::Number,
        ("array", _) => Shape::List(inner("items")),
        ("object", _) if schema.get("additionalProperties").is_some() => Shape::Map(inner("additionalProperties")),
        _ => Shape::Any,
    }
}

fn named_shape(name: &str) -> Shape {
    match name.rsplit('.').next().unwrap_or(name) {
        "Time" => Shape::Time,
        "MicroTime" => Shape::MicroTime,
        "Quantity" => Shape::Quantity,
        "IntOrString" => Shape::IntOrText,
        "FieldsV1" | "RawExtension" | "JSON" => Shape::Any,
        _ => Shape::Object(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_shapes_and_merge_keys() {
        let container = of("io.k8s.api.core.v1.Container").unwrap();
        assert_eq!(container.fields["image"].shape, Shape::Text);
        assert_eq!(container.fields["tty"].shape, Shape::Boolean);
        let ports = &container.fields["ports"];
        assert_eq!(ports.shape, Shape::List(Box::new(Shape::Object("io.k8s.api.core.v1.ContainerPort".into()))));
        assert!(ports.merging.merges());
        assert_eq!(ports.merging.patch_merge_key, "containerPort");
        assert_eq!(ports.merging.list_map_keys, ["containerPort", "protocol"]);

        let requirements = of("io.k8s.api.core.v1.ResourceRequirements").unwrap();
        assert_eq!(requirements.fields["limits"].shape, Shape::Map(Box::new(Shape::Quantity)));
        let config_map = of("io.k8s.api.core.v1.ConfigMap").unwrap();
        assert_eq!(config_map.fields["binaryData"].shape, Shape::Map(Box::new(Shape::Bytes)));
        let meta = of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
        assert_eq!(meta.fields["creationTimestamp"].shape, Shape::Time);
    }

    #[test]
    fn every_kind_has_a_type() {
        for kind in kinds::all() {
            assert!(of(kind.type_name).is_some(), "{}", kind.type_name);
        }
        assert!(of("io.k8s.api.autoscaling.v1.Scale").is_some());
    }
}
