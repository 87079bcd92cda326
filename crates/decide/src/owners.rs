//! Who controls an object, and what a controller may do with an object that matches its selector or no longer does.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use objects::selector;

/// What an object is to a controller that selects objects by label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Controlled and matching.
    Ours,
    /// Matching, and nobody controls it.
    Adoptable,
    /// Controlled, but it matches no longer.
    Releasable,
    /// None of the controller's business.
    Foreign,
}

/// What `object` is to the controller `owner`, which selects by `selector` within its namespace.
#[must_use]
pub fn claim(object: &ObjectMeta, owner: &ObjectMeta, selector: &LabelSelector) -> Claim {
    if object.namespace != owner.namespace {
        return Claim::Foreign;
    }
    let matching = selector::matches(selector, labels(object));
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Foreign,
        Some(_) if matching => Claim::Ours,
        Some(_) if is_going(owner) => Claim::Foreign,
        Some(_) => Claim::Releasable,
        None if matching && !is_going(owner) && !is_going(object) => Claim::Adoptable,
        None => Claim::Foreign,
    }
}

/// The reference to the object's controller, if it has one.
#[must_use]
pub fn controller_of(object: &ObjectMeta) -> Option<&OwnerReference> {
    object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls the object.
#[must_use]
pub fn is_controlled_by(object: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(object).is_some_and(|controller| Some(&controller.uid) == owner.uid.as_ref())
}

/// A reference that makes `owner` the controller of an object.
#[must_use]
pub fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The object's owner references and one more.
#[must_use]
pub fn with_reference(object: &ObjectMeta, reference: OwnerReference) -> Vec<OwnerReference> {
    object.owner_references.iter().flatten().cloned().chain([reference]).collect()
}

/// The object's owner references without those to `owner`.
#[must_use]
pub fn without_references_to(object: &ObjectMeta, owner: &ObjectMeta) -> Vec<OwnerReference> {
    let others = object.owner_references.iter().flatten().filter(|it| Some(&it.uid) != owner.uid.as_ref());
    others.cloned().collect()
}

/// The object's labels, empty where it has none.
#[must_use]
pub fn labels(object: &ObjectMeta) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    object.labels.as_ref().unwrap_or(&NONE)
}

/// The value of an annotation.
#[must_use]
pub fn annotation<'a>(object: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    object.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the object's deletion was asked for.
#[must_use]
pub fn is_going(object: &ObjectMeta) -> bool {
    object.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_follows_controller_selector_and_deletion() {
        let owner = json!({"namespace": "n", "name": "web", "uid": "1"});
        let going = json!({"namespace": "n", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let of = |uid: &str| json!([{"apiVersion": "v1", "kind": "K", "name": "web", "uid": uid, "controller": true}]);
        let table = [
            (&owner, json!({"namespace": "n", "labels": {"app": "web"}, "ownerReferences": of("1")}), Claim::Ours),
            (&owner, json!({"namespace": "n", "labels": {"app": "web"}, "ownerReferences": of("2")}), Claim::Foreign),
            (
                &owner,
                json!({"namespace": "n", "labels": {"app": "out"}, "ownerReferences": of("1")}),
                Claim::Releasable,
            ),
            (&going, json!({"namespace": "n", "labels": {"app": "out"}, "ownerReferences": of("1")}), Claim::Foreign),
            (&owner, json!({"namespace": "n", "labels": {"app": "web"}}), Claim::Adoptable),
            (&going, json!({"namespace": "n", "labels": {"app": "web"}}), Claim::Foreign),
            (&owner, json!({"namespace": "m", "labels": {"app": "web"}}), Claim::Foreign),
            (&owner, json!({"namespace": "n"}), Claim::Foreign),
        ];
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        for (owner, object, expected) in table {
            let owner: ObjectMeta = serde_json::from_value(owner.clone()).unwrap();
            let meta: ObjectMeta = serde_json::from_value(object.clone()).unwrap();
            assert_eq!(claim(&meta, &owner, &selector), expected, "{object}");
        }
    }
}
