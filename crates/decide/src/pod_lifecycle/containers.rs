//! What does a pod that is to run need next: volumes, sandbox, init containers one by one, then all others.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use super::PodSnapshot;
use super::back_off::later;
use super::snapshot::{
    ContainerSnapshot, ImageState, Instance, Kill, NetworkPolicies, PostStart, RestartPolicy, Sandbox, Volumes,
    keeps_running,
};
use super::steps::{Plan, PodStep, StopReason, WaitingOn};
use crate::images::ImageWaiting;
use crate::probes::ProbeKind;

/// A failed pull is shown as such for this long before its back-off is: long enough to be seen by who looks.
const PULL_FAILURE_SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// How often it is asked whether there still are policies to wait for.
const POLICIES_ASKED: SignedDuration = SignedDuration::from_secs(1);

/// Brings the pod closer to all its containers running.
pub(super) fn run(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) {
    if !has_volumes(pod, now, plan)
        || !has_sandbox(pod, now, plan)
        || !is_guarded(pod, now, plan)
        || !is_initialised(pod, now, plan)
    {
        return;
    }
    let mut hook_before = false;
    for (container, snapshot) in pod.main_containers() {
        if hook_before && snapshot.instance == Instance::None {
            continue;
        }
        keep_running(pod, container, snapshot, pod.restart_policy(), now, plan);
        if snapshot.post_start == PostStart::Running {
            hook_before = true;
            plan.wait(WaitingOn::PostStart { container: container.name.clone() });
        }
    }
    if plan.steps.is_empty() && plan.waiting_on.is_empty() {
        plan.wait(WaitingOn::NothingItRuns);
    }
}

/// Whether the pod's containers have all ended and none is started again.
pub(super) fn all_ended_for_good(pod: &PodSnapshot) -> bool {
    let policy = pod.restart_policy();
    init_failed_for_good(pod) || {
        let mut exits = pod.main_containers().map(|(_, snapshot)| snapshot.instance.exit());
        exits.all(|exit| exit.is_some_and(|exit| !policy.restarts_after(exit)))
    }
}

fn init_failed_for_good(pod: &PodSnapshot) -> bool {
    pod.restart_policy() == RestartPolicy::Never
        && pod.init_containers().any(|(container, snapshot)| {
            !keeps_running(container) && snapshot.instance.exit().is_some_and(|exit| exit.code != 0)
        })
}

fn has_volumes(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) -> bool {
    match &pod.volumes {
        Volumes::Ready => return true,
        // Containers run on with what there was.
        Volumes::Stale { refresh_at } if now < *refresh_at => {
            plan.look_again(*refresh_at);
            return true;
        }
        Volumes::Stale { .. } => {
            plan.step(PodStep::PrepareVolumes);
            return true;
        }
        Volumes::Failed { retry_at } if now < *retry_at => plan.wait_until(*retry_at, WaitingOn::Volumes),
        Volumes::Failed { .. } | Volumes::Unprepared => plan.step(PodStep::PrepareVolumes),
    }
    false
}

fn has_sandbox(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) -> bool {
    match &pod.sandbox {
        Sandbox::Ready { .. } => return true,
        Sandbox::Failed { retry_at } if now < *retry_at => plan.wait_until(*retry_at, WaitingOn::SandboxRetry),
        Sandbox::Failed { .. } | Sandbox::Absent => plan.step(PodStep::CreateSandbox),
    }
    false
}

/// No container runs before every NetworkPolicy about the pod holds.
fn is_guarded(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) -> bool {
    match pod.network_policies {
        NetworkPolicies::InForce => return true,
        // The last policy may go meanwhile, and nothing says so to the pod.
        NetworkPolicies::Awaited => plan.wait_until(later(now, POLICIES_ASKED), WaitingOn::NetworkPolicies),
    }
    false
}

fn is_initialised(pod: &PodSnapshot, now: Timestamp, plan: &mut Plan) -> bool {
    let main_started = pod
        .main_containers()
        .any(|(_, snapshot)| matches!(snapshot.instance, Instance::Running(_) | Instance::Exited(_)));
    for (container, snapshot) in pod.init_containers() {
        if keeps_running(container) {
            keep_running(pod, container, snapshot, RestartPolicy::Always, now, plan);
            if !snapshot.is_started() && !main_started {
                plan.wait(WaitingOn::InitContainer { container: container.name.clone() });
                return false;
            }
        } else if !main_started && !is_complete(&snapshot.instance) {
            keep_running(pod, container, snapshot, pod.init_restart_policy(container), now, plan);
            plan.wait(WaitingOn::InitContainer { container: container.name.clone() });
            return false;
        }
    }
    true
}

/// What it did counts only in the sandbox in which it was done.
pub(super) fn is_complete(init_container: &Instance) -> bool {
    match init_container {
        Instance::Exited(exit) => exit.code == 0,
        Instance::None | Instance::Running(_) | Instance::Earlier(_) => false,
    }
}

fn keep_running(
    pod: &PodSnapshot,
    container: &Container,
    snapshot: &ContainerSnapshot,
    policy: RestartPolicy,
    now: Timestamp,
    plan: &mut Plan,
) {
    match &snapshot.instance {
        Instance::Running(_) => restart_the_unhealthy(pod, container, snapshot, now, plan),
        Instance::None => start(container, snapshot, next_attempt(pod, container), now, plan),
        Instance::Earlier(exit) if is_rerun(pod, container) || policy.restarts_after(exit) => {
            start(container, snapshot, exit.attempt + 1, now, plan);
        }
        Instance::Exited(exit) if policy.restarts_after(exit) => {
            restart(container, snapshot, exit.attempt + 1, now, plan);
        }
        Instance::Earlier(_) | Instance::Exited(_) => {}
    }
}

/// Init containers run again in every new sandbox.
fn is_rerun(pod: &PodSnapshot, container: &Container) -> bool {
    pod.init_containers().any(|(init, _)| init.name == container.name)
}

fn next_attempt(pod: &PodSnapshot, container: &Container) -> i32 {
    pod.last_status(&container.name).map_or(0, |status| status.restart_count)
}

fn restart_the_unhealthy(
    pod: &PodSnapshot,
    container: &Container,
    snapshot: &ContainerSnapshot,
    now: Timestamp,
    plan: &mut Plan,
) {
    if snapshot.stopping.is_some() {
        kill_when_overdue(container, snapshot, now, plan);
    } else if snapshot.post_start == PostStart::Failed {
        plan.step(PodStep::StopContainer {
            container: container.name.clone(),
            reason: StopReason::PostStartFailed,
            grace: objects::pods::grace_period(&pod.pod),
        });
    } else if let Some(kind) = snapshot.failed_probe() {
        plan.step(PodStep::StopContainer {
            container: container.name.clone(),
            reason: StopReason::ProbeFailed(kind),
            grace: grace_of_probe(pod, container, kind),
        });
    }
}

fn grace_of_probe(pod: &PodSnapshot, container: &Container, kind: ProbeKind) -> SignedDuration {
    let probe: Option<&Probe> = match kind {
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Startup => container.startup_probe.as_ref(),
    };
    let of_probe = probe.and_then(|probe| probe.termination_grace_period_seconds).map(SignedDuration::from_secs);
    of_probe.unwrap_or_else(|| objects::pods::grace_period(&pod.pod))
}

/// Kills a container that was told to stop and still runs after its grace period.
pub(super) fn kill_when_overdue(container: &Container, snapshot: &ContainerSnapshot, now: Timestamp, plan: &mut Plan) {
    let Some(stopping) = snapshot.stopping else { return };
    let name = container.name.clone();
    match stopping.kill {
        Kill::NotYet if stopping.deadline <= now => plan.step(PodStep::KillContainer { container: name }),
        Kill::NotYet => plan.wait_until(stopping.deadline, WaitingOn::Exit { container: name }),
        Kill::Sent => plan.wait(WaitingOn::Exit { container: name }),
    }
}

fn restart(container: &Container, snapshot: &ContainerSnapshot, attempt: i32, now: Timestamp, plan: &mut Plan) {
    let name = container.name.clone();
    let retry_at = snapshot.restarts.retry_at(snapshot.ended_at.unwrap_or(now));
    match snapshot.backing_off_until {
        Some(until) if now < until => plan.wait_until(until, WaitingOn::RestartBackOff { container: name }),
        None if now < retry_at => plan.step(PodStep::BackOffRestart { container: name, until: retry_at }),
        Some(_) | None => start(container, snapshot, attempt, now, plan),
    }
}

fn start(container: &Container, snapshot: &ContainerSnapshot, attempt: i32, now: Timestamp, plan: &mut Plan) {
    let name = || container.name.clone();
    match &snapshot.image {
        ImageState::Unasked => plan.step(PodStep::PullImage { container: name() }),
        ImageState::Pulling => plan.wait(WaitingOn::Pull { container: name() }),
        ImageState::Failed(waiting) => show_failure(container, snapshot, waiting, now, plan),
        ImageState::BackingOff(_) => pull_again(container, snapshot, now, plan),
        ImageState::Present => match &snapshot.failure {
            Some(failure) if now < failure.retry_at => {
                plan.wait_until(failure.retry_at, WaitingOn::CreateRetry { container: name() });
            }
            Some(_) | None => plan.step(PodStep::StartContainer { container: name(), attempt }),
        },
    }
}

fn show_failure(
    container: &Container,
    snapshot: &ContainerSnapshot,
    waiting: &ImageWaiting,
    now: Timestamp,
    plan: &mut Plan,
) {
    match waiting {
        ImageWaiting::ErrImagePull { .. } => {
            let failed_at = snapshot.failed_pull.map_or(now, |failed| failed.at);
            let shown_until = later(failed_at, PULL_FAILURE_SHOWN);
            if now < shown_until {
                plan.wait_until(shown_until, WaitingOn::PullBackOff { container: container.name.clone() });
            } else {
                plan.step(PodStep::BackOffPull { container: container.name.clone() });
            }
        }
        ImageWaiting::ImagePullBackOff { .. }
        | ImageWaiting::ErrImageNeverPull { .. }
        | ImageWaiting::InvalidImageName { .. } => pull_again(container, snapshot, now, plan),
    }
}

fn pull_again(container: &Container, snapshot: &ContainerSnapshot, now: Timestamp, plan: &mut Plan) {
    let container = container.name.clone();
    match snapshot.failed_pull {
        Some(failed) if now < failed.retry_at() => {
            plan.wait_until(failed.retry_at(), WaitingOn::PullBackOff { container });
        }
        Some(_) | None => plan.step(PodStep::PullImage { container }),
    }
}
