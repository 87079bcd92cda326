//! What does a pod's status say? Everything in it is caused by what the node saw; what others write is kept.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::conditions;
use super::container_status::{init_statuses, main_statuses};
use super::snapshot::{PodSnapshot, Sandbox, Stop, keeps_running};
use super::{is_over, nodes_end};

/// The status that the pod is to have. `now` is the time that users are shown.
#[must_use]
pub fn status(pod: &PodSnapshot, now: Timestamp) -> PodStatus {
    let old = pod.pod.status.clone().unwrap_or_default();
    if objects::pods::is_finished(&pod.pod) {
        return old;
    }
    let (init, main) = (init_statuses(pod), main_statuses(pod));
    let phase = phase(pod, &init, &main);
    let (reason, message) = reason(pod, &old);
    let ip = pod_ip(pod, &old);
    PodStatus {
        conditions: Some(conditions(pod, &phase, &init, &main, now)),
        container_statuses: Some(main),
        init_container_statuses: Some(init).filter(|init| !init.is_empty()),
        host_ip: Some(pod.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: pod.host_ip.clone() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        phase: Some(phase),
        reason,
        message,
        observed_generation: pod.pod.metadata.generation,
        qos_class: Some(objects::pods::qos_class(&pod.pod).to_owned()),
        resources: Some(old.resources.clone().unwrap_or_default()),
        start_time: Some(old.start_time.clone().unwrap_or(Time(now))),
        ..old
    }
}

fn reason(pod: &PodSnapshot, old: &PodStatus) -> (Option<String>, Option<String>) {
    match nodes_end(pod) {
        Some(end) => (Some(end.reason.word().to_owned()), Some(end.message)),
        None => (old.reason.clone(), old.message.clone()),
    }
}

/// The address of a pod that comes to its end stays as what it was.
fn pod_ip(pod: &PodSnapshot, old: &PodStatus) -> Option<String> {
    match &pod.sandbox {
        Sandbox::Ready { ip } => Some(ip.clone()),
        Sandbox::Absent | Sandbox::Failed { .. } if pod.stop.is_some() || is_over(pod) => old.pod_ip.clone(),
        Sandbox::Absent | Sandbox::Failed { .. } => None,
    }
}

/// A pod is Succeeded or Failed only once nothing of it can run any more.
fn phase(pod: &PodSnapshot, init: &[ContainerStatus], main: &[ContainerStatus]) -> String {
    let old = pod.pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    match phase_of_containers(pod, init, main) {
        "Succeeded" | "Failed" if pod.sandbox != Sandbox::Absent => old.to_owned(),
        phase => phase.to_owned(),
    }
}

fn phase_of_containers(pod: &PodSnapshot, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let count = |state: fn(&ContainerStatus) -> bool| main.iter().filter(|status| state(status)).count();
    let (running, stopped) = (count(is_running), count(has_ended));
    let ends = matches!(pod.stop, Some(Stop::Deleted { .. })) && pod.sandbox == Sandbox::Absent;
    if nodes_end(pod).is_some() {
        return "Failed";
    }
    if running == 0 && !is_initialised(pod, init) && !is_over(pod) && !ends {
        return "Pending";
    }
    if running == 0 && (is_over(pod) || ends) {
        let succeeded = count(has_succeeded) == main.len();
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    if running + stopped < main.len() {
        return "Pending";
    }
    "Running"
}

fn is_initialised(pod: &PodSnapshot, init: &[ContainerStatus]) -> bool {
    init.iter().all(|status| {
        let keeps_running = pod.init_containers().any(|(init, _)| init.name == status.name && keeps_running(init));
        if keeps_running { status.started == Some(true) } else { status.ready }
    })
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// A container whose restart waits counts as ended.
fn has_ended(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    let waits_again = state.is_some_and(|state| state.waiting.is_some())
        && status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    waits_again || state.is_some_and(|state| state.terminated.is_some())
}

fn has_succeeded(status: &ContainerStatus) -> bool {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
}
