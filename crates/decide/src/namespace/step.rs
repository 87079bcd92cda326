//! The steps in a namespace, as they are printed, compared and applied, and what its end waits for.

use std::fmt;

use k8s_openapi::api::core::v1::{ConfigMap, NamespaceCondition, ServiceAccount};

use crate::object::AnyTarget;
use crate::target::Target;

/// One write in or on a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    CreateServiceAccount(Box<ServiceAccount>),
    CreateRootCa(Box<ConfigMap>),
    /// Replaces the ConfigMap, which carries the resourceVersion it was read with.
    UpdateRootCa(Box<ConfigMap>),
    Delete {
        object: AnyTarget,
    },
    /// Replaces the conditions of the namespace's status.
    WriteConditions {
        namespace: Target,
        conditions: Vec<NamespaceCondition>,
    },
    /// Replaces the finalizers of the namespace's spec; without any it is gone.
    Finalize {
        namespace: Target,
        finalizers: Vec<String>,
    },
}

/// What a terminating namespace waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    Objects { kind: String, count: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateServiceAccount(_) => write!(f, "create ServiceAccount default"),
            Self::CreateRootCa(_) => write!(f, "create ConfigMap kube-root-ca.crt"),
            Self::UpdateRootCa(_) => write!(f, "update ConfigMap kube-root-ca.crt"),
            Self::Delete { object } => write!(f, "delete {object}"),
            Self::WriteConditions { namespace, .. } => write!(f, "write conditions of Namespace {}", namespace.name),
            Self::Finalize { namespace, finalizers } => {
                write!(f, "leave Namespace {} to finalizers [{}]", namespace.name, finalizers.join(", "))
            }
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects { kind, count } => write!(f, "{count} objects of kind {kind} are not gone yet."),
        }
    }
}
