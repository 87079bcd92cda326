//! The steps of placing pods, as they are printed, compared and applied, and what unplaced pods wait for.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::pods;

use crate::target::Target;

const SCHEDULED: &str = "PodScheduled";

/// One write of the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Names the pod's node.
    Bind { pod: Target, node: String },
    /// Writes condition PodScheduled=False, and tells of it in an event.
    MarkUnschedulable { pod: Target, condition: Box<PodCondition> },
}

/// What the scheduler waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// No node takes the pod.
    Room { pod: String, message: String },
}

impl Step {
    /// The pod that it is about.
    #[must_use]
    pub fn pod(&self) -> &Target {
        match self {
            Self::Bind { pod, .. } | Self::MarkUnschedulable { pod, .. } => pod,
        }
    }

    /// None when the pod says so already.
    pub(super) fn mark_unschedulable(pod: &Pod, message: &str, now: Timestamp) -> Option<Self> {
        let told = pods::condition(pod, SCHEDULED).filter(|scheduled| scheduled.status == "False");
        if told.is_some_and(|scheduled| scheduled.message.as_deref() == Some(message)) {
            return None;
        }
        let condition = PodCondition {
            type_: SCHEDULED.to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: told.and_then(|it| it.last_transition_time.clone()).or(Some(Time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        Some(Self::MarkUnschedulable { pod: Target::of(&pod.metadata), condition: Box::new(condition) })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { pod, node } => write!(f, "bind Pod {} to Node {node}", pod.name),
            Self::MarkUnschedulable { pod, condition } => {
                let message = condition.message.as_deref().unwrap_or_default();
                write!(f, "mark Pod {} as unschedulable: {message}", pod.name)
            }
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room { pod, message } => write!(f, "Pod {pod} fits on no node: {message}"),
        }
    }
}
