//! The steps of a rollout, as they are printed, compared and applied. A step leaves its doer no choice.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION};
use super::situation::{Member, Situation};
use crate::owners;
use crate::target::Target;

/// One write of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Makes the Deployment the controller of a ReplicaSet.
    Adopt { replica_set: Target, owner_references: Vec<OwnerReference> },
    /// Lets a ReplicaSet go.
    Release { replica_set: Target, owner_references: Vec<OwnerReference> },
    /// Writes the Deployment's revision annotation.
    RecordRevision { deployment: Target, revision: i64 },
    /// Writes these annotations, and minReadySeconds, to a ReplicaSet.
    UpdateReplicaSet { replica_set: Target, annotations: BTreeMap<String, String>, min_ready_seconds: i32 },
    /// Creates a ReplicaSet. Its name says its template, so that doing it twice is refused.
    CreateReplicaSet(Box<ReplicaSet>),
    /// Sets a ReplicaSet's size, and the annotations that say for which size of the Deployment it was chosen.
    ScaleReplicaSet { replica_set: Target, from: i32, to: i32, desired_replicas: i32, max_replicas: i32 },
    /// Deletes an empty ReplicaSet.
    DeleteReplicaSet { replica_set: Target },
    /// Replaces the Deployment's status.
    WriteStatus { deployment: Target, status: Box<DeploymentStatus> },
}

/// An event that tells users of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// One CamelCase word.
    pub reason: &'static str,
    pub message: String,
}

impl Step {
    pub(super) fn scale(seen: &Situation<'_>, member: &Member<'_>, to: i32) -> Self {
        Self::ScaleReplicaSet {
            replica_set: Target::of(&member.replica_set.metadata),
            from: member.wanted(),
            to,
            desired_replicas: seen.limits.replicas,
            max_replicas: seen.limits.ceiling(),
        }
    }

    /// The annotations that go with the step's write.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        match self {
            Self::RecordRevision { revision, .. } => BTreeMap::from([(REVISION.to_owned(), revision.to_string())]),
            Self::UpdateReplicaSet { annotations, .. } => annotations.clone(),
            Self::ScaleReplicaSet { desired_replicas, max_replicas, .. } => BTreeMap::from([
                (DESIRED_REPLICAS.to_owned(), desired_replicas.to_string()),
                (MAX_REPLICAS.to_owned(), max_replicas.to_string()),
            ]),
            Self::CreateReplicaSet(it) => it.metadata.annotations.clone().unwrap_or_default(),
            Self::Adopt { .. } | Self::Release { .. } | Self::DeleteReplicaSet { .. } | Self::WriteStatus { .. } => {
                BTreeMap::new()
            }
        }
    }

    /// The event to record on the Deployment once the step is applied.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        match self {
            Self::CreateReplicaSet(it) => {
                let size = it.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                scaled(it.metadata.name.as_deref().unwrap_or_default(), 0, size)
            }
            Self::ScaleReplicaSet { replica_set, from, to, .. } => scaled(&replica_set.name, *from, *to),
            Self::Adopt { .. }
            | Self::Release { .. }
            | Self::RecordRevision { .. }
            | Self::UpdateReplicaSet { .. }
            | Self::DeleteReplicaSet { .. }
            | Self::WriteStatus { .. } => None,
        }
    }
}

fn scaled(replica_set: &str, from: i32, to: i32) -> Option<Note> {
    let direction = if to > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {replica_set} from {from} to {to}");
    (from != to).then_some(Note { reason: "ScalingReplicaSet", message })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopt { replica_set, .. } => write!(f, "adopt ReplicaSet {}", replica_set.name),
            Self::Release { replica_set, .. } => write!(f, "release ReplicaSet {}", replica_set.name),
            Self::RecordRevision { deployment, revision } => {
                write!(f, "record revision {revision} on Deployment {}", deployment.name)
            }
            Self::UpdateReplicaSet { replica_set, annotations, min_ready_seconds } => {
                let list: Vec<_> = annotations.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let list = list.join(", ");
                write!(f, "update ReplicaSet {}: minReadySeconds={min_ready_seconds}, {list}", replica_set.name)
            }
            Self::CreateReplicaSet(it) => {
                let name = it.metadata.name.as_deref().unwrap_or_default();
                let size = it.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                let revision = owners::annotation(&it.metadata, REVISION).unwrap_or_default();
                write!(f, "create ReplicaSet {name} of size {size} as revision {revision}")
            }
            Self::ScaleReplicaSet { replica_set, from, to, desired_replicas, max_replicas } => write!(
                f,
                "scale ReplicaSet {} from {from} to {to} (of {desired_replicas}, at most {max_replicas})",
                replica_set.name
            ),
            Self::DeleteReplicaSet { replica_set } => write!(f, "delete ReplicaSet {}", replica_set.name),
            Self::WriteStatus { status, .. } => write_status(f, status),
        }
    }
}

fn write_status(f: &mut fmt::Formatter<'_>, status: &DeploymentStatus) -> fmt::Result {
    let count = |count: Option<i32>| count.unwrap_or(0);
    write!(
        f,
        "write status: {} replicas, {} updated, {} ready, {} available",
        count(status.replicas),
        count(status.updated_replicas),
        count(status.ready_replicas),
        count(status.available_replicas),
    )?;
    for condition in status.conditions.iter().flatten() {
        let reason = condition.reason.as_deref().unwrap_or_default();
        write!(f, "; {}={} {reason}", condition.type_, condition.status)?;
    }
    Ok(())
}
