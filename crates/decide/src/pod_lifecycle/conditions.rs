//! The conditions of a pod that its node writes. All others are kept as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::names;

use super::nodes_end;
use super::snapshot::{EndReason, NetworkPolicies, NodesEnd, PodSnapshot, Sandbox, keeps_running};

/// What a condition is to be.
struct Wanted {
    type_: &'static str,
    status: &'static str,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// The pod's conditions: the old ones with the node's own brought up to date.
pub(super) fn conditions(
    pod: &PodSnapshot,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let mut conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let containers_ready = containers_ready(pod, phase, init, main);
    let ready = ready(pod, &containers_ready);
    let is_ready = ready.status == "True";
    let scheduled = Wanted::plain("PodScheduled", "True");
    let wanted = [ready_to_start(pod), initialised(pod, phase, init), ready, containers_ready, scheduled];
    for wanted in wanted {
        write(&mut conditions, wanted, pod.pod.metadata.generation, now);
    }
    if !is_ready {
        take_back(&mut conditions, names::ROUTED, "NotReady", now);
    }
    if !keeps_its_address(pod) {
        take_back(&mut conditions, names::POLICIES_IN_FORCE, "NewAddress", now);
    }
    if pod.network_policies == NetworkPolicies::Awaited {
        write(&mut conditions, policies_awaited(), pod.pod.metadata.generation, now);
    }
    if let Some(end) = nodes_end(pod).and_then(going) {
        write(&mut conditions, end, pod.pod.metadata.generation, now);
    }
    conditions
}

/// Tells the data plane that the pod goes, and since when, before anything of it is signalled.
fn going(end: NodesEnd) -> Option<Wanted> {
    let (type_, reason) = match end.reason {
        EndReason::Evicted => (names::DISRUPTION_TARGET, names::TERMINATION_BY_KUBELET),
        EndReason::DeadlineExceeded => (names::OUTLIVED, names::DEADLINE_EXCEEDED),
        EndReason::SysctlForbidden => return None,
    };
    Some(Wanted { reason: Some(reason), message: Some(end.message), ..Wanted::plain(type_, "True") })
}

fn ready_to_start(pod: &PodSnapshot) -> Wanted {
    let has_sandbox = matches!(pod.sandbox, Sandbox::Ready { .. });
    Wanted::plain("PodReadyToStartContainers", if has_sandbox { "True" } else { "False" })
}

fn initialised(pod: &PodSnapshot, phase: &str, init: &[ContainerStatus]) -> Wanted {
    let is_open = |status: &&ContainerStatus| {
        let keeps_running = pod.init_containers().any(|(init, _)| init.name == status.name && keeps_running(init));
        if keeps_running { status.started != Some(true) } else { !status.ready }
    };
    let main_ran = pod.main_containers().any(|(_, snapshot)| snapshot.is_running());
    let open = names_of(init.iter().filter(is_open));
    if phase == "Succeeded" {
        Wanted { reason: Some("PodCompleted"), ..Wanted::plain("Initialized", "True") }
    } else if open.is_empty() || main_ran {
        Wanted::plain("Initialized", "True")
    } else {
        Wanted {
            type_: "Initialized",
            status: "False",
            reason: Some("ContainersNotInitialized"),
            message: Some(format!("containers with incomplete status: [{open}]")),
        }
    }
}

fn containers_ready(pod: &PodSnapshot, phase: &str, init: &[ContainerStatus], main: &[ContainerStatus]) -> Wanted {
    let kept_running = init
        .iter()
        .filter(|status| pod.init_containers().any(|(init, _)| init.name == status.name && keeps_running(init)));
    let unready = names_of(kept_running.chain(main).filter(|status| !status.ready));
    let (reason, message) = match phase {
        "Succeeded" => ("PodCompleted", None),
        "Failed" => ("PodFailed", None),
        _ if unready.is_empty() => return Wanted::plain("ContainersReady", "True"),
        _ => ("ContainersNotReady", Some(format!("containers with unready status: [{unready}]"))),
    };
    Wanted { type_: "ContainersReady", status: "False", reason: Some(reason), message }
}

fn ready(pod: &PodSnapshot, containers_ready: &Wanted) -> Wanted {
    if containers_ready.status != "True" {
        return Wanted { type_: "Ready", message: containers_ready.message.clone(), ..*containers_ready };
    }
    let gates = pod.spec().and_then(|spec| spec.readiness_gates.as_ref()).into_iter().flatten();
    let closed: Vec<String> = gates
        .filter_map(|gate| {
            let gate = &gate.condition_type;
            match objects::pods::condition(&pod.pod, gate) {
                None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        return Wanted::plain("Ready", "True");
    }
    Wanted { type_: "Ready", status: "False", reason: Some("ReadinessGatesNotReady"), message: Some(closed.join(", ")) }
}

/// Asks the data plane, which answers by making it True, and tells users what is waited for.
fn policies_awaited() -> Wanted {
    Wanted {
        type_: names::POLICIES_IN_FORCE,
        status: "False",
        reason: Some("AwaitingDataPlane"),
        message: Some("no container starts before the NetworkPolicies are in force for the pod's address".to_owned()),
    }
}

/// Whether the address that its status names is that of the sandbox that it has.
fn keeps_its_address(pod: &PodSnapshot) -> bool {
    let named = pod.pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
    matches!(&pod.sandbox, Sandbox::Ready { ip } if named == Some(ip))
}

/// What others said was about something that is no more.
fn take_back(conditions: &mut [PodCondition], type_: &str, reason: &str, now: Timestamp) {
    let said = conditions.iter_mut().find(|condition| condition.type_ == type_ && condition.status == "True");
    if let Some(said) = said {
        "False".clone_into(&mut said.status);
        said.reason = Some(reason.to_owned());
        said.message = None;
        said.last_transition_time = Some(Time(now));
    }
}

fn write(conditions: &mut Vec<PodCondition>, wanted: Wanted, generation: Option<i64>, now: Timestamp) {
    let position = conditions.iter().position(|condition| condition.type_ == wanted.type_);
    let old = position.and_then(|position| conditions.get(position));
    let since = old
        .filter(|old| old.status == wanted.status)
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or(Time(now));
    let condition = PodCondition {
        last_probe_time: None,
        last_transition_time: Some(since),
        message: wanted.message,
        observed_generation: generation,
        reason: wanted.reason.map(str::to_owned),
        status: wanted.status.to_owned(),
        type_: wanted.type_.to_owned(),
    };
    match position.and_then(|position| conditions.get_mut(position)) {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

fn names_of<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses.map(|status| status.name.as_str()).collect::<Vec<_>>().join(" ")
}

impl Wanted {
    fn plain(type_: &'static str, status: &'static str) -> Self {
        Self { type_, status, reason: None, message: None }
    }
}
