//! The loop over real shims, containers and links, in namespaces of its own. Images hold what this machine's root
//! directory holds, so that there is a shell.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use futures::StreamExt;
use tokio::sync::watch;

use super::*;
use crate::cgroups::{Cgroup, Hierarchies, remove_instance};
use crate::logs::{self, Follow, LogOptions, Run};

const INSIDE: &str = "SEGUE_TEST_INSIDE";
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in its own PID, mount and network namespaces: the first time by running this program again there.
fn inside<F: Future<Output = ()>>(test: &str, work: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(work());
    }
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--mount", "--net", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("agent::tests::real::{test}"), "--nocapture", "--test-threads=1"])
        .env(INSIDE, std::process::id().to_string())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && text[0].contains("1 passed"), "{}\n{}", text[0], text[1]);
}

/// A machine with real pods.
struct RealWorld {
    api: FakeApi,
    images: FakeImages,
    settings: Settings,
    engine: Option<Engine>,
    created: u8,
    _directory: tempfile::TempDir,
}

impl RealWorld {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = FakeImages::default();
        images.has_with("app:1", Path::new("/"));
        let instance = format!("test-{}-{name}", std::env::var(INSIDE).unwrap());
        let settings = Settings {
            node_name: "box".to_owned(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            data_dir: directory.path().join("data"),
            run_dir: directory.path().join("run").join(&instance),
            executable: shim_program(directory.path()),
            instance,
            pod_range: "10.44.0.0/16".parse().unwrap(),
            dns: Ipv4Addr::new(10, 45, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            pod_pids_limit: 1024,
            eviction: Thresholds::DEFAULT,
        };
        let mut world =
            Self { api: FakeApi::new(PATIENCE), images, settings, engine: None, created: 0, _directory: directory };
        world.start_engine();
        world
    }

    fn start_engine(&mut self) {
        let (orders, heard) = watch::channel(Order::Run);
        let agent = run(self.settings.clone(), self.api.client(), Arc::new(self.images.clone()), heard);
        self.engine = Some(Engine { orders, task: tokio::spawn(agent) });
    }

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

    fn create_pod(&mut self, spec: Value) {
        self.created += 1;
        let uid = uid(self.created);
        let mut object = json!({
            "metadata": {"name": "web", "generation": 1, "uid": uid},
            "spec": {"nodeName": "box", "terminationGracePeriodSeconds": 5},
        });
        merge(&mut object["spec"], spec);
        self.api.create("pods", object);
    }

    async fn status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.api
            .until(what, |api| {
                let status = serde_json::to_value(api.pod("web")?.status?).unwrap();
                holds(&status).then_some(status)
            })
            .await
    }

    async fn log(&self, options: &LogOptions) -> String {
        let pod = self.api.pod("web").unwrap();
        let mut stream = logs::read(&self.settings, &pod, "c", options).unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    fn assert_nothing_left(&self) {
        let links = Command::new("ip").args(["-o", "link"]).output().unwrap().stdout;
        assert!(!String::from_utf8_lossy(&links).contains(": sg"), "a link is left");
        assert_eq!(std::fs::read_dir(self.settings.run_dir.join("pods")).unwrap().count(), 0);
        let hierarchies = Hierarchies::find().unwrap();
        let pod = Cgroup::parse(&format!("/segue-{}/pod", self.settings.instance)).unwrap();
        let pod_directory = hierarchies.directory("memory", &pod).unwrap();
        assert!(!pod_directory.parent().unwrap().exists(), "a cgroup is left");
    }
}

impl Drop for RealWorld {
    /// A test that failed must not leave cgroups on the machine either. Their processes ended with the namespace's first.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let hierarchies = Hierarchies::find().unwrap();
        for pod in 1..=self.created {
            let cgroup = Cgroup::parse(&format!("/segue-{}/pod{}", self.settings.instance, uid(pod))).unwrap();
            let _ = cgroup.kill(&hierarchies).and_then(|()| cgroup.remove(&hierarchies));
        }
        let _ = remove_instance(&self.settings.instance, &hierarchies);
    }
}

fn uid(pod: u8) -> String {
    format!("{pod:08x}-2222-3333-4444-555555555555")
}

/// The example program is a shim whatever it is told first, so a script takes the engine's first word away.
fn shim_program(directory: &Path) -> PathBuf {
    let shim = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/shim");
    assert!(shim.exists(), "{shim:?} is missing: cargo test without --lib builds it");
    let script = directory.join("segue");
    std::fs::write(&script, format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", shim.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn shell(script: &str) -> Value {
    json!({"name": "c", "image": "app:1", "command": ["/bin/sh", "-c", script]})
}

fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.into_iter().flatten().any(|each| each["type"] == "Ready" && each["status"] == "True")
}

#[test]
fn a_real_pod_runs_survives_its_engine_and_leaves_nothing() {
    inside("a_real_pod_runs_survives_its_engine_and_leaves_nothing", || async {
        let mut world = RealWorld::new("life");
        world.api.create("configmaps", json!({"metadata": {"name": "settings"}, "data": {"k": "from the map"}}));
        world.api.create("secrets", json!({"metadata": {"name": "keys"}, "data": {"s": "aGlkZGVu"}}));
        let mut container = shell(
            "cat /v/k; echo; cat /s/s; echo; echo $GREETING; echo $(cat /etc/hostname); \
             grep -c 10.45.0.10 /etc/resolv.conf; echo on disk > /e/f; trap 'exit 0' TERM; while :; do sleep 0.1; done",
        );
        merge(
            &mut container,
            json!({
                "env": [{"name": "GREETING", "value": "hello $(WHO)"}, {"name": "X", "value": "y"}],
                "readinessProbe": {"exec": {"command": ["/bin/cat", "/e/f"]}, "periodSeconds": 1},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "s", "mountPath": "/s"},
                    {"name": "e", "mountPath": "/e"}],
            }),
        );
        world.create_pod(json!({"containers": [container], "volumes": [
            {"name": "v", "configMap": {"name": "settings"}}, {"name": "s", "secret": {"secretName": "keys"}},
            {"name": "e", "emptyDir": {}},
        ]}));
        let first = world.status("the pod is ready", is_ready).await;
        let log = world.log(&LogOptions::default()).await;
        assert_eq!(log, "from the map\nhidden\nhello $(WHO)\nweb\n1\n");

        world.kill_engine().await;
        world.start_engine();
        world.api.set_condition("web", "x/seen", "True", "Seen");
        let second = world.status("the new engine is there", is_ready).await;
        assert_eq!(second["containerStatuses"], first["containerStatuses"]);
        assert_eq!(second["podIP"], first["podIP"]);

        world.api.delete_pod("web", 5);
        world.api.set_condition("web", names::DRAINED, "True", names::IDLE);
        world.api.until("the pod is gone", |api| api.pod("web").is_none().then_some(())).await;
        world.go_down().await;
        world.assert_nothing_left();
        assert_eq!(std::fs::read_dir(world.settings.data_dir.join("pods")).unwrap().count(), 0);
    });
}

#[test]
fn real_ends_have_real_reasons() {
    inside("real_ends_have_real_reasons", || async {
        let mut world = RealWorld::new("ends");
        let mut hog = shell("head -c 200M /dev/zero | tail");
        merge(&mut hog, json!({"resources": {"limits": {"memory": "20Mi"}}}));
        let mut missing = shell("");
        missing["command"] = json!(["/no-such"]);
        let table = [
            (shell("exit 3"), "Failed", "Error", 3),
            (shell("exit 0"), "Succeeded", "Completed", 0),
            (hog, "Failed", "OOMKilled", 137),
            (missing, "Failed", "StartError", 128),
        ];
        for (container, phase, reason, code) in table {
            world.create_pod(json!({"containers": [container], "restartPolicy": "Never"}));
            let status =
                world.status(phase, |status| status["phase"] == "Failed" || status["phase"] == "Succeeded").await;
            let terminated = &status["containerStatuses"][0]["state"]["terminated"];
            assert_eq!((&status["phase"], &terminated["reason"]), (&json!(phase), &json!(reason)), "{status:#}");
            assert_eq!(terminated["exitCode"], code, "{reason}");
            world.api.delete_pod("web", 0);
            world.api.until("the pod is gone", |api| api.pod("web").is_none().then_some(())).await;
        }
        world.go_down().await;
        world.assert_nothing_left();
    });
}

#[test]
fn going_down_and_up_brings_the_same_pod_back() {
    inside("going_down_and_up_brings_the_same_pod_back", || async {
        let mut world = RealWorld::new("down");
        let mut traps = shell("echo run; trap 'exit 9' TERM; : > /up; while :; do sleep 0.1; done");
        merge(&mut traps, json!({"readinessProbe": {"exec": {"command": ["/bin/cat", "/up"]}, "periodSeconds": 1}}));
        world.create_pod(json!({"containers": [traps]}));
        world.status("the pod is ready", is_ready).await;
        world.go_down().await;
        world.assert_nothing_left();
        world.start_engine();
        let status = world
            .status("the pod is back", |status| is_ready(status) && status["containerStatuses"][0]["restartCount"] == 1)
            .await;
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 9);
        let previous = LogOptions { run: Run::Previous, ..LogOptions::default() };
        assert_eq!(world.log(&previous).await, "run\n");
        let follow = LogOptions { follow: Follow::UntilTheContainerEnds, ..LogOptions::default() };
        let (text, ()) = tokio::join!(world.log(&follow), async {
            world.api.delete_pod("web", 0);
        });
        assert_eq!(text, "run\n");
        world.api.until("the pod is gone", |api| api.pod("web").is_none().then_some(())).await;
        world.go_down().await;
    });
}
