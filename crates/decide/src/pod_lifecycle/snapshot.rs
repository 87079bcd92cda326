//! What the node knows of one pod at one moment. Times that a deadline is counted from are on the node's own clock,
//! which never jumps; times inside [`Running`] and [`Exit`] are shown to users and nothing is counted from them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::back_off::BackOff;
use super::steps::StopReason;
use crate::images::{FailedPull, ImageWaiting};
use crate::probes::{Answers, ProbeKind, Verdict};

/// One pod, as its node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSnapshot {
    /// The object as last read. If it is old, a step may come late; the API refuses the write that rests on it.
    pub pod: Pod,
    /// Why the pod is to stop, if it is.
    pub stop: Option<Stop>,
    /// The node's address.
    pub host_ip: String,
    /// How long ago the pod's status.startTime was; None before it is set.
    pub active_for: Option<SignedDuration>,
    /// Why the node has found that it must end the pod, if it has.
    pub nodes_end: Option<NodesEnd>,
    /// How long ago it was shown that the node evicts the pod, measured without the wall clock since it was seen.
    pub ending_for: Option<SignedDuration>,
    pub volumes: Volumes,
    pub files: Files,
    pub object: Object,
    pub sandbox: Sandbox,
    pub network_policies: NetworkPolicies,
    /// Every container of the spec, init containers too, by name.
    pub containers: BTreeMap<String, ContainerSnapshot>,
}

/// Why a pod is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its object carries a deletionTimestamp.
    Deleted {
        /// How long ago the deletion was asked for, measured without the wall clock where it was seen.
        since: SignedDuration,
    },
    /// Its object is gone.
    Vanished,
    /// The engine goes down; the object stays.
    Down {
        /// How long ago that was ordered.
        since: SignedDuration,
    },
}

/// Why a node ends a pod whose containers would run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodesEnd {
    pub reason: EndReason,
    pub message: String,
}

/// The reason in the status of such a pod, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It ran longer than its activeDeadlineSeconds.
    DeadlineExceeded,
    /// It uses more of the machine than it may, or the machine has too little left.
    Evicted,
    /// It asks for a setting of the kernel that is not its own.
    SysctlForbidden,
}

/// The pod's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volumes {
    Unprepared,
    Ready,
    /// What they show is older than what the API holds.
    Stale {
        refresh_at: Timestamp,
    },
    Failed {
        retry_at: Timestamp,
    },
}

/// What the pod has on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    Kept,
    /// Only its logs.
    Logs,
    Removed,
}

/// The pod's object, once nothing of the pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    Kept,
    /// The API has accepted the end of it.
    DeletionSent,
}

/// The pod's namespaces and network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    Absent,
    Ready { ip: String },
    Failed { retry_at: Timestamp },
}

/// Whether the pod's address may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkPolicies {
    /// There are none, or the data plane keeps to them for this pod.
    InForce,
    /// The data plane does not know the pod's address yet.
    Awaited,
}

/// One container of the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSnapshot {
    pub instance: Instance,
    /// When the node saw the instance end.
    pub ended_at: Option<Timestamp>,
    pub image: ImageState,
    /// The last failure of pulling its image, if the last pull failed.
    pub failed_pull: Option<FailedPull>,
    /// Why the last attempt to create it failed, if it did.
    pub failure: Option<Failure>,
    /// How its restarts are slowed down.
    pub restarts: BackOff,
    /// Set once it was told that the next start waits.
    pub backing_off_until: Option<Timestamp>,
    /// What its probes have shown; a probe that it doesn't have shows Success.
    pub startup: Verdict,
    pub readiness: Verdict,
    pub liveness: Verdict,
    pub post_start: PostStart,
    /// Set once it was told to stop.
    pub stopping: Option<Stopping>,
}

/// The hook that runs right after a container was started. Until it is over, the container counts as being created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostStart {
    Running,
    /// The container is to be restarted for it.
    Failed,
    /// It succeeded, or there is none, or an engine that is no more has run it.
    Over,
}

/// The last run of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum Instance {
    /// It never ran.
    None,
    Running(Running),
    /// It ended in the sandbox that there is now.
    Exited(Exit),
    /// It ended with a sandbox that is no more.
    Earlier(Exit),
}

/// A run that goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// 0 for the first run, one more for each restart.
    pub attempt: i32,
    /// `segue://…`
    pub container_id: String,
    pub image_id: String,
    pub started_at: Timestamp,
}

/// A run that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// 0 for the first run, one more for each restart.
    pub attempt: i32,
    /// `segue://…`
    pub container_id: String,
    pub image_id: String,
    pub code: i32,
    pub reason: ExitReason,
    pub message: Option<String>,
    /// None if nobody saw it.
    pub started_at: Option<Timestamp>,
    /// None if nobody saw it.
    pub finished_at: Option<Timestamp>,
}

/// Why a run ended, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    Completed,
    Error,
    OomKilled,
    /// Its command could not be started.
    StartError,
    /// Its sandbox ended and nobody saw how it ended.
    ContainerStatusUnknown,
    /// Another reason, read from a status.
    Recorded(String),
}

/// What is known of a container's image.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ImageState {
    /// The next start asks for it.
    #[default]
    Unasked,
    Pulling,
    Present,
    /// It could not be had.
    Failed(ImageWaiting),
    /// The next attempt to have it waits.
    BackingOff(ImageWaiting),
}

/// A container that could not be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: FailureReason,
    pub message: String,
    pub retry_at: Timestamp,
}

/// Why a container could not be created, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// A reference in its environment leads nowhere, or its user is not allowed.
    CreateContainerConfigError,
    CreateContainerError,
}

/// A container that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    pub reason: StopReason,
    /// When it is killed.
    pub deadline: Timestamp,
    pub kill: Kill,
}

/// Whether the deadline's SIGKILL was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    NotYet,
    Sent,
}

/// When a container is started again after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl PodSnapshot {
    pub(super) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(super) fn init_containers(&self) -> impl Iterator<Item = (&Container, &ContainerSnapshot)> {
        let init = self.spec().and_then(|spec| spec.init_containers.as_ref());
        self.with_snapshots(init.into_iter().flatten())
    }

    pub(super) fn main_containers(&self) -> impl Iterator<Item = (&Container, &ContainerSnapshot)> {
        self.with_snapshots(self.spec().into_iter().flat_map(|spec| &spec.containers))
    }

    /// Init containers first.
    pub(super) fn all_containers(&self) -> impl Iterator<Item = (&Container, &ContainerSnapshot)> {
        self.init_containers().chain(self.main_containers())
    }

    fn with_snapshots<'a>(
        &'a self,
        containers: impl Iterator<Item = &'a Container>,
    ) -> impl Iterator<Item = (&'a Container, &'a ContainerSnapshot)> {
        containers.filter_map(|container| Some((container, self.containers.get(&container.name)?)))
    }

    pub(super) fn restart_policy(&self) -> RestartPolicy {
        match self.spec().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// An init container succeeds once; where the pod's containers restart whatever happens, it restarts on failure.
    pub(super) fn init_restart_policy(&self, container: &Container) -> RestartPolicy {
        match (keeps_running(container), self.restart_policy()) {
            (true, _) => RestartPolicy::Always,
            (false, RestartPolicy::Never) => RestartPolicy::Never,
            (false, RestartPolicy::Always | RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
        }
    }

    /// How its last status calls this container.
    pub(super) fn last_status(&self, name: &str) -> Option<&ContainerStatus> {
        find_status(&self.pod, name)
    }
}

impl ContainerSnapshot {
    /// A container of which nothing but its last run is known.
    #[must_use]
    pub fn new(container: &Container, instance: Instance) -> Self {
        let before_any_answer = |kind, probe: &Option<Probe>| match probe {
            Some(_) => Answers::none_yet(kind).verdict,
            None => Verdict::Success,
        };
        Self {
            instance,
            ended_at: None,
            image: ImageState::Unasked,
            failed_pull: None,
            failure: None,
            restarts: BackOff::default(),
            backing_off_until: None,
            startup: before_any_answer(ProbeKind::Startup, &container.startup_probe),
            readiness: before_any_answer(ProbeKind::Readiness, &container.readiness_probe),
            liveness: before_any_answer(ProbeKind::Liveness, &container.liveness_probe),
            post_start: PostStart::Over,
            stopping: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.instance, Instance::Running(_))
    }

    pub(super) fn is_started(&self) -> bool {
        self.is_running() && self.post_start == PostStart::Over && self.startup == Verdict::Success
    }

    /// A container that was found dead or is about to be signalled for it gets no more work.
    pub(super) fn is_ready(&self) -> bool {
        self.is_started() && self.readiness == Verdict::Success && self.failed_probe().is_none()
    }

    /// The probe for whose failure the container is to be restarted.
    pub(super) fn failed_probe(&self) -> Option<ProbeKind> {
        if self.startup == Verdict::Failure {
            Some(ProbeKind::Startup)
        } else if self.startup == Verdict::Success && self.liveness == Verdict::Failure {
            Some(ProbeKind::Liveness)
        } else {
            None
        }
    }
}

impl Instance {
    /// The last run, as the pod's status tells it to an engine that finds no sandbox for the pod.
    #[must_use]
    pub fn from_status(status: &ContainerStatus) -> Self {
        let state = status.state.as_ref();
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let running = state.and_then(|state| state.running.as_ref());
        if let Some(running) = running {
            return Self::Earlier(unseen_exit(status, running.started_at.as_ref()));
        }
        match state.and_then(|state| state.terminated.as_ref()).or(last) {
            Some(terminated) => Self::Earlier(recorded_exit(status, terminated)),
            None => Self::None,
        }
    }

    /// The run that ended.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) | Self::Earlier(exit) => Some(exit),
            Self::None | Self::Running(_) => None,
        }
    }
}

impl ExitReason {
    /// As it stands in a status.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::ContainerStatusUnknown => "ContainerStatusUnknown",
            Self::Recorded(word) => word,
        }
    }
}

impl FailureReason {
    /// As it stands in a status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
        }
    }
}

impl EndReason {
    /// As it stands in a status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => objects::names::DEADLINE_EXCEEDED,
            Self::Evicted => "Evicted",
            Self::SysctlForbidden => "SysctlForbidden",
        }
    }

    /// The reason that stands in a status as this.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::DeadlineExceeded, Self::Evicted, Self::SysctlForbidden].into_iter().find(|reason| reason.word() == word)
    }
}

impl RestartPolicy {
    pub(super) fn restarts_after(self, exit: &Exit) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit.code != 0,
            Self::Never => false,
        }
    }
}

/// Whether an init container is one that runs as long as the pod.
pub(super) fn keeps_running(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The status of this container, init container or not.
#[must_use]
pub fn find_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten().find(|container| container.name == name)
}

fn unseen_exit(status: &ContainerStatus, started_at: Option<&Time>) -> Exit {
    Exit {
        attempt: status.restart_count,
        container_id: status.container_id.clone().unwrap_or_default(),
        image_id: status.image_id.clone(),
        code: 137,
        reason: ExitReason::ContainerStatusUnknown,
        message: Some("The container could not be located when its pod was found again".to_owned()),
        started_at: started_at.map(|time| time.0),
        finished_at: None,
    }
}

fn recorded_exit(status: &ContainerStatus, terminated: &ContainerStateTerminated) -> Exit {
    Exit {
        attempt: status.restart_count,
        container_id: terminated.container_id.clone().unwrap_or_default(),
        image_id: status.image_id.clone(),
        code: terminated.exit_code,
        reason: ExitReason::Recorded(terminated.reason.clone().unwrap_or_default()),
        message: terminated.message.clone(),
        started_at: terminated.started_at.as_ref().map(|time| time.0),
        finished_at: terminated.finished_at.as_ref().map(|time| time.0),
    }
}
