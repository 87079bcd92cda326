//! How one container stands in its pod's status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::is_complete;
use super::snapshot::{
    ContainerSnapshot, Exit, ImageState, Instance, PodSnapshot, PostStart, RestartPolicy, keeps_running,
};

/// Statuses of the init containers, in the spec's order.
pub(super) fn init_statuses(pod: &PodSnapshot) -> Vec<ContainerStatus> {
    let containers = pod.init_containers();
    containers
        .map(|(container, snapshot)| {
            let mut status = container_status(pod, container, snapshot, pod.init_restart_policy(container));
            if !keeps_running(container) {
                status.ready = is_complete(&snapshot.instance);
            }
            status
        })
        .collect()
}

/// Statuses of the other containers, by name.
pub(super) fn main_statuses(pod: &PodSnapshot) -> Vec<ContainerStatus> {
    let mut statuses: Vec<ContainerStatus> = pod
        .main_containers()
        .map(|(container, snapshot)| container_status(pod, container, snapshot, pod.restart_policy()))
        .collect();
    statuses.sort_by(|one, other| one.name.cmp(&other.name));
    statuses
}

fn container_status(
    pod: &PodSnapshot,
    container: &Container,
    snapshot: &ContainerSnapshot,
    policy: RestartPolicy,
) -> ContainerStatus {
    let old = pod.last_status(&container.name);
    let waits = waiting(pod, container, snapshot, policy);
    let resources = container.resources.clone().unwrap_or_default();
    ContainerStatus {
        allocated_resources: resources.requests.clone().filter(|requests| !requests.is_empty()),
        container_id: container_id(snapshot).or_else(|| old.and_then(|old| old.container_id.clone())),
        image: container.image.clone().unwrap_or_default(),
        image_id: image_id(snapshot).or_else(|| old.map(|old| old.image_id.clone())).unwrap_or_default(),
        last_state: Some(last_state(old, snapshot, waits.as_ref())),
        name: container.name.clone(),
        ready: snapshot.is_ready(),
        resources: Some(resources),
        restart_count: attempt(snapshot).unwrap_or_else(|| old.map_or(0, |old| old.restart_count)),
        started: Some(snapshot.is_started()),
        state: Some(waits.unwrap_or_else(|| state(snapshot))),
        ..ContainerStatus::default()
    }
}

fn state(snapshot: &ContainerSnapshot) -> ContainerState {
    match &snapshot.instance {
        Instance::Running(running) => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(running.started_at)) }),
            ..ContainerState::default()
        },
        Instance::Exited(exit) | Instance::Earlier(exit) => ended(exit),
        Instance::None => ContainerState::default(),
    }
}

fn ended(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(exit.container_id.clone()).filter(|id| !id.is_empty()),
            exit_code: exit.code,
            finished_at: exit.finished_at.map(Time),
            message: exit.message.clone(),
            reason: Some(exit.reason.word().to_owned()).filter(|word| !word.is_empty()),
            signal: None,
            started_at: exit.started_at.map(Time),
        }),
        ..ContainerState::default()
    }
}

/// The state of a container that neither runs nor shows how it ended.
fn waiting(
    pod: &PodSnapshot,
    container: &Container,
    snapshot: &ContainerSnapshot,
    policy: RestartPolicy,
) -> Option<ContainerState> {
    let rests = match &snapshot.instance {
        Instance::Running(_) if snapshot.post_start == PostStart::Running && pod.stop.is_none() => {
            return Some(being_created(pod));
        }
        Instance::Running(_) => return None,
        Instance::None => false,
        Instance::Exited(exit) | Instance::Earlier(exit) => !policy.restarts_after(exit),
    };
    if rests || (pod.stop.is_some() && snapshot.instance != Instance::None) {
        return None;
    }
    let (reason, message) = match (&snapshot.image, &snapshot.failure) {
        (ImageState::Failed(waiting) | ImageState::BackingOff(waiting), _) => {
            (waiting.reason(), Some(waiting.message()))
        }
        (ImageState::Pulling, _) => return still_waiting(pod, container).or_else(|| not_yet_created(pod, snapshot)),
        (ImageState::Unasked | ImageState::Present, Some(failure)) => {
            (failure.reason.word(), Some(failure.message.clone()))
        }
        (ImageState::Unasked | ImageState::Present, None) => match snapshot.backing_off_until {
            Some(until) => ("CrashLoopBackOff", Some(back_off_message(pod, container, snapshot, until))),
            None => return not_yet_created(pod, snapshot),
        },
    };
    Some(waiting_for(reason, message))
}

/// A pull that is tried again shows why the last one failed.
fn still_waiting(pod: &PodSnapshot, container: &Container) -> Option<ContainerState> {
    let state = pod.last_status(&container.name)?.state.clone()?;
    let reason = state.waiting.as_ref()?.reason.as_deref()?;
    matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "CrashLoopBackOff").then_some(state)
}

fn not_yet_created(pod: &PodSnapshot, snapshot: &ContainerSnapshot) -> Option<ContainerState> {
    if snapshot.instance != Instance::None {
        return None;
    }
    Some(being_created(pod))
}

fn being_created(pod: &PodSnapshot) -> ContainerState {
    let reason = if pod.init_containers().next().is_some() { "PodInitializing" } else { "ContainerCreating" };
    waiting_for(reason, None)
}

fn waiting_for(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { message, reason: Some(reason.to_owned()) }),
        ..ContainerState::default()
    }
}

fn back_off_message(
    pod: &PodSnapshot,
    container: &Container,
    snapshot: &ContainerSnapshot,
    until: Timestamp,
) -> String {
    let wait = snapshot.ended_at.map_or(0, |ended_at| until.duration_since(ended_at).as_secs());
    let wait = if wait < 60 { format!("{wait}s") } else { format!("{}m{}s", wait / 60, wait % 60) };
    format!("back-off {wait} restarting failed container={} pod={}", container.name, full_name(pod))
}

fn full_name(pod: &PodSnapshot) -> String {
    let metadata = &pod.pod.metadata;
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}_{}({})", part(&metadata.name), part(&metadata.namespace), part(&metadata.uid))
}

/// How the run before the shown one ended.
fn last_state(
    old: Option<&ContainerStatus>,
    snapshot: &ContainerSnapshot,
    waits: Option<&ContainerState>,
) -> ContainerState {
    if let (Some(_), Some(exit)) = (waits, snapshot.instance.exit()) {
        return ended(exit);
    }
    let shown = container_id(snapshot);
    let states = old.into_iter().flat_map(|old| [&old.state, &old.last_state]).flatten();
    let mut endings = states.filter_map(|state| state.terminated.as_ref());
    let before = endings.find(|terminated| terminated.container_id != shown);
    ContainerState { terminated: before.cloned(), ..ContainerState::default() }
}

fn container_id(snapshot: &ContainerSnapshot) -> Option<String> {
    match &snapshot.instance {
        Instance::Running(running) => Some(running.container_id.clone()),
        Instance::Exited(exit) | Instance::Earlier(exit) => Some(exit.container_id.clone()).filter(|id| !id.is_empty()),
        Instance::None => None,
    }
}

fn image_id(snapshot: &ContainerSnapshot) -> Option<String> {
    match &snapshot.instance {
        Instance::Running(running) => Some(running.image_id.clone()),
        Instance::Exited(exit) | Instance::Earlier(exit) => Some(exit.image_id.clone()),
        Instance::None => None,
    }
}

fn attempt(snapshot: &ContainerSnapshot) -> Option<i32> {
    match &snapshot.instance {
        Instance::Running(running) => Some(running.attempt),
        Instance::Exited(exit) | Instance::Earlier(exit) => Some(exit.attempt),
        Instance::None => None,
    }
}
