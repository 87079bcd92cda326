use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use objects::{names, pods};
use serde_json::{Value, json};

use super::*;
use crate::images::{FailedPull, ImageWaiting};
use crate::probes::{ProbeKind, Verdict};

const NOW: i64 = 10_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A pod of one container `c` in a ready sandbox, where nothing has run yet.
fn pod(spec: Value) -> PodSnapshot {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 1},
        "spec": {"containers": [{"name": "c", "image": "app:1"}], "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Pending"},
    });
    merge(&mut object["spec"], spec);
    let pod: Pod = serde_json::from_value(object).unwrap();
    let spec = pod.spec.clone().unwrap();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers: BTreeMap<String, ContainerSnapshot> =
        containers.map(|each| (each.name.clone(), ContainerSnapshot::new(each, Instance::None))).collect();
    PodSnapshot {
        pod,
        stop: None,
        host_ip: "192.0.2.1".to_owned(),
        active_for: Some(seconds(100)),
        nodes_end: None,
        ending_for: None,
        volumes: Volumes::Ready,
        files: Files::Kept,
        object: Object::Kept,
        sandbox: Sandbox::Ready { ip: "10.44.0.2".to_owned() },
        network_policies: NetworkPolicies::InForce,
        containers,
    }
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

impl PodSnapshot {
    fn with(mut self, container: &str, change: impl FnOnce(&mut ContainerSnapshot)) -> Self {
        change(self.containers.get_mut(container).unwrap());
        self
    }

    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The container runs, and its status says so.
    fn running(self, container: &str) -> Self {
        self.with(container, |each| each.instance = running(0)).reported()
    }

    /// The object carries the status that this snapshot causes.
    fn reported(self) -> Self {
        self.but(|pod| pod.pod.status = Some(status(pod, at(NOW))))
    }

    fn deleted(self, grace: i64, since: i64) -> Self {
        self.but(|pod| {
            pod.pod.metadata.deletion_grace_period_seconds = Some(grace);
            let ends = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW + grace));
            pod.pod.metadata.deletion_timestamp = Some(ends);
            pod.stop = Some(Stop::Deleted { since: seconds(since) });
        })
    }

    fn drained(self) -> Self {
        self.but(|pod| {
            let conditions = pod.pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions.push(serde_json::from_value(json!({"type": names::DRAINED, "status": "True"})).unwrap());
        })
    }
}

fn running(attempt: i32) -> Instance {
    Instance::Running(Running {
        attempt,
        container_id: format!("segue://{attempt}"),
        image_id: "sha256:1".to_owned(),
        started_at: at(NOW - 50),
    })
}

fn exit(attempt: i32, code: i32) -> Exit {
    Exit {
        attempt,
        container_id: format!("segue://{attempt}"),
        image_id: "sha256:1".to_owned(),
        code,
        reason: if code == 0 { ExitReason::Completed } else { ExitReason::Error },
        message: None,
        started_at: Some(at(NOW - 50)),
        finished_at: Some(at(NOW - 1)),
    }
}

fn exited(attempt: i32, code: i32) -> impl FnOnce(&mut ContainerSnapshot) {
    move |each| {
        each.instance = Instance::Exited(exit(attempt, code));
        each.ended_at = Some(at(NOW - 1));
        each.image = ImageState::Present;
    }
}

fn steps(pod: &PodSnapshot) -> Vec<PodStep> {
    next_steps(pod, at(NOW)).steps
}

fn start(container: &str, attempt: i32) -> PodStep {
    PodStep::StartContainer { container: container.to_owned(), attempt }
}

fn stop(reason: StopReason, grace: i64) -> PodStep {
    PodStep::StopContainer { container: "c".to_owned(), reason, grace: seconds(grace) }
}

fn failed_pull() -> FailedPull {
    FailedPull::after(None, at(NOW - 4))
}

#[test]
fn a_pod_is_made_from_the_ground_up() {
    let pull = || PodStep::PullImage { container: "c".to_owned() };
    let present = |each: &mut ContainerSnapshot| each.image = ImageState::Present;
    let error = || ImageWaiting::ErrImagePull { error: "no".to_owned() };
    let table = [
        ("volumes first", pod(json!({})).but(|pod| pod.volumes = Volumes::Unprepared), vec![PodStep::PrepareVolumes]),
        ("then a sandbox", pod(json!({})).but(|pod| pod.sandbox = Sandbox::Absent), vec![PodStep::CreateSandbox]),
        ("then the image", pod(json!({})), vec![pull()]),
        ("a pull takes time", pod(json!({})).with("c", |each| each.image = ImageState::Pulling), vec![]),
        ("then a container", pod(json!({})).with("c", present), vec![start("c", 0)]),
        ("which runs", pod(json!({})).running("c"), vec![]),
        (
            "a failed volume waits",
            pod(json!({})).but(|pod| pod.volumes = Volumes::Failed { retry_at: at(NOW + 1) }),
            vec![],
        ),
        (
            "and is tried again",
            pod(json!({})).but(|pod| pod.volumes = Volumes::Failed { retry_at: at(NOW) }),
            vec![PodStep::PrepareVolumes],
        ),
        (
            "a failed pull is shown, then backs off",
            pod(json!({})).with("c", |each| {
                each.image = ImageState::Failed(error());
                each.failed_pull = Some(failed_pull());
            }),
            vec![PodStep::BackOffPull { container: "c".to_owned() }],
        ),
        (
            "and is tried again after ten seconds",
            pod(json!({})).with("c", |each| {
                each.image = ImageState::BackingOff(error());
                each.failed_pull = Some(FailedPull::after(None, at(NOW - 10)));
            }),
            vec![pull()],
        ),
        (
            "what could not be created waits",
            pod(json!({})).with("c", present).with("c", |each| {
                let reason = FailureReason::CreateContainerConfigError;
                each.failure = Some(Failure { reason, message: String::new(), retry_at: at(NOW + 1) });
            }),
            vec![],
        ),
    ];
    for (what, pod, expected) in table {
        assert_eq!(steps(&pod), expected, "{what}");
    }
}

#[test]
fn nothing_to_do_has_a_reason() {
    let decision = next_steps(&pod(json!({})).running("c"), at(NOW));
    assert_eq!(decision.waiting_on, [WaitingOn::NothingItRuns]);
    let waiting = pod(json!({})).with("c", |each| each.image = ImageState::Pulling);
    let decision = next_steps(&waiting, at(NOW));
    assert_eq!(decision.waiting_on, [WaitingOn::Pull { container: "c".to_owned() }]);
    assert_eq!(decision.waiting_on[0].to_string(), "the image of container c is being pulled");
}

#[test]
fn the_restart_policy_says_what_an_end_means() {
    let table = [
        ("Always", 0, vec![start("c", 1)]),
        ("Always", 1, vec![start("c", 1)]),
        ("OnFailure", 0, vec![PodStep::RemoveSandbox]),
        ("OnFailure", 1, vec![start("c", 1)]),
        ("Never", 0, vec![PodStep::RemoveSandbox]),
        ("Never", 1, vec![PodStep::RemoveSandbox]),
    ];
    for (policy, code, expected) in table {
        let pod = pod(json!({"restartPolicy": policy})).with("c", exited(0, code));
        assert_eq!(steps(&pod), expected, "{policy} {code}");
    }
}

#[test]
fn a_container_that_keeps_ending_is_told_to_wait() {
    let crashing = pod(json!({})).with("c", exited(1, 1)).with("c", |each| {
        each.restarts = BackOff::default().attempted(at(NOW - 5));
    });
    let until = at(NOW + 9);
    assert_eq!(steps(&crashing), [PodStep::BackOffRestart { container: "c".to_owned(), until }]);
    let waiting = crashing.with("c", |each| each.backing_off_until = Some(until));
    let decision = next_steps(&waiting, at(NOW));
    assert_eq!((decision.steps, decision.look_again_at), (vec![], Some(until)));
    assert_eq!(next_steps(&waiting, until).steps, [start("c", 2)]);
}

#[test]
fn a_failed_probe_stops_the_container_and_then_kills_it() {
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 5}}]});
    let unhealthy = pod(probe).running("c").with("c", |each| each.liveness = Verdict::Failure);
    let reason = StopReason::ProbeFailed(ProbeKind::Liveness);
    assert_eq!(steps(&unhealthy), [stop(reason, 5)]);
    assert!(!pods::is_ready(&Pod { status: Some(status(&unhealthy, at(NOW))), ..Pod::default() }));
    let told = unhealthy.with("c", |each| {
        each.stopping = Some(Stopping { reason, deadline: at(NOW + 5), kill: Kill::NotYet });
    });
    assert_eq!(next_steps(&told, at(NOW)).look_again_at, Some(at(NOW + 5)));
    let kill = PodStep::KillContainer { container: "c".to_owned() };
    assert_eq!(next_steps(&told, at(NOW + 5)).steps, [kill]);
    let killed = told.with("c", |each| {
        each.stopping = Some(Stopping { reason, deadline: at(NOW), kill: Kill::Sent });
    });
    assert_eq!(steps(&killed), []);
}

#[test]
fn a_deleted_pod_drains_stops_and_goes() {
    let deleted = |since| pod(json!({})).running("c").deleted(30, since);
    let table = [
        ("work may still come", deleted(5), vec![]),
        ("drained", deleted(5).drained(), vec![stop(StopReason::PodDeleted, 30)]),
        ("the budget is over", deleted(30), vec![stop(StopReason::PodDeleted, 30)]),
        ("forced", pod(json!({})).running("c").deleted(0, 0), vec![stop(StopReason::PodDeleted, 0)]),
        ("nothing runs any more", deleted(5).with("c", exited(0, 143)), vec![PodStep::RemoveSandbox]),
        (
            "nothing is left here",
            deleted(5).with("c", exited(0, 143)).but(|pod| pod.sandbox = Sandbox::Absent),
            vec![PodStep::RemoveFiles, PodStep::DeleteObject],
        ),
        (
            "finalizers hold it",
            deleted(5).with("c", exited(0, 143)).but(|pod| {
                pod.sandbox = Sandbox::Absent;
                pod.files = Files::Removed;
                pod.object = Object::DeletionSent;
            }),
            vec![],
        ),
        (
            "the object is gone",
            pod(json!({})).running("c").but(|pod| pod.stop = Some(Stop::Vanished)),
            vec![PodStep::RemoveSandbox, PodStep::RemoveFiles, PodStep::Forget],
        ),
        ("it never ran", pod(json!({})).deleted(30, 0), vec![PodStep::RemoveSandbox]),
    ];
    for (what, pod, expected) in table {
        assert_eq!(steps(&pod), expected, "{what}");
    }
    let waiting = next_steps(&deleted(5), at(NOW));
    assert!(matches!(waiting.waiting_on[..], [WaitingOn::Drain(_)]));
    assert_eq!(waiting.look_again_at, Some(at(NOW + 25)));
}

#[test]
fn a_pod_that_its_node_ends_drains_as_a_deleted_one_does() {
    let outlived = pod(json!({"activeDeadlineSeconds": 70})).running("c").but(|pod| pod.ending_for = Some(seconds(5)));
    let evicted = pod(json!({})).but(|pod| {
        pod.nodes_end = Some(NodesEnd { reason: EndReason::Evicted, message: "too much".to_owned() });
        pod.ending_for = Some(seconds(5));
    });
    for (pod, reason) in [(outlived, StopReason::DeadlineExceeded), (evicted.running("c"), StopReason::Evicted)] {
        assert_eq!(steps(&pod), [], "{reason:?}");
        assert_eq!(next_steps(&pod, at(NOW)).look_again_at, Some(at(NOW + 25)), "{reason:?}");
        assert_eq!(steps(&pod.clone().drained()), [stop(reason, 30)]);
        assert_eq!(steps(&pod.but(|pod| pod.ending_for = Some(seconds(30)))), [stop(reason, 30)]);
    }
}

#[test]
fn a_deadline_that_passed_long_ago_drains_from_when_it_is_seen() {
    let old = pod(json!({"activeDeadlineSeconds": 70})).running("c").but(|pod| pod.active_for = Some(seconds(3600)));
    let told = old.reported();
    assert_eq!(objects::pods::leaves_since(&told.pod), Some(at(NOW)));
    assert_eq!(steps(&told), []);
    assert_eq!(steps(&told.drained()), [stop(StopReason::DeadlineExceeded, 30)]);
}

#[test]
fn a_sysctl_is_forbidden_to_a_pod_that_starts_but_not_to_one_that_runs() {
    let asking = || pod(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}));
    assert_eq!(shown(&asking().running("c"))["phase"], "Running");
    let new = asking().but(|pod| pod.sandbox = Sandbox::Absent);
    assert_eq!(
        (shown(&new)["phase"].clone(), shown(&new)["reason"].clone()),
        (json!("Failed"), json!("SysctlForbidden"))
    );
    let recorded = new.reported().but(|pod| pod.sandbox = Sandbox::Ready { ip: "10.44.0.2".to_owned() });
    assert_eq!(steps(&recorded), [PodStep::RemoveSandbox]);
}

#[test]
fn a_chosen_grace_period_is_for_drain_and_termination_together() {
    let chosen = |seconds: &str, since| {
        let pod = pod(json!({})).running("c").deleted(seconds.parse().unwrap(), since).drained();
        pod.but(|pod| {
            let annotations = [(names::EXPLICIT_GRACE.to_owned(), seconds.to_owned())];
            pod.pod.metadata.annotations = Some(annotations.into());
        })
    };
    assert_eq!(steps(&chosen("60", 20)), [stop(StopReason::PodDeleted, 40)]);
    assert_eq!(steps(&chosen("1", 1)), [stop(StopReason::PodDeleted, 2)]);
}

#[test]
fn a_later_deletion_shortens_the_grace_period_and_nothing_else() {
    let stopping = |deadline| {
        pod(json!({})).running("c").deleted(30, 10).drained().with("c", |each| {
            let reason = StopReason::PodDeleted;
            each.stopping = Some(Stopping { reason, deadline: at(NOW + deadline), kill: Kill::NotYet });
        })
    };
    assert_eq!(steps(&stopping(30)), []);
    assert_eq!(steps(&stopping(20)), []);
    assert_eq!(steps(&stopping(60)), [stop(StopReason::PodDeleted, 30)]);
}

#[test]
fn going_down_leaves_the_object() {
    let down = |pod: PodSnapshot| pod.but(|pod| pod.stop = Some(Stop::Down { since: seconds(0) }));
    assert_eq!(steps(&down(pod(json!({})).running("c"))), [stop(StopReason::EngineGoesDown, 30)]);
    let ended = pod(json!({})).with("c", exited(0, 0));
    assert_eq!(steps(&down(ended)), [PodStep::RemoveSandbox]);
    let over = pod(json!({})).with("c", exited(0, 0)).but(|pod| pod.sandbox = Sandbox::Absent);
    assert_eq!(steps(&down(over)), [PodStep::Forget]);
}

#[test]
fn init_containers_that_keep_running_start_first_and_stop_last() {
    let spec = json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}]});
    let present = |each: &mut ContainerSnapshot| each.image = ImageState::Present;
    let fresh = pod(spec).with("side", present).with("c", present);
    assert_eq!(steps(&fresh), [start("side", 0)]);
    let side_runs = fresh.with("side", |each| each.instance = running(0));
    assert_eq!(steps(&side_runs), [start("c", 0)]);
    let both = side_runs.running("c");
    assert_eq!(steps(&both), []);
    let side_ended = both.clone().with("side", exited(0, 1));
    assert_eq!(steps(&side_ended), [start("side", 1)]);
    let deleted = both.deleted(30, 0).drained();
    assert_eq!(steps(&deleted), [stop(StopReason::PodDeleted, 30)]);
    let main_ended = deleted.with("c", exited(0, 0));
    let side =
        PodStep::StopContainer { container: "side".to_owned(), reason: StopReason::PodDeleted, grace: seconds(30) };
    assert_eq!(steps(&main_ended), [side]);
}

#[test]
fn in_a_new_sandbox_init_containers_run_again() {
    let lost = pod(json!({"initContainers": [{"name": "i"}]}))
        .with("i", |each| each.instance = Instance::Earlier(exit(0, 0)))
        .with("i", |each| each.image = ImageState::Present)
        .with("c", |each| each.instance = Instance::Earlier(exit(0, 137)));
    assert_eq!(steps(&lost), [start("i", 1)]);
}

fn shown(pod: &PodSnapshot) -> Value {
    serde_json::to_value(status(pod, at(NOW))).unwrap()
}

fn condition(status: &PodStatus, type_: &str) -> (String, Option<String>, Option<String>) {
    let found = status.conditions.iter().flatten().find(|each| each.type_ == type_).unwrap().clone();
    (found.status, found.reason, found.message)
}

#[test]
fn a_container_waits_for_the_reason_that_it_waits_for() {
    let never = || ImageWaiting::ErrImageNeverPull { image: "app:1".to_owned() };
    let backing_off = || ImageWaiting::ImagePullBackOff { image: "app:1".to_owned(), error: "no".to_owned() };
    let failure = Failure {
        reason: FailureReason::CreateContainerConfigError,
        message: "configmap \"a\" not found".to_owned(),
        retry_at: at(NOW),
    };
    let table = [
        (pod(json!({})), json!({"reason": "ContainerCreating"})),
        (pod(json!({"initContainers": [{"name": "i"}]})), json!({"reason": "PodInitializing"})),
        (
            pod(json!({})).with("c", |each| each.image = ImageState::Failed(never())),
            json!({"reason": "ErrImageNeverPull",
                "message": "Container image \"app:1\" is not present with pull policy of Never"}),
        ),
        (
            pod(json!({})).with("c", |each| each.image = ImageState::BackingOff(backing_off())),
            json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"app:1\": ErrImagePull: no"}),
        ),
        (
            pod(json!({})).with("c", |each| each.failure = Some(failure)),
            json!({"reason": "CreateContainerConfigError", "message": "configmap \"a\" not found"}),
        ),
        (
            pod(json!({})).with("c", exited(2, 1)).with("c", |each| each.backing_off_until = Some(at(NOW + 19))),
            json!({"reason": "CrashLoopBackOff",
                "message": "back-off 20s restarting failed container=c pod=web_shop(u)"}),
        ),
    ];
    for (pod, expected) in table {
        let status = shown(&pod);
        let container = &status["containerStatuses"][0];
        assert_eq!(container["state"], json!({"waiting": expected}));
        assert_eq!((&container["ready"], &container["started"]), (&json!(false), &json!(false)));
    }
}

#[test]
fn a_pull_that_is_tried_again_shows_why_the_last_one_failed() {
    let failed = ImageWaiting::ErrImagePull { error: "no".to_owned() };
    let pod = pod(json!({})).with("c", |each| each.image = ImageState::Failed(failed)).reported();
    let before = shown(&pod);
    assert_eq!(shown(&pod.with("c", |each| each.image = ImageState::Pulling)), before);
}

#[test]
fn phases_follow_from_the_containers() {
    let one_off = |code| pod(json!({"restartPolicy": "Never"})).running("c").with("c", exited(0, code));
    let torn_down = |pod: PodSnapshot| pod.but(|pod| pod.sandbox = Sandbox::Absent);
    let table = [
        ("nothing has run", pod(json!({})), "Pending"),
        ("it runs", pod(json!({})).running("c"), "Running"),
        ("it is restarted", pod(json!({})).running("c").with("c", exited(0, 1)), "Running"),
        ("its sandbox is still there", one_off(0), "Running"),
        ("it succeeded", torn_down(one_off(0)), "Succeeded"),
        ("it failed", torn_down(one_off(3)), "Failed"),
        (
            "an init container keeps failing",
            pod(json!({"initContainers": [{"name": "i"}]})).with("i", exited(0, 4)),
            "Pending",
        ),
        (
            "an init container failed for good",
            torn_down(
                pod(json!({"initContainers": [{"name": "i"}], "restartPolicy": "Never"})).with("i", exited(0, 4)),
            ),
            "Failed",
        ),
        (
            "it came back after going down",
            torn_down(pod(json!({})).running("c").with("c", |each| each.instance = Instance::Earlier(exit(0, 143)))),
            "Running",
        ),
        ("it was deleted", torn_down(pod(json!({})).running("c").deleted(30, 1).with("c", exited(0, 143))), "Failed"),
        (
            "it was active for too long",
            torn_down(pod(json!({"activeDeadlineSeconds": 100})).running("c").with("c", exited(0, 143))),
            "Failed",
        ),
    ];
    for (what, pod, expected) in table {
        assert_eq!(shown(&pod)["phase"], expected, "{what}");
    }
}

#[test]
fn a_finished_pod_says_what_it_said() {
    let over = pod(json!({"restartPolicy": "Never"})).running("c").with("c", exited(0, 0));
    let over = over.but(|pod| pod.sandbox = Sandbox::Absent).reported();
    assert_eq!(over.pod.status.as_ref().unwrap().phase.as_deref(), Some("Succeeded"));
    let later = over.clone().with("c", |each| each.instance = Instance::None);
    assert_eq!(status(&later, at(NOW + 100)), over.pod.status.clone().unwrap());
    assert_eq!(steps(&later), [PodStep::RemoveData]);
    let bare = later.but(|pod| pod.files = Files::Logs);
    assert_eq!(next_steps(&bare, at(NOW)).waiting_on, [WaitingOn::Deletion]);
    assert_eq!(steps(&bare.deleted(0, 0))[0], PodStep::RemoveFiles);
}

#[test]
fn conditions_carry_kubernetes_reasons() {
    let unready = "containers with unready status: [c]";
    let open = "containers with incomplete status: [i]";
    let none = || None::<String>;
    let some = |text: &str| Some(text.to_owned());
    let over = |code| {
        let pod = pod(json!({"restartPolicy": "Never"})).with("c", exited(0, code));
        pod.but(|pod| pod.sandbox = Sandbox::Absent)
    };
    let initialising = pod(json!({"initContainers": [{"name": "i"}]}));
    let gated = pod(json!({"readinessGates": [{"conditionType": "x/gate"}]})).running("c");
    let table = [
        (pod(json!({})), "Ready", "False", some("ContainersNotReady"), some(unready)),
        (pod(json!({})), "ContainersReady", "False", some("ContainersNotReady"), some(unready)),
        (pod(json!({})), "PodReadyToStartContainers", "True", none(), none()),
        (pod(json!({})), "Initialized", "True", none(), none()),
        (pod(json!({})).running("c"), "Ready", "True", none(), none()),
        (over(0), "Ready", "False", some("PodCompleted"), none()),
        (over(3), "ContainersReady", "False", some("PodFailed"), none()),
        (over(0), "PodReadyToStartContainers", "False", none(), none()),
        (initialising, "Initialized", "False", some("ContainersNotInitialized"), some(open)),
        (gated.clone(), "ContainersReady", "True", none(), none()),
        (
            gated,
            "Ready",
            "False",
            some("ReadinessGatesNotReady"),
            some("corresponding condition of pod readiness gate \"x/gate\" does not exist."),
        ),
    ];
    for (pod, type_, expected, reason, message) in table {
        let expected = (expected.to_owned(), reason, message);
        assert_eq!(condition(&status(&pod, at(NOW)), type_), expected, "{type_}");
    }
}

#[test]
fn no_container_runs_before_the_policies_hold_for_the_pods_address() {
    let awaited = pod(json!({})).but(|pod| pod.network_policies = NetworkPolicies::Awaited);
    let plan = next_steps(&awaited, at(NOW));
    assert_eq!((plan.steps, plan.waiting_on), (Vec::new(), vec![WaitingOn::NetworkPolicies]));
    assert_eq!(plan.look_again_at, Some(at(NOW + 1)), "the last policy may go meanwhile");
}

#[test]
fn what_was_said_of_an_address_is_not_said_of_another() {
    let told = pod(json!({})).reported().but(|pod| {
        let conditions = pod.pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions.push(serde_json::from_value(json!({"type": names::POLICIES_IN_FORCE, "status": "True"})).unwrap());
    });
    let said = |pod: PodSnapshot| pods::is_true(&pod.reported().pod, names::POLICIES_IN_FORCE);
    assert!(said(told.clone()));
    assert!(!said(told.clone().but(|pod| pod.sandbox = Sandbox::Absent)));
    assert!(!said(told.but(|pod| pod.sandbox = Sandbox::Ready { ip: "10.44.0.9".to_owned() })));
}

#[test]
fn what_others_wrote_is_kept_and_times_change_with_the_state_only() {
    let ready = pod(json!({})).running("c").but(|pod| {
        let conditions = pod.pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions.push(serde_json::from_value(json!({"type": names::ROUTED, "status": "True"})).unwrap());
        conditions.push(serde_json::from_value(json!({"type": "x/other", "status": "True"})).unwrap());
    });
    let later = status(&ready, at(NOW + 50));
    assert_eq!(Some(&later), ready.pod.status.as_ref());

    let unready = ready.with("c", |each| each.readiness = Verdict::Failure);
    let changed = Pod { status: Some(status(&unready, at(NOW + 50))), ..Pod::default() };
    assert!(pods::is_true(&changed, "x/other"));
    let routed = pods::condition(&changed, names::ROUTED).unwrap();
    assert_eq!((routed.status.as_str(), routed.reason.as_deref()), ("False", Some("NotReady")));
    let time = |type_| pods::condition(&changed, type_).unwrap().last_transition_time.clone().unwrap().0;
    assert_eq!(time("Ready"), at(NOW + 50));
    assert_eq!(time("Initialized"), at(NOW));
}

#[test]
fn the_last_state_is_the_end_before_the_shown_run() {
    let first = pod(json!({})).running("c").with("c", exited(0, 7)).reported();
    let second = first.with("c", |each| each.instance = running(1));
    let container = &shown(&second)["containerStatuses"][0];
    assert_eq!(container["restartCount"], 1);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(container["lastState"]["terminated"]["containerID"], "segue://0");

    let third = second.reported().with("c", exited(1, 8));
    let container = &shown(&third)["containerStatuses"][0];
    assert_eq!(container["state"]["terminated"]["exitCode"], 8);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);

    let waiting = third.reported().with("c", |each| each.backing_off_until = Some(at(NOW + 10)));
    let container = &shown(&waiting)["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 8);

    let fourth = waiting.reported().with("c", |each| {
        each.instance = running(2);
        each.backing_off_until = None;
    });
    let container = &shown(&fourth)["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 8);
}

#[test]
fn a_run_that_nobody_saw_end_is_told_as_such() {
    let before = pod(json!({})).running("c");
    let instance = Instance::from_status(find_status(&before.pod, "c").unwrap());
    let lost = before.with("c", |each| each.instance = instance).but(|pod| pod.sandbox = Sandbox::Absent);
    assert_eq!(steps(&lost), [PodStep::CreateSandbox]);
    let container = &shown(&lost)["containerStatuses"][0];
    assert_eq!(container["state"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(container["state"]["terminated"]["exitCode"], 137);
    assert_eq!(shown(&lost).get("podIP"), None);
}

#[test]
fn a_container_is_being_created_while_its_post_start_hook_runs() {
    let spec = json!({"containers": [{"name": "c", "image": "app:1"}, {"name": "next", "image": "app:1"}]});
    let hooked = |hook| {
        let runs = |each: &mut ContainerSnapshot| (each.instance, each.post_start) = (running(0), hook);
        pod(spec.clone()).with("c", runs).with("next", |each| each.image = ImageState::Present)
    };
    let during = hooked(PostStart::Running);
    let shown = status(&during, at(NOW)).container_statuses.unwrap();
    let waiting = shown[0].state.as_ref().unwrap().waiting.as_ref();
    assert_eq!(waiting.and_then(|waiting| waiting.reason.as_deref()), Some("ContainerCreating"));
    assert_eq!((shown[0].ready, shown[0].started), (false, Some(false)));
    let decision = next_steps(&during, at(NOW));
    assert_eq!((decision.steps, decision.waiting_on.len()), (vec![], 1), "the next container waits");

    let after = hooked(PostStart::Over);
    assert!(status(&after, at(NOW)).container_statuses.unwrap()[0].ready);
    assert_eq!(steps(&after), [start("next", 0)]);

    let failed = steps(&hooked(PostStart::Failed));
    assert_eq!(failed, [stop(StopReason::PostStartFailed, 30), start("next", 0)]);
    assert_eq!(steps(&hooked(PostStart::Running).deleted(30, 0)), [stop(StopReason::PodDeleted, 30)]);
}
