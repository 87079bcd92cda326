//! The whole loop over a fake API, fake images and a fake runtime, in virtual time.

mod api;
mod real;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use decide::node_pressure::{Least, Thresholds};
use objects::{names, pods};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::fakes::{End, FakeImages, FakeRuntime};
use super::*;
use api::FakeApi;

/// In virtual time, far longer than any back-off.
const PATIENCE: Duration = Duration::from_secs(7200);
/// Whatever the machine that runs the tests is short of.
const NEVER_SHORT: Thresholds = Thresholds { memory: Least::Bytes(0), disk: Least::Bytes(0) };

/// A machine whose agent can be stopped and started again.
struct World {
    api: FakeApi,
    runtime: FakeRuntime,
    images: FakeImages,
    directory: tempfile::TempDir,
    eviction: Thresholds,
    engine: Option<Engine>,
}

struct Engine {
    orders: watch::Sender<Order>,
    task: JoinHandle<Result<(), AgentError>>,
}

impl World {
    fn new() -> Self {
        let images = FakeImages::default();
        images.has("app:1");
        let mut world = Self {
            api: FakeApi::new(PATIENCE),
            runtime: FakeRuntime::default(),
            images,
            directory: tempfile::tempdir().unwrap(),
            eviction: NEVER_SHORT,
            engine: None,
        };
        world.start_engine();
        world
    }

    fn settings(&self) -> Settings {
        Settings {
            node_name: "box".to_owned(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            data_dir: self.directory.path().join("data"),
            run_dir: self.directory.path().join("run/default"),
            instance: "default".to_owned(),
            pod_range: "10.44.0.0/16".parse().unwrap(),
            dns: Ipv4Addr::new(10, 45, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            pod_pids_limit: 1024,
            eviction: self.eviction,
            executable: PathBuf::from("/proc/self/exe"),
        }
    }

    fn start_engine(&mut self) {
        let (orders, heard) = watch::channel(Order::Run);
        let runtime = Arc::new(self.runtime.clone());
        let images = Arc::new(self.images.clone());
        let agent = run_with(self.settings(), self.api.client(), runtime, images, heard);
        self.engine = Some(Engine { orders, task: tokio::spawn(agent) });
    }

    /// As SIGKILL does.
    async fn kill_engine(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.task.abort();
        assert!(engine.task.await.unwrap_err().is_cancelled());
    }

    async fn go_down(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.orders.send(Order::Down).unwrap();
        engine.task.await.unwrap().unwrap();
    }

    fn create_pod(&self, container: Value) {
        self.create_pod_with(json!({}), container);
    }

    fn create_pod_with(&self, spec: Value, container: Value) {
        let mut object = json!({
            "metadata": {"name": "web", "generation": 1},
            "spec": {"nodeName": "box", "terminationGracePeriodSeconds": 30, "enableServiceLinks": false,
                "containers": [{"name": "c", "image": "app:1", "command": ["/app"]}]},
        });
        merge(&mut object["spec"], spec);
        merge(&mut object["spec"]["containers"][0], container);
        self.api.create("pods", object);
    }

    async fn ready(&self) {
        self.api.until("the pod is ready", |api| pods::is_ready(&api.pod("web")?).then_some(())).await;
    }

    async fn container_state(&self, pointer: &str, expected: &str) {
        let found = |api: &FakeApi| {
            let pod = serde_json::to_value(api.pod("web")?).unwrap();
            let text = pod.pointer(&format!("/status/containerStatuses/0{pointer}"))?.to_string();
            (text.trim_matches('"') == expected).then_some(())
        };
        self.api.until(&format!("{pointer} is {expected}"), found).await;
    }

    async fn gone(&self) {
        self.api.until("the pod is gone", |api| api.pod("web").is_none().then_some(())).await;
        while !self.runtime.running().is_empty() || self.runtime.sandboxes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until the runtime was asked for this so often.
    async fn asked(&self, what: &str, times: usize) {
        let started = Instant::now();
        while self.runtime.count(what) < times {
            assert!(started.elapsed() < Duration::from_secs(3600), "never {what}: {:?}", self.runtime.asked());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn exec_probe(more: Value) -> Value {
    let mut probe = json!({"exec": {"command": ["/check"]}, "periodSeconds": 1});
    merge(&mut probe, more);
    probe
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_to_run() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    let pod = serde_json::to_value(world.api.pod("web").unwrap()).unwrap();
    let status = &pod["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.44.0.1");
    assert_eq!(status["hostIP"], "192.0.2.1");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    let types: Vec<&str> =
        status["conditions"].as_array().unwrap().iter().map(|each| each["type"].as_str().unwrap()).collect();
    for type_ in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert!(types.contains(&type_), "{type_}");
    }
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0);
    assert_eq!(container["started"], true);
    assert!(container["containerID"].as_str().unwrap().starts_with("segue://"));
    assert_eq!(world.runtime.asked(), ["create sandbox", "start c-0"]);
    world.api.until("events", |api| (!api.events("Started").is_empty()).then_some(())).await;
    assert_eq!(world.api.events("Created"), ["Created container: c"]);
    assert_eq!(
        world.api.events("Pulled"),
        ["Container image \"app:1\" already present on machine and can be accessed by the pod"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_ended_container_is_restarted_with_back_off() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    let mut waits = Vec::new();
    for restart in 1..=4 {
        world.runtime.end("c", End::Code(7));
        let ended = Instant::now();
        world.asked(&format!("start c-{restart}"), 1).await;
        waits.push(ended.elapsed().as_secs());
        world.container_state("/restartCount", &restart.to_string()).await;
    }
    assert_eq!(waits, [0, 10, 20, 40]);
    world.container_state("/lastState/terminated/exitCode", "7").await;
    world.runtime.end("c", End::Code(7));
    world.container_state("/state/waiting/reason", "CrashLoopBackOff").await;
    world
        .container_state(
            "/state/waiting/message",
            "back-off 1m20s restarting failed container=c pod=web_default(web-uid)",
        )
        .await;
    let backed_off = world.api.until("BackOff", |api| api.events("BackOff").first().cloned()).await;
    assert_eq!(backed_off, "Back-off restarting failed container c in pod web_default(web-uid)");
}

#[tokio::test(start_paused = true)]
async fn every_end_is_seen_before_the_next_start() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.runtime.end("c", End::OutOfMemory);
    world.asked("start c-1", 1).await;
    let seen = world.api.statuses("web").iter().any(|status| {
        let terminated = &status["containerStatuses"][0]["state"]["terminated"];
        terminated["reason"] == "OOMKilled" && terminated["exitCode"] == 137
    });
    assert!(seen);
}

#[tokio::test(start_paused = true)]
async fn failed_liveness_takes_the_pod_out_of_routing_before_it_is_signalled() {
    let world = World::new();
    world.create_pod(json!({"livenessProbe": exec_probe(json!({"failureThreshold": 3}))}));
    world.ready().await;
    world.api.set_condition("web", names::ROUTED, "True", "Acknowledged");
    world.runtime.ignores_stop("c");
    world.runtime.exec_answers("c", 1);
    world.asked("stop c-0", 1).await;
    let last = world.api.pod("web").unwrap();
    assert!(!pods::is_ready(&last));
    let routed = pods::condition(&last, names::ROUTED).unwrap();
    assert_eq!((routed.status.as_str(), routed.reason.as_deref()), ("False", Some("NotReady")));
    world.runtime.exec_answers("c", 0);
    world.runtime.end("c", End::Code(143));
    world.asked("start c-1", 1).await;
    world
        .api
        .until("Killing", |api| {
            (api.events("Killing") == ["Container c failed liveness probe, will be restarted"]).then_some(())
        })
        .await;
    assert_eq!(world.api.events("Unhealthy"), ["Liveness probe failed: "]);
}

#[tokio::test(start_paused = true)]
async fn a_post_start_hook_that_fails_restarts_its_container() {
    let world = World::new();
    world.runtime.exec_answers("c", 1);
    world.create_pod(json!({"lifecycle": {"postStart": {"exec": {"command": ["/hook"]}}}}));
    world.container_state("/restartCount", "1").await;
    let told = |api: &FakeApi| api.events("FailedPostStartHook").first().cloned();
    let told = world.api.until("FailedPostStartHook", told).await;
    assert_eq!(told, "PostStartHook failed: command [\"/hook\"] exited with 1: ");
    world.runtime.exec_answers("c", 0);
    world.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_that_fails_is_told_and_changes_nothing() {
    let world = World::new();
    world.create_pod(json!({"lifecycle": {"preStop": {"exec": {"command": ["/hook"]}}}}));
    world.ready().await;
    world.runtime.exec_answers("c", 1);
    world.api.delete_pod("web", 30);
    world.api.set_condition("web", names::DRAINED, "True", names::IDLE);
    world.gone().await;
    let told = |api: &FakeApi| api.events("FailedPreStopHook").first().cloned();
    assert!(world.api.until("FailedPreStopHook", told).await.contains("exited with 1"));
    world.asked("stop c-0", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_its_signal_is_killed_after_the_grace_period() {
    let world = World::new();
    world.create_pod(json!({"livenessProbe": exec_probe(json!({"failureThreshold": 1}))}));
    world.ready().await;
    world.runtime.ignores_stop("c");
    world.runtime.exec_answers("c", 1);
    world.asked("stop c-0", 1).await;
    let signalled = Instant::now();
    world.asked("kill c-0", 1).await;
    assert_eq!(signalled.elapsed().as_secs(), 30);
    assert_eq!(world.runtime.count("stop c-0"), 1);
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe() {
    let world = World::new();
    world.runtime.exec_answers("c", 1);
    world.create_pod(json!({"readinessProbe": exec_probe(json!({"failureThreshold": 2}))}));
    world.container_state("/started", "true").await;
    assert!(!pods::is_ready(&world.api.pod("web").unwrap()));
    world.runtime.exec_answers("c", 0);
    world.ready().await;
    world.runtime.exec_answers("c", 1);
    world.container_state("/ready", "false").await;
    assert_eq!(world.runtime.count("stop c-0"), 0);
}

#[tokio::test(start_paused = true)]
async fn liveness_is_not_asked_before_startup_has_succeeded() {
    let world = World::new();
    world.runtime.exec_answers("c", 1);
    let liveness = json!({"exec": {"command": ["/alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.create_pod(json!({"startupProbe": exec_probe(json!({"failureThreshold": 30})), "livenessProbe": liveness}));
    world.asked("exec c-0 /check", 10).await;
    assert_eq!(world.runtime.count("exec c-0 /alive"), 0);
    world.runtime.exec_answers("c", 0);
    world.ready().await;
    world.asked("exec c-0 /alive", 2).await;
    let checks = world.runtime.count("exec c-0 /check");
    world.asked("exec c-0 /alive", 5).await;
    assert_eq!(world.runtime.count("exec c-0 /check"), checks);
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_backs_off_until_it_is_there() {
    let world = World::new();
    world.create_pod(json!({"image": "app:2"}));
    world.container_state("/state/waiting/reason", "ErrImagePull").await;
    world.container_state("/state/waiting/reason", "ImagePullBackOff").await;
    world
        .container_state(
            "/state/waiting/message",
            "Back-off pulling image \\\"app:2\\\": ErrImagePull: docker.io/library/app:2: not found",
        )
        .await;
    let started = Instant::now();
    while world.images.pulls() < 4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((60..80).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    world.images.can_be_pulled("app:2");
    world.ready().await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_may_not_be_pulled_is_refused() {
    let world = World::new();
    world.create_pod(json!({"image": "none:1", "imagePullPolicy": "Never"}));
    world.container_state("/state/waiting/reason", "ErrImageNeverPull").await;
    let failed = world.api.until("Failed", |api| api.events("Failed").first().cloned()).await;
    assert_eq!(failed, "Error: ErrImageNeverPull");
    assert_eq!(world.images.pulls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_waited_for() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.api.delete_pod("web", 30);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(world.runtime.running(), ["c-0"]);
    assert!(pods::is_ready(&world.api.pod("web").unwrap()));
    world.api.set_condition("web", names::DRAINED, "True", names::IDLE);
    world.gone().await;
    assert_eq!(world.runtime.asked()[2..], ["stop c-0", "remove sandbox"]);
    assert!(!world.directory.path().join("data/pods/web-uid").exists());
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_waited_for_no_longer_than_its_budget() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.runtime.ignores_stop("c");
    let deleted = Instant::now();
    world.api.delete_pod("web", 30);
    world.asked("stop c-0", 1).await;
    assert!((29..=31).contains(&deleted.elapsed().as_secs()), "{:?}", deleted.elapsed());
    world.asked("kill c-0", 1).await;
    assert!((59..=61).contains(&deleted.elapsed().as_secs()), "{:?}", deleted.elapsed());
    world.gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_deletion_is_drained_from_when_it_came() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    let deleted = Instant::now();
    world.api.delete_pod("web", 60);
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.api.delete_pod("web", 30);
    world.asked("stop c-0", 1).await;
    assert!((49..=51).contains(&deleted.elapsed().as_secs()), "{:?}", deleted.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_object_vanished_is_stopped_at_once() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.api.remove_pod("web");
    world.gone().await;
    assert_eq!(world.runtime.asked()[2..], ["remove sandbox"]);
}

#[tokio::test(start_paused = true)]
async fn a_forced_deletion_kills_without_a_signal_before() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.api.delete_pod("web", 0);
    world.gone().await;
    assert_eq!(world.runtime.asked()[2..], ["kill c-0", "remove sandbox"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_engine_takes_pods_over_untouched() {
    let mut world = World::new();
    world.create_pod(json!({"readinessProbe": exec_probe(json!({}))}));
    world.ready().await;
    world.kill_engine().await;
    let asked = |world: &World| world.runtime.asked().iter().filter(|each| !each.starts_with("exec")).count();
    let before = asked(&world);
    let writes = world.api.statuses("web").len();
    world.start_engine();
    let probed = world.runtime.count("exec c-0 /check");
    world.asked("exec c-0 /check", probed + 5).await;
    assert_eq!(asked(&world), before);
    assert_eq!(world.api.statuses("web").len(), writes, "nothing has changed, so nothing is written");
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_no_engine_ran_is_removed() {
    let mut world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.kill_engine().await;
    world.api.remove_pod("web");
    world.start_engine();
    world.gone().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_shim_costs_its_pod_one_restart() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.runtime.kill_shims();
    world.container_state("/restartCount", "1").await;
    world.ready().await;
    world.container_state("/lastState/terminated/reason", "ContainerStatusUnknown").await;
    assert_eq!(world.runtime.running(), ["c-1"]);
}

#[tokio::test(start_paused = true)]
async fn after_going_down_the_same_pods_come_back() {
    let mut world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.go_down().await;
    assert_eq!(world.runtime.sandboxes(), 0);
    let pod = world.api.pod("web").unwrap();
    assert!(!pods::is_ready(&pod));
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Running"));
    world.start_engine();
    world.container_state("/restartCount", "1").await;
    world.ready().await;
    world.container_state("/lastState/terminated/exitCode", "143").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_once_succeeds_or_fails() {
    for (code, phase, reason) in [(0, "Succeeded", "PodCompleted"), (3, "Failed", "PodFailed")] {
        let mut world = World::new();
        world.create_pod_with(json!({"restartPolicy": "Never"}), json!({}));
        world.ready().await;
        world.runtime.end("c", End::Code(code));
        let pod = world
            .api
            .until(phase, |api| {
                let pod = api.pod("web")?;
                (pod.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(pod)
            })
            .await;
        assert_eq!(pods::condition(&pod, "Ready").unwrap().reason.as_deref(), Some(reason));
        assert_eq!(world.runtime.sandboxes(), 0);
        world.kill_engine().await;
        world.start_engine();
        world.api.delete_pod("web", 0);
        world.gone().await;
        assert_eq!(world.runtime.count("start c-1"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_one_by_one() {
    let world = World::new();
    let init = |name: &str| json!({"name": name, "image": "app:1", "command": ["/init"]});
    world.create_pod_with(json!({"initContainers": [init("one"), init("two")]}), json!({}));
    world.asked("start one-0", 1).await;
    world.container_state("/state/waiting/reason", "PodInitializing").await;
    world.runtime.end("one", End::Code(0));
    world.asked("start two-0", 1).await;
    world.runtime.end("two", End::Code(1));
    world.asked("start two-1", 1).await;
    world.runtime.end("two", End::Code(0));
    world.ready().await;
    let starts: Vec<String> = world.runtime.asked().into_iter().filter(|each| each.starts_with("start")).collect();
    assert_eq!(starts, ["start one-0", "start two-0", "start two-1", "start c-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_not_there_is_a_start_error() {
    let world = World::new();
    world.runtime.cannot_run("c");
    world.create_pod_with(json!({"restartPolicy": "Never"}), json!({}));
    world.container_state("/state/terminated/reason", "StartError").await;
    world.container_state("/state/terminated/exitCode", "128").await;
    let first = world
        .api
        .statuses("web")
        .into_iter()
        .find(|status| status["containerStatuses"][0]["state"]["terminated"]["reason"] == "StartError");
    assert_eq!(first.unwrap()["phase"], "Pending");
    let failed = world.api.until("Failed", |api| api.events("Failed").first().cloned()).await;
    assert!(failed.starts_with("Error: exec:"), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_goes_before_the_start_is_looked_for_once_more() {
    let world = World::new();
    world.images.has_with("app:1", Path::new("/removed"));
    world.create_pod(json!({}));
    world.container_state("/state/waiting/reason", "CreateContainerError").await;
    world.images.has("app:1");
    world.ready().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_older_shim_would_ignore_is_refused() {
    let world = World::new();
    world.runtime.shims_are_older();
    world.create_pod_with(json!({"shareProcessNamespace": true}), json!({}));
    world.container_state("/state/waiting/reason", "CreateContainerError").await;
    assert_eq!(world.runtime.running(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_missing_reference_keeps_the_container_from_being_created() {
    let world = World::new();
    world.create_pod(json!({"envFrom": [{"configMapRef": {"name": "settings"}}]}));
    world.container_state("/state/waiting/reason", "CreateContainerConfigError").await;
    world.container_state("/state/waiting/message", "configmap \\\"settings\\\" not found").await;
    world.api.create("configmaps", json!({"metadata": {"name": "settings"}, "data": {"A": "1"}}));
    world.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_is_tried_again_and_not_counted() {
    let world = World::new();
    world.runtime.cannot_create("c");
    world.create_pod(json!({}));
    world.container_state("/state/waiting/reason", "CreateContainerError").await;
    world.asked("start c-0", 3).await;
    world.container_state("/restartCount", "0").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_sandbox_cannot_be_made_is_tried_less_and_less_often_and_can_be_deleted() {
    let world = World::new();
    world.runtime.cannot_create_sandboxes();
    world.create_pod(json!({}));
    let failed = |api: &FakeApi| api.events("FailedCreatePodSandBox").first().cloned();
    let failed = world.api.until("FailedCreatePodSandBox", failed).await;
    assert!(failed.ends_with("no namespaces"), "{failed}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tried = world.runtime.count("create sandbox");
    assert!((5..=8).contains(&tried), "1 s doubled up to a minute makes 6 or 7 attempts, not {tried}");
    world.api.delete_pod("web", 30);
    world.gone().await;
    assert_eq!(world.runtime.count("remove sandbox"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_volume_keeps_the_pod_from_being_made() {
    let world = World::new();
    world.create_pod_with(json!({"volumes": [{"name": "v", "configMap": {"name": "none"}}]}), json!({}));
    world.container_state("/state/waiting/reason", "ContainerCreating").await;
    let failed = world.api.until("FailedMount", |api| api.events("FailedMount").first().cloned()).await;
    assert!(failed.starts_with("MountVolume.SetUp failed for volume \"v\" : configmap \"none\" not found"), "{failed}");
    assert_eq!(world.runtime.sandboxes(), 0);
    world.api.create("configmaps", json!({"metadata": {"name": "none"}, "data": {"k": "v"}}));
    world.ready().await;
    let file = world.directory.path().join("data/pods/web-uid/volumes/v/k");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "v");
}

#[tokio::test(start_paused = true)]
async fn where_there_are_policies_a_pod_waits_until_they_hold_for_it() {
    let world = World::new();
    world.api.create("networkpolicies", json!({"metadata": {"name": "shut"}, "spec": {"podSelector": {}}}));
    world.create_pod(json!({}));
    world.api.until("an address", |api| api.pod("web")?.status?.pod_ip).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.runtime.asked(), ["create sandbox"]);
    world.api.set_condition("web", "segue.dev/NetworkPoliciesInForce", "True", "Acknowledged");
    world.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_fails_when_its_deadline_is_over() {
    let world = World::new();
    world.create_pod_with(json!({"activeDeadlineSeconds": 20}), json!({}));
    world.ready().await;
    let started = Instant::now();
    let drains = |api: &FakeApi| (api.pod("web")?.status?.reason? == "DeadlineExceeded").then_some(());
    world.api.until("it says so", drains).await;
    assert_eq!(world.runtime.running(), ["c-0"], "it was signalled before it was drained");
    world.api.set_condition("web", names::DRAINED, "True", "Idle");
    let pod = world
        .api
        .until("it fails", |api| {
            let pod = api.pod("web")?;
            pods::is_finished(&pod).then_some(pod)
        })
        .await;
    assert!((18..=21).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_machine_that_is_short_of_memory_drains_and_is_evicted() {
    let mut world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.kill_engine().await;
    world.eviction.memory = Least::Percent(100);
    world.start_engine();
    let told = |api: &FakeApi| pods::is_true(&api.pod("web")?, names::DISRUPTION_TARGET).then_some(());
    world.api.until("it is told that it goes", told).await;
    assert_eq!(world.runtime.running(), ["c-0"], "it was signalled before it was drained");
    world.api.set_condition("web", names::DRAINED, "True", "Idle");
    let over = |api: &FakeApi| api.pod("web").filter(pods::is_finished);
    let status = world.api.until("it is evicted", over).await.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    let message = status.message.unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_evicted_for_disk_while_images_may_still_make_room() {
    let mut world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.kill_engine().await;
    let logs = world.directory.path().join("data/pods/web-uid/logs/c");
    std::fs::create_dir_all(&logs).unwrap();
    std::fs::write(logs.join("0.log"), [0; 8192]).unwrap();
    world.eviction.disk = Least::Percent(100);
    world.start_engine();
    world.api.until("images are to be removed", |_| (world.images.kept() > 0).then_some(())).await;
    let since = Instant::now();
    let told = |api: &FakeApi| pods::is_true(&api.pod("web")?, names::DISRUPTION_TARGET).then_some(());
    world.api.until("it is told that it goes", told).await;
    let (waited, asked) = (since.elapsed().as_secs(), world.images.kept());
    assert!((55..=75).contains(&waited) && asked >= 6, "{waited} s, asked {asked} times");
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_and_conflicts_are_survived() {
    let world = World::new();
    world.create_pod_with(json!({"readinessGates": [{"conditionType": "x/gate"}]}), json!({}));
    world
        .api
        .until("it says what it waits for", |api| {
            let pod = api.pod("web")?;
            (pods::condition(&pod, "Ready")?.reason.as_deref() == Some("ReadinessGatesNotReady")).then_some(())
        })
        .await;
    world.api.refuse_status_writes(3);
    world.api.set_condition("web", "x/gate", "True", "Opened");
    world.ready().await;
    assert!(pods::is_true(&world.api.pod("web").unwrap(), "x/gate"));
}

#[tokio::test(start_paused = true)]
async fn an_object_held_by_a_finalizer_is_deleted_only_once() {
    let world = World::new();
    world.create_pod(json!({}));
    world.ready().await;
    world.api.change_pod("web", |pod| pod["metadata"]["finalizers"] = json!(["x/keep"]));
    world.api.delete_pod("web", 0);
    world.asked("remove sandbox", 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.api.pod("web").is_some());
    world.api.change_pod("web", |pod| pod["metadata"]["finalizers"] = Value::Null);
    world.api.remove_pod("web");
    world.gone().await;
}

#[tokio::test(start_paused = true)]
async fn the_node_is_registered_and_ready() {
    let world = World::new();
    let node = world
        .api
        .until("the node is there", |api| api.object("nodes", "box").filter(|node| !node["status"].is_null()))
        .await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "box");
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "192.0.2.1"}));
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
    assert_eq!(ready["status"], "True");
}
