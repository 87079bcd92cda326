//! Any object of any kind, as garbage collection and namespaces see it: its kind, its metadata, nothing else.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::target::Target;

/// A kind of object, e.g. `apps/v1` and `ReplicaSet`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KindName {
    pub api_version: String,
    pub kind: String,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct AnyObject {
    pub kind: KindName,
    pub meta: ObjectMeta,
}

/// What a step on an object of any kind writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyTarget {
    pub kind: KindName,
    pub target: Target,
}

impl KindName {
    /// The group, which is the same in all versions of a kind; empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl AnyObject {
    /// The object as a target of steps.
    #[must_use]
    pub fn target(&self) -> AnyTarget {
        AnyTarget { kind: self.kind.clone(), target: Target::of(&self.meta) }
    }

    /// Whether its metadata holds this finalizer.
    #[must_use]
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.meta.finalizers.iter().flatten().any(|finalizer| finalizer == name)
    }
}

impl fmt::Display for AnyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.kind, self.target.name)
    }
}
