//! Secret: bytes for containers, as base64 in JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::add_type;
use super::config_map::{changes_of_immutable, check_key};
use crate::json::{child, entries, fill, remove, set, text};
use crate::kind::{Kind, PLAIN, Scope};
use crate::metadata;
use crate::table;
use crate::validation::{At, Cause};

pub(super) const KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    type_name: "io.k8s.api.core.v1.Secret",
    add_types: add_type::<Secret>,
    default,
    validate,
    validate_update,
    columns: &[
        table::NAME,
        table::column("Type", "string", "What the keys mean."),
        table::column("Data", "string", "How many keys it has."),
        table::AGE,
    ],
    row: |object, now| {
        let count = entries(object, "/data").count();
        vec![table::name(object), json!(text(object, "/type")), json!(count), table::age(object, now)]
    },
    field_labels: |object| vec![("type", text(object, "/type").to_owned())],
    ..PLAIN
};

/// `stringData` is only another way to write `data`, and wins over it.
fn default(object: &mut Value) {
    if let Some(Value::Object(texts)) = remove(object, "stringData") {
        let data = child(object, "data");
        for (key, value) in texts {
            set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    }
    fill(object, "type", "Opaque");
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let data = At::root(object).field("data");
    for (key, value) in data.entries() {
        check_key(key, &value, &mut causes);
    }
    check_size(&data, &mut causes);
    check_keys_of_type(text(object, "/type"), &data, &mut causes);
    causes
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    let kind = At::root(new).field("type");
    if kind.value != At::root(old).field("type").value {
        causes.push(kind.invalid("field is immutable"));
    }
    causes.extend(changes_of_immutable(new, old, &["data"]));
    causes
}

fn check_size(data: &At<'_>, causes: &mut Vec<Cause>) {
    const MOST_BYTES: usize = 1 << 20;
    let size: usize = data.entries().map(|(_, value)| value.text().len() / 4 * 3).sum();
    if size > MOST_BYTES {
        causes.push(data.too_long(MOST_BYTES));
    }
}

/// Some types promise certain keys.
fn check_keys_of_type(kind: &str, data: &At<'_>, causes: &mut Vec<Cause>) {
    let entry = |key: &str| At { value: data.value.get(key).unwrap_or(&Value::Null), path: format!("data[{key}]") };
    let mut require = |key: &str| {
        if !entry(key).is_given() {
            causes.push(entry(key).required(""));
        }
    };
    match kind {
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().for_each(require),
        "kubernetes.io/ssh-auth" => require("ssh-privatekey"),
        "kubernetes.io/basic-auth" if !entry("username").is_given() && !entry("password").is_given() => {
            ["username", "password"].into_iter().for_each(require);
        }
        "kubernetes.io/dockerconfigjson" => check_json(&entry(".dockerconfigjson"), causes),
        "kubernetes.io/dockercfg" => check_json(&entry(".dockercfg"), causes),
        _ => {}
    }
}

fn check_json(at: &At<'_>, causes: &mut Vec<Cause>) {
    if !at.is_given() {
        causes.push(at.required(""));
        return;
    }
    let bytes = STANDARD.decode(at.text()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Value>(&bytes) {
        causes.push(at.invalid_as(&json!("<secret contents redacted>"), &error.to_string()));
    }
}
