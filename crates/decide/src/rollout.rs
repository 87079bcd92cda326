//! What does a rolling update do next? A Deployment's whole life: claiming ReplicaSets, revisions, rolling, scaling,
//! pausing, undoing, status. Only sizes of ReplicaSets are decided here; which pods make them up is `replicas`.

mod claim;
mod history;
mod new_replica_set;
mod progress;
mod proportional;
mod recreate;
mod revision;
mod rolling;
mod situation;
mod status;
mod step;
mod waiting;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::Decision;
use situation::{Mode, Situation};

pub use rolling::{Limits, floor};
pub use step::{Note, Step};
pub use waiting::WaitingOn;

/// A Deployment and everything of its namespace that matters to it. It may be old by the time a step is applied: each
/// step names the resourceVersion it was decided on, so that it is then refused and decided anew.
#[derive(Clone, Debug)]
pub struct Rollout {
    pub deployment: Deployment,
    /// All ReplicaSets of the namespace.
    pub replica_sets: Vec<ReplicaSet>,
    /// All pods of the namespace.
    pub pods: Vec<Pod>,
    /// All Services of the namespace.
    pub services: Vec<Service>,
}

/// What the rollout does next: the first move of the list that has anything to do, and the status. Then the world is
/// looked at anew, so that no step builds on one that may not have happened.
#[must_use]
pub fn next_steps(rollout: &Rollout, now: Timestamp) -> Decision<Step, WaitingOn> {
    let seen = Situation::of(rollout, now);
    let moves: &[Move] = match seen.mode {
        Mode::Deleted => &[],
        Mode::Paused => {
            &[claim::adopt_and_release, revision::record, proportional::scale, history::delete_beyond_limit]
        }
        Mode::RollingUpdate => &[
            claim::adopt_and_release,
            revision::record,
            proportional::scale_if_resized,
            new_replica_set::create,
            rolling::scale_down_unhealthy,
            rolling::scale_up_new,
            rolling::scale_down_old,
            history::delete_beyond_limit,
        ],
        Mode::Recreate => &[
            claim::adopt_and_release,
            revision::record,
            proportional::scale_if_resized,
            recreate::scale_down_old,
            recreate::create_new,
            recreate::scale_up_new,
            history::delete_beyond_limit,
        ],
    };
    let steps = moves.iter().map(|next| next(&seen)).find(|steps| !steps.is_empty()).unwrap_or_default();
    status::concluded(&seen, steps)
}

/// One move of a rollout: its steps, or none when there is nothing to do.
type Move = fn(&Situation<'_>) -> Vec<Step>;

#[cfg(test)]
mod tests;
