//! What a node can do for a pod, and every reason for not doing anything, with the sentence that users read.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::Decision;
use crate::probes::ProbeKind;

/// One thing to do. Applied twice it does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodStep {
    PrepareVolumes,
    /// Clears what an earlier sandbox left, and makes namespaces and network anew.
    CreateSandbox,
    /// Asks for the image as the container's pull policy says.
    PullImage {
        container: String,
    },
    /// Notes that the next pull waits.
    BackOffPull {
        container: String,
    },
    StartContainer {
        container: String,
        attempt: i32,
    },
    /// Notes that the next start waits.
    BackOffRestart {
        container: String,
        until: Timestamp,
    },
    /// preStop, then the stop signal; what runs on after `grace` is killed.
    StopContainer {
        container: String,
        reason: StopReason,
        grace: SignedDuration,
    },
    KillContainer {
        container: String,
    },
    /// Ends every process of the pod and takes its network away.
    RemoveSandbox,
    /// Removes what no finished pod needs: volumes, and what its containers wrote. Its logs stay.
    RemoveData,
    /// Removes all that the pod has on disk: volumes, logs, what its containers wrote.
    RemoveFiles,
    /// Deletes the object, if it still is this pod's.
    DeleteObject,
    /// Nothing of the pod is left on this machine.
    Forget,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    PodDeleted,
    EngineGoesDown,
    DeadlineExceeded,
    Evicted,
    PodFinished,
    ProbeFailed(ProbeKind),
    PostStartFailed,
}

/// Why a pod is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// Nothing: it runs as declared.
    NothingItRuns,
    /// It ended for good and stays until it is deleted.
    Deletion,
    /// Nothing of it is left here, but others hold its object back.
    Finalizers,
    /// It may not be signalled yet, for this reason.
    Drain(String),
    Volumes,
    SandboxRetry,
    NetworkPolicies,
    Pull {
        container: String,
    },
    PullBackOff {
        container: String,
    },
    InitContainer {
        container: String,
    },
    PostStart {
        container: String,
    },
    CreateRetry {
        container: String,
    },
    RestartBackOff {
        container: String,
    },
    /// It was told to stop.
    Exit {
        container: String,
    },
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingItRuns => write!(f, "the pod runs as declared"),
            Self::Deletion => write!(f, "the pod has finished and stays until it is deleted"),
            Self::Finalizers => write!(f, "the pod's object stays until others have removed its finalizers"),
            Self::Drain(reason) => write!(f, "the pod may not be stopped yet: {reason}"),
            Self::Volumes => write!(f, "a volume could not be prepared and is tried again"),
            Self::SandboxRetry => write!(f, "the pod's sandbox could not be created and is tried again"),
            Self::NetworkPolicies => {
                write!(f, "the data plane has not put the NetworkPolicies in force for the pod yet")
            }
            Self::Pull { container } => write!(f, "the image of container {container} is being pulled"),
            Self::PullBackOff { container } => {
                write!(f, "the image of container {container} could not be pulled and is tried again")
            }
            Self::InitContainer { container } => write!(f, "init container {container} has not completed"),
            Self::PostStart { container } => write!(f, "the postStart hook of container {container} has not ended"),
            Self::CreateRetry { container } => {
                write!(f, "container {container} could not be created and is tried again")
            }
            Self::RestartBackOff { container } => {
                write!(f, "container {container} keeps ending, so its restart waits")
            }
            Self::Exit { container } => write!(f, "container {container} was told to stop and has not ended"),
        }
    }
}

/// A decision while it is being made.
pub(super) type Plan = Decision<PodStep, WaitingOn>;

impl Plan {
    pub(super) fn nothing() -> Self {
        Self { steps: Vec::new(), waiting_on: Vec::new(), look_again_at: None }
    }

    pub(super) fn step(&mut self, step: PodStep) {
        self.steps.push(step);
    }

    pub(super) fn wait(&mut self, waiting_on: WaitingOn) {
        self.waiting_on.push(waiting_on);
    }

    pub(super) fn wait_until(&mut self, time: Timestamp, waiting_on: WaitingOn) {
        self.look_again(time);
        self.wait(waiting_on);
    }

    pub(super) fn look_again(&mut self, time: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(time, |earlier| earlier.min(time)));
    }
}
