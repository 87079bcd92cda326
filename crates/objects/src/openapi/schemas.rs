//! The schemas of types, with what Kubernetes' clients look for in them.

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::schema::{self, Merging};

/// In which form a document says that a value is a number or a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenApi3,
    Swagger,
}

/// The schemas of these kinds, their lists and all they refer to, by full name.
pub(super) fn of(kinds: &[&Kind], generator: SchemaGenerator, dialect: Dialect) -> Map<String, Value> {
    let mut schemas = schema::definitions(kinds.iter().map(|kind| kind.add_types), generator);
    for (name, schema) in &mut schemas {
        add_merging(name, schema);
        write_either(name, schema, dialect);
    }
    for kind in kinds {
        let identity = json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        if let Some(schema) = schemas.get_mut(kind.type_name) {
            schema["x-kubernetes-group-version-kind"] = identity;
            need_no_metadata(schema);
        }
        schemas.insert(list_name(kind), list(kind, dialect));
    }
    schemas.entry(LIST_META.to_owned()).or_insert_with(list_meta);
    schemas
}

/// The name of the schema of a kind's list.
pub(super) fn list_name(kind: &Kind) -> String {
    format!("{}List", kind.type_name)
}

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The Rust types always have metadata; a user need not write any.
fn need_no_metadata(schema: &mut Value) {
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name != "metadata");
    }
    if schema.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        crate::json::remove(schema, "required");
    }
}

fn list(kind: &Kind, dialect: Dialect) -> Value {
    let reference = |name: &str| match dialect {
        Dialect::OpenApi3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        Dialect::Swagger => json!({"$ref": format!("#/definitions/{name}")}),
    };
    json!({
        "description": format!("A list of {}.", kind.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": reference(LIST_META),
            "items": {"type": "array", "items": reference(kind.type_name)},
        },
        "x-kubernetes-group-version-kind": [
            {"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)},
        ],
    })
}

fn list_meta() -> Value {
    json!({
        "description": "Where a list stands among the changes of its resource.",
        "type": "object",
        "properties": {
            "continue": {"type": "string"},
            "remainingItemCount": {"type": "integer", "format": "int64"},
            "resourceVersion": {"type": "string"},
            "selfLink": {"type": "string"},
        },
    })
}

fn add_merging(type_name: &str, schema: &mut Value) {
    for (field, merging) in schema::list_keys(type_name).into_iter().flatten() {
        let target = match field.as_str() {
            "(self)" => Some(&mut *schema),
            field => schema.get_mut("properties").and_then(|properties| properties.get_mut(field)),
        };
        if let Some(Value::Object(target)) = target {
            add_extensions(target, merging);
        }
    }
}

fn add_extensions(target: &mut Map<String, Value>, merging: &Merging) {
    let texts = [
        ("x-kubernetes-patch-strategy", &merging.patch_strategy),
        ("x-kubernetes-patch-merge-key", &merging.patch_merge_key),
        ("x-kubernetes-list-type", &merging.list_type),
        ("x-kubernetes-map-type", &merging.map_type),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        target.insert(name.to_owned(), json!(text));
    }
    if !merging.list_map_keys.is_empty() {
        target.insert("x-kubernetes-list-map-keys".to_owned(), json!(merging.list_map_keys));
    }
}

/// Values that may be a number or a text.
fn write_either(type_name: &str, schema: &mut Value, dialect: Dialect) {
    let Value::Object(fields) = schema else { return };
    if fields.shift_remove("x-kubernetes-int-or-string").is_none() {
        return;
    }
    let is_count = type_name.ends_with("IntOrString");
    match dialect {
        Dialect::Swagger => drop(fields.insert("type".to_owned(), json!("string"))),
        Dialect::OpenApi3 => {
            let number = if is_count { "integer" } else { "number" };
            fields.insert("oneOf".to_owned(), json!([{"type": number}, {"type": "string"}]));
        }
    }
    if is_count {
        fields.insert("format".to_owned(), json!("int-or-string"));
    }
}
