//! What may stand in an object's metadata: names, labels, annotations, owners and finalizers.

use serde_json::{Map, Value, json};

use crate::json;
use crate::kind::Scope;
use crate::validation::{At, Cause, check_not_negative};

mod names;

pub(crate) use names::too_long;

pub use names::{
    dns_label_faults, dns_subdomain_faults, label_value_faults, path_segment_faults, port_name_faults,
    qualified_name_faults,
};

/// The real server's limit on all keys and values of the annotations together.
const MOST_ANNOTATION_BYTES: usize = 256 << 10;

const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// What belongs to the server and is taken from the stored object, whatever an update says.
const KEPT: [&str; 3] = ["deletionGracePeriodSeconds", "deletionTimestamp", "generation"];

/// What is taken from the stored object when an update leaves it out.
const KEPT_IF_ABSENT: [&str; 5] = ["creationTimestamp", "generateName", "name", "namespace", "uid"];

/// Every mistake in the metadata of an object whose names have the shape that `name_faults` checks.
#[must_use]
pub fn validate(object: &Value, scope: Scope, name_faults: fn(&str) -> Vec<String>) -> Vec<Cause> {
    let meta = At::root(object).field("metadata");
    let mut causes = Vec::new();
    check_name(&meta, name_faults, &mut causes);
    check_namespace(&meta.field("namespace"), scope, &mut causes);
    check_not_negative(&meta.field("generation"), &mut causes);
    check_labels(&meta.field("labels"), &mut causes);
    check_annotations(&meta.field("annotations"), &mut causes);
    check_owner_references(&meta.field("ownerReferences"), &mut causes);
    check_finalizers(&meta.field("finalizers"), &mut causes);
    causes
}

/// Every change of metadata that is not allowed. The real server looks twice and lists each mistake twice; so do we,
/// for clients that count.
#[must_use]
pub fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let (new, old) = (At::root(new).field("metadata"), At::root(old).field("metadata"));
    let mut causes = Vec::new();
    for name in ["name", "namespace", "uid", "creationTimestamp"] {
        let (new, old) = (new.field(name), old.field(name));
        if new.value != old.value {
            causes.push(new.invalid("field is immutable"));
        }
    }
    if old.field("deletionTimestamp").is_given() {
        check_no_new_finalizers(&new.field("finalizers"), &old.field("finalizers"), &mut causes);
    }
    causes.extend(causes.clone());
    causes
}

/// Takes from the stored object what an update may not change or need not repeat.
pub fn keep_identity(new: &mut Value, old: &Value) {
    let Some(old) = old.get("metadata") else { return };
    let meta = json::child(new, "metadata");
    for name in KEPT {
        match old.get(name) {
            Some(value) => json::set(meta, name, value.clone()),
            None => drop(json::remove(meta, name)),
        }
    }
    for name in KEPT_IF_ABSENT {
        if let Some(value) = old.get(name) {
            json::fill(meta, name, value.clone());
        }
    }
    json::remove(meta, "selfLink");
}

/// Labels of a template or selector: keys and values.
pub(crate) fn check_labels(labels: &At<'_>, causes: &mut Vec<Cause>) {
    for (key, value) in labels.entries() {
        causes.extend(invalid_text(labels, key, qualified_name_faults(key)));
        causes.extend(invalid_text(labels, value.text(), label_value_faults(value.text())));
    }
}

/// Annotations of an object or a template.
pub(crate) fn check_annotations(annotations: &At<'_>, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.entries() {
        causes.extend(invalid_text(annotations, key, qualified_name_faults(&key.to_lowercase())));
        size += key.len() + value.text().len();
    }
    if size > MOST_ANNOTATION_BYTES {
        causes.push(annotations.too_long(MOST_ANNOTATION_BYTES));
    }
}

fn check_name(meta: &At<'_>, name_faults: fn(&str) -> Vec<String>, causes: &mut Vec<Cause>) {
    let (name, prefix) = (meta.field("name"), meta.field("generateName"));
    if !prefix.is_empty() {
        let masked = format!("{}a", prefix.text());
        causes.extend(prefix.invalid_for(name_faults(&masked)));
    }
    if name.is_empty() {
        causes.push(name.required("name or generateName is required"));
    } else {
        causes.extend(name.invalid_for(name_faults(name.text())));
    }
}

fn check_namespace(namespace: &At<'_>, scope: Scope, causes: &mut Vec<Cause>) {
    match scope {
        Scope::Cluster if !namespace.is_empty() => causes.push(namespace.forbidden("not allowed on this type")),
        Scope::Cluster => {}
        Scope::Namespaced if namespace.is_empty() => causes.push(namespace.required("")),
        Scope::Namespaced => causes.extend(namespace.invalid_for(dns_label_faults(namespace.text()))),
    }
}

fn check_owner_references(owners: &At<'_>, causes: &mut Vec<Cause>) {
    for owner in owners.items() {
        let version = owner.field("apiVersion").text().rsplit('/').next().unwrap_or_default();
        let texts = [
            ("apiVersion", version, "version must not be empty"),
            ("kind", owner.field("kind").text(), "must not be empty"),
            ("name", owner.field("name").text(), "must not be empty"),
            ("uid", owner.field("uid").text(), "must not be empty"),
        ];
        for (name, _, fault) in texts.iter().filter(|(_, text, _)| text.is_empty()) {
            causes.push(owners.field(name).invalid_as(&json!(""), fault));
        }
    }
    check_single_controller(owners, causes);
}

fn check_single_controller(owners: &At<'_>, causes: &mut Vec<Cause>) {
    let name_of = |owner: &At<'_>| format!("{}/{}", owner.field("kind").text(), owner.field("name").text());
    let controllers: Vec<_> = owners.items().filter(|owner| owner.field("controller").is_true()).collect();
    if let [one, .., other] = controllers.as_slice() {
        let shown: Vec<_> = owners.items().map(|owner| in_declared_order(owner.value)).collect();
        let fault = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            name_of(one),
            name_of(other)
        );
        causes.push(owners.invalid_as(&Value::Array(shown), &fault));
    }
}

fn in_declared_order(owner: &Value) -> Value {
    let names = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let fields = names.iter().filter_map(|name| Some(((*name).to_owned(), owner.get(name)?.clone())));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn check_finalizers(finalizers: &At<'_>, causes: &mut Vec<Cause>) {
    let mut deletion_finalizers = 0;
    for finalizer in finalizers.items() {
        let name = finalizer.text();
        causes.extend(invalid_text(finalizers, name, qualified_name_faults(name)));
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            causes.push(finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified"));
        }
        deletion_finalizers += usize::from(matches!(name, "orphan" | "foregroundDeletion"));
    }
    if deletion_finalizers > 1 {
        causes.push(finalizers.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

fn check_no_new_finalizers(new: &At<'_>, old: &At<'_>, causes: &mut Vec<Cause>) {
    let is_new = |item: &At<'_>| old.items().all(|other| other.value != item.value);
    let added: Vec<_> = new.items().filter(is_new).map(|item| item.value.to_string()).collect();
    if !added.is_empty() {
        causes.push(new.forbidden(&format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        )));
    }
}

/// Mistakes in a text that stands somewhere in a map or list are reported for the whole of it.
fn invalid_text<'a>(at: &'a At<'_>, text: &str, faults: Vec<String>) -> impl Iterator<Item = Cause> + use<'a> {
    let shown = json!(text);
    faults.into_iter().map(move |fault| at.invalid_as(&shown, &fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(meta: Value) -> Vec<String> {
        let causes = validate(&json!({"metadata": meta}), Scope::Namespaced, dns_subdomain_faults);
        causes.into_iter().map(|cause| format!("{} {}", cause.reason, cause.field)).collect()
    }

    #[test]
    fn mistakes_are_named_by_field() {
        let named = |fields: Value| {
            let mut meta = json!({"name": "a", "namespace": "n"});
            meta.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            meta
        };
        let table = [
            (named(json!({})), vec![]),
            (json!({"namespace": "n"}), vec!["FieldValueRequired metadata.name"]),
            (named(json!({"name": "Bad_Name"})), vec!["FieldValueInvalid metadata.name"]),
            (named(json!({"name": "x".repeat(254)})), vec!["FieldValueInvalid metadata.name"]),
            (named(json!({"generateName": "gen-"})), vec![]),
            (named(json!({"labels": {"bad key": "v"}})), vec!["FieldValueInvalid metadata.labels"]),
            (named(json!({"labels": {"k": "bad value"}})), vec!["FieldValueInvalid metadata.labels"]),
            (named(json!({"annotations": {"a/b/c": "v"}})), vec!["FieldValueInvalid metadata.annotations"]),
            (named(json!({"annotations": {"UPPER": "any text at all"}})), vec![]),
            (named(json!({"annotations": {"a": "x".repeat(300_000)}})), vec!["FieldValueTooLong metadata.annotations"]),
            (named(json!({"finalizers": ["plain"]})), vec!["FieldValueInvalid metadata.finalizers[0]"]),
            (named(json!({"finalizers": ["bad one/x"]})), vec!["FieldValueInvalid metadata.finalizers"]),
            (named(json!({"finalizers": ["x/y", "orphan"]})), vec![]),
            (
                named(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]})),
                vec!["FieldValueInvalid metadata.ownerReferences.uid"],
            ),
            (
                named(json!({"ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1", "controller": true},
                    {"apiVersion": "v1", "kind": "Pod", "name": "y", "uid": "2", "controller": true},
                ]})),
                vec!["FieldValueInvalid metadata.ownerReferences"],
            ),
        ];
        for (meta, expected) in table {
            assert_eq!(faults(meta.clone()), expected, "{meta}");
        }
    }

    #[test]
    fn identity_is_immutable_and_kept() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 2}});
        let mut new = json!({"metadata": {"name": "a", "generation": 7, "labels": {"x": "y"}}});
        keep_identity(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 2, "labels": {"x": "y"}}})
        );
        assert_eq!(validate_update(&new, &old), []);
        new["metadata"]["uid"] = json!("2");
        let causes = validate_update(&new, &old);
        assert_eq!(causes[0].message, "Invalid value: \"2\": field is immutable");
    }

    #[test]
    fn a_deleted_object_gets_no_new_finalizers() {
        let old = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let fewer = json!({"metadata": {"deletionTimestamp": "t"}});
        let more = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["x/y", "x/z"]}});
        assert_eq!(validate_update(&fewer, &old), []);
        assert!(validate_update(&more, &old)[0].message.ends_with("found new finalizers []string{\"x/z\"}"));
    }
}
