//! The controllers as they run in the engine: each looks, holds the steps of its decision, and applies them one by one,
//! while anything may happen between any two of them. One ReplicaSet is looked at at a time.

use std::collections::VecDeque;
use std::fmt;

use decide::{replicas, rollout};
use jiff::Timestamp;

use crate::world::{Refused, World};

/// A step that a controller wants to apply, or has applied.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    Rollout(rollout::Step),
    Replicas { replica_set: String, step: replicas::Step },
}

/// What the controllers are about to do. An engine that dies loses all of it.
#[derive(Clone, Debug, Default)]
pub struct Controllers {
    rollout: VecDeque<Applied>,
    replicas: VecDeque<Applied>,
    /// What the rollout waited for at its last look.
    pub waiting_on: Vec<rollout::WaitingOn>,
    rollout_looks_at: Option<Timestamp>,
    replicas_look_at: Option<Timestamp>,
}

impl Controllers {
    /// Looks at the Deployment, unless steps of an earlier look are left.
    pub fn look_at_deployment(&mut self, world: &World) {
        if self.rollout.is_empty() {
            let decision = rollout::next_steps(&world.rollout(), world.now);
            self.rollout = decision.steps.into_iter().map(Applied::Rollout).collect();
            self.waiting_on = decision.waiting_on;
            self.rollout_looks_at = decision.look_again_at;
        }
    }

    /// Looks at a ReplicaSet, unless steps of an earlier look at any are left.
    pub fn look_at_replica_set(&mut self, world: &World, name: &str) {
        let Some(snapshot) = world.replicas(name).filter(|_| self.replicas.is_empty()) else { return };
        let decision = replicas::next_steps(&snapshot, world.now);
        let applied = |step| Applied::Replicas { replica_set: name.to_owned(), step };
        self.replicas = decision.steps.into_iter().map(applied).collect();
        self.replicas_look_at = decision.look_again_at.into_iter().chain(self.replicas_look_at).min();
    }

    /// The steps that are held of ReplicaSets.
    pub fn held_of_replica_sets(&self) -> impl Iterator<Item = &Applied> {
        self.replicas.iter()
    }

    /// Whether no decision is half applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.rollout.is_empty() && self.replicas.is_empty()
    }

    /// Takes the Deployment's next step.
    pub fn take_rollout_step(&mut self) -> Option<Applied> {
        self.rollout.pop_front()
    }

    /// Takes the ReplicaSets' next step.
    pub fn take_replicas_step(&mut self) -> Option<Applied> {
        self.replicas.pop_front()
    }

    /// Forgets the rest of a decision after a step of it was refused: a fresh look follows.
    pub fn forget_rest_of(&mut self, step: &Applied) {
        match step {
            Applied::Rollout(_) => self.rollout.clear(),
            Applied::Replicas { .. } => self.replicas.clear(),
        }
    }

    /// The engine is killed.
    pub fn die(&mut self) {
        *self = Self::default();
    }

    /// When a decision said that it may change without an event; asking forgets the past ones.
    pub fn next_look(&mut self, now: Timestamp) -> Option<Timestamp> {
        let future = |time: &mut Option<Timestamp>| *time = time.filter(|time| *time > now);
        future(&mut self.rollout_looks_at);
        future(&mut self.replicas_look_at);
        self.rollout_looks_at.into_iter().chain(self.replicas_look_at).min()
    }
}

impl Applied {
    /// Applies it to the world.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn apply(&self, world: &mut World) -> Result<(), Refused> {
        match self {
            Self::Rollout(step) => world.apply_rollout(step),
            Self::Replicas { step, .. } => world.apply_replicas(step),
        }
    }

    /// Whether the API can tell that it was applied before. A created pod has a new name each time, and a ReplicaSet's
    /// name is free again once it was deleted; only the controller that created them would do it again, and that one
    /// looks first.
    #[must_use]
    pub fn is_guarded(&self, world: &World) -> bool {
        match self {
            Self::Rollout(rollout::Step::CreateReplicaSet(it)) => {
                it.metadata.name.as_ref().is_some_and(|name| world.replica_sets.contains_key(name))
            }
            Self::Rollout(_) => true,
            Self::Replicas { step, .. } => !matches!(step, replicas::Step::CreatePod(_)),
        }
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollout(step) => write!(f, "Deployment web: {step}"),
            Self::Replicas { replica_set, step } => write!(f, "ReplicaSet {replica_set}: {step}"),
        }
    }
}
