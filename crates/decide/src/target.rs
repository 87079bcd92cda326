//! The object that a step writes to, as it was when the step was decided.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What a write must still find: an object that was replaced or changed meanwhile refuses the write, and the decision
/// is taken anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Empty for objects without a namespace.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Target {
    /// The object with this metadata.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
            resource_version: text(&meta.resource_version),
        }
    }
}
