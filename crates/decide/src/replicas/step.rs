//! The steps of a ReplicaSet, as they are printed, compared and applied, and what it waits for.

use std::fmt;

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::safe_to_stop::NotSafe;
use crate::target::Target;

/// One write of a ReplicaSet.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Makes the ReplicaSet the controller of a pod.
    Adopt { pod: Target, owner_references: Vec<OwnerReference> },
    /// Lets a pod go.
    Release { pod: Target, owner_references: Vec<OwnerReference> },
    /// Creates a pod; the API server finishes its name. Applied late it may be one too many, so the ReplicaSet's
    /// observedGeneration is written only after it.
    CreatePod(Box<Pod>),
    /// Deletes a pod, if it is still as it was when that was found safe.
    DeletePod { pod: Target },
    /// Replaces the ReplicaSet's status.
    WriteStatus { replica_set: Target, status: Box<ReplicaSetStatus> },
}

/// What a ReplicaSet waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// The pod is one too many but may not go.
    PodKept { pod: String, reason: NotSafe },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { pod, .. } => write!(f, "adopt Pod {}", pod.name),
            Self::Release { pod, .. } => write!(f, "release Pod {}", pod.name),
            Self::CreatePod(pod) => {
                write!(f, "create Pod {}…", pod.metadata.generate_name.as_deref().unwrap_or_default())
            }
            Self::DeletePod { pod } => write!(f, "delete Pod {}", pod.name),
            Self::WriteStatus { status, .. } => write!(
                f,
                "write status: {} replicas, {} ready, {} available",
                status.replicas,
                status.ready_replicas.unwrap_or(0),
                status.available_replicas.unwrap_or(0)
            ),
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodKept { pod, reason } => write!(f, "Pod {pod} is one too many but stays: {reason}."),
        }
    }
}
