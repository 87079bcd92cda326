//! The steps of garbage collection, as they are printed, compared and applied, and what owners wait for.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::object::AnyTarget;

/// What becomes of an object's own dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// One write of the garbage collector.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Delete {
        object: AnyTarget,
        propagation: Propagation,
    },
    /// Replaces the owner references.
    SetOwners {
        object: AnyTarget,
        owner_references: Vec<OwnerReference>,
    },
    /// Replaces the finalizers.
    SetFinalizers {
        object: AnyTarget,
        finalizers: Vec<String>,
    },
}

/// What a deleted owner waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    Dependents { owner: AnyTarget, dependents: usize },
}

impl Step {
    /// The object that it writes to.
    #[must_use]
    pub fn object(&self) -> &AnyTarget {
        match self {
            Self::Delete { object, .. } | Self::SetOwners { object, .. } | Self::SetFinalizers { object, .. } => object,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { object, propagation } => write!(f, "delete {object} ({propagation:?})"),
            Self::SetOwners { object, owner_references } if owner_references.is_empty() => {
                write!(f, "leave {object} without owners")
            }
            Self::SetOwners { object, owner_references } => {
                let names: Vec<_> = owner_references.iter().map(|owner| owner.name.as_str()).collect();
                write!(f, "leave {object} to {}", names.join(", "))
            }
            Self::SetFinalizers { object, finalizers } if finalizers.is_empty() => {
                write!(f, "leave {object} without finalizers")
            }
            Self::SetFinalizers { object, finalizers } => {
                write!(f, "leave {object} to finalizers {}", finalizers.join(", "))
            }
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependents { owner, dependents } => {
                write!(f, "{owner} stays until its {dependents} dependents are gone.")
            }
        }
    }
}
