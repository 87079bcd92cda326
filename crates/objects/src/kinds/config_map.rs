//! ConfigMap: texts and bytes for containers.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::add_type;
use crate::json::entries;
use crate::kind::{Kind, PLAIN, Scope};
use crate::metadata;
use crate::table;
use crate::validation::{At, Cause};

/// The real server's limit on all values of a ConfigMap or Secret together.
const MOST_BYTES: usize = 1 << 20;

const LONGEST_KEY: usize = 253;

const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
    'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

pub(super) const KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    type_name: "io.k8s.api.core.v1.ConfigMap",
    add_types: add_type::<ConfigMap>,
    validate,
    validate_update,
    columns: &[table::NAME, table::column("Data", "string", "How many keys it has."), table::AGE],
    row: |object, now| {
        let count = entries(object, "/data").count() + entries(object, "/binaryData").count();
        vec![table::name(object), json!(count), table::age(object, now)]
    },
    ..PLAIN
};

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let (data, binary) = (At::root(object).field("data"), At::root(object).field("binaryData"));
    for (key, value) in data.entries() {
        check_key(key, &value, &mut causes);
        if binary.value.get(key).is_some() {
            causes.push(value.invalid_as(&json!(key), "duplicate of key present in binaryData"));
        }
    }
    for (key, value) in binary.entries() {
        check_key(key, &value, &mut causes);
    }
    let size: usize = data.entries().map(|(_, value)| value.text().len()).sum();
    let binary_size: usize = binary.entries().map(|(_, value)| value.text().len() / 4 * 3).sum();
    if size + binary_size > MOST_BYTES {
        causes.push(At { value: &Value::Null, path: String::new() }.too_long(MOST_BYTES));
    }
    causes
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    causes.extend(changes_of_immutable(new, old, &["data", "binaryData"]));
    causes
}

/// What may not change once `immutable` is true.
pub(super) fn changes_of_immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<Cause> {
    let (new, old) = (At::root(new), At::root(old));
    if !old.field("immutable").is_true() {
        return Vec::new();
    }
    let forbidden = "field is immutable when `immutable` is set";
    let mut causes = Vec::new();
    if !new.field("immutable").is_true() {
        causes.push(new.field("immutable").forbidden(forbidden));
    }
    for name in fields {
        if new.field(name).value != old.field(name).value {
            causes.push(new.field(name).forbidden(forbidden));
        }
    }
    causes
}

/// Keys become file names.
pub(super) fn check_key(key: &str, at: &At<'_>, causes: &mut Vec<Cause>) {
    let shown = json!(key);
    if key.len() > LONGEST_KEY {
        causes.push(at.invalid_as(&shown, &metadata::too_long(LONGEST_KEY)));
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(is_legal) {
        causes.push(at.invalid_as(&shown, KEY));
    }
    if key == "." || key == ".." {
        causes.push(at.invalid_as(&shown, &format!("must not be '{key}'")));
    } else if key.starts_with("..") {
        causes.push(at.invalid_as(&shown, "must not start with '..'"));
    }
}
