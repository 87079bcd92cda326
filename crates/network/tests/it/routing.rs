//! The whole way: objects in an API, routing, keeper, proxy, clients.

use jiff::{SignedDuration, Timestamp};
use network::config::Base;
use network::routing::{Order, Replacement, Settings, Traffic, run};
use network::rules::Rules;
use network::tailnet::Shared;
use serde_json::{Value, json};
use tokio::sync::watch::{Sender, channel};
use tokio::task::JoinHandle;

use crate::api::FakeApi;
use crate::app::App;
use crate::load::{Load, get};
use crate::plane::{PORT, Plane};

const ROUTED: &str = "segue.dev/Routed";
const DRAINED: &str = "segue.dev/Drained";

/// One Service in an API, an engine that routes it, and the data plane.
struct Cluster {
    api: FakeApi,
    plane: Plane,
    engine: JoinHandle<()>,
    orders: Sender<Order>,
}

impl Cluster {
    async fn start() -> Self {
        let plane = Plane::start().await;
        let api = FakeApi::new();
        let ip = plane.service_ip();
        api.put(
            "services",
            json!({
                "metadata": {"namespace": "production", "name": "demo"},
                "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": "demo"}, "ports": [{"port": PORT}]},
            }),
        );
        let (engine, orders) = engine(&api, &plane);
        Self { api, plane, engine, orders }
    }

    /// A new engine takes the place of the old one, which ends like a killed process.
    async fn restart_engine(&mut self) {
        self.engine.abort();
        let _ = (&mut self.engine).await;
        (self.engine, self.orders) = engine(&self.api, &self.plane);
    }

    /// A ready pod, with an app in it.
    fn add_pod(&self, number: u8) -> App {
        let address = self.plane.pod(number);
        let app = App::start(address, &format!("app-{number}"));
        self.api.put(
            "pods",
            json!({
                "metadata": {"namespace": "production", "name": name(number), "uid": format!("u{number}"),
                             "labels": {"app": "demo"}},
                "spec": {"containers": [], "terminationGracePeriodSeconds": 30},
                "status": {"podIP": address.ip(), "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
        self.write_slice();
        app
    }

    /// Asks for the deletion of a pod.
    fn delete_pod(&self, number: u8) {
        let mut pod = self.api.get("pods", &name(number));
        let grace = SignedDuration::from_secs(30);
        pod["metadata"]["deletionTimestamp"] = json!((Timestamp::now() + grace).to_string());
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        self.api.put("pods", pod);
        self.write_slice();
    }

    /// As the EndpointSlice controller does.
    fn write_slice(&self) {
        let endpoint = |pod: &Value| {
            let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
            json!({
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": !terminating, "serving": true, "terminating": terminating},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            })
        };
        let endpoints: Vec<_> = self.api.all("pods").iter().map(endpoint).collect();
        let port = self.plane.pod(2).port();
        self.api.put(
            "endpointslices",
            json!({
                "metadata": {"namespace": "production", "name": "demo-1",
                             "labels": {"kubernetes.io/service-name": "demo"}},
                "addressType": "IPv4", "ports": [{"port": port, "protocol": "TCP"}], "endpoints": endpoints,
            }),
        );
    }

    async fn has(&self, number: u8, type_: &str) -> Value {
        let is_true = |pod: &Value| condition(pod, type_)["status"] == "True";
        condition(&self.api.wait_for("pods", &name(number), is_true).await, type_)
    }

    fn remove_pod(&self, number: u8) {
        self.api.delete("pods", &name(number));
        self.write_slice();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Otherwise it would replace the data plane that the test ends.
        self.engine.abort();
    }
}

fn engine(api: &FakeApi, plane: &Plane) -> (JoinHandle<()>, Sender<Order>) {
    let settings = Settings {
        data_plane: plane.command.clone(),
        base: Base::default(),
        rules: Rules {
            instance: "test".to_owned(),
            links: "sgtest".to_owned(),
            pods: "10.44.0.0/16".parse().unwrap(),
            services: "10.45.0.0/16".parse().unwrap(),
            mesh_port: 745,
        },
        host: [127, 0, 0, 1].into(),
        traffic: Traffic::default(),
        replacement: Replacement::default(),
        fronts: Shared::default(),
        peers: Shared::default(),
        machines: None,
        mesh_ports: 745..=746,
        here: Shared::default(),
        api: ([127, 0, 0, 1], 7443).into(),
    };
    let (orders, received) = channel(Order::Route);
    (tokio::spawn(run(api.client(), settings, received)), orders)
}

fn name(number: u8) -> String {
    format!("demo-{number}")
}

fn condition(pod: &Value, type_: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_replaced_under_load_and_no_request_is_lost() {
    let mut cluster = Cluster::start().await;
    let mut old = cluster.add_pod(2);
    cluster.has(2, ROUTED).await;
    let load = Load::start(cluster.plane.service());
    for number in 3..9 {
        let new = cluster.add_pod(number);
        cluster.has(number, ROUTED).await;
        new.has_begun(9).await;
        cluster.delete_pod(number - 1);
        if number % 2 == 0 {
            cluster.restart_engine().await;
        }
        assert_eq!(cluster.has(number - 1, DRAINED).await["reason"], "Idle");
        std::mem::replace(&mut old, new).exit();
        cluster.remove_pod(number - 1);
    }
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    assert!(outcome.answered > 50, "{outcome:?}");
    assert!(outcome.by_app.len() >= 6, "each pod had traffic before it was replaced: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_pod_serves_until_its_successor_is_there() {
    let cluster = Cluster::start().await;
    let _old = cluster.add_pod(2);
    cluster.has(2, ROUTED).await;
    cluster.delete_pod(2);
    let is_deprioritised = |pod: &Value| condition(pod, DRAINED)["reason"] == "Deprioritised";
    let pod = cluster.api.wait_for("pods", "demo-2", is_deprioritised).await;
    assert_eq!(condition(&pod, DRAINED)["message"], "Service production/demo has no other ready endpoint yet");
    assert_eq!(get(cluster.plane.service(), "/").await.1, "app-2");
    let _new = cluster.add_pod(3);
    assert_eq!(cluster.has(2, DRAINED).await["reason"], "Idle");
    assert_eq!(get(cluster.plane.service(), "/").await.1, "app-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_keeper_and_a_killed_proxy_hold_no_drain_up() {
    let cluster = Cluster::start().await;
    let (_old, _new) = (cluster.add_pod(2), cluster.add_pod(3));
    cluster.has(2, ROUTED).await;
    cluster.has(3, ROUTED).await;
    cluster.plane.kill_proxy();
    cluster.plane.kill_keeper();
    cluster.delete_pod(2);
    assert_eq!(cluster.has(2, DRAINED).await["reason"], "Idle");
    assert_eq!(get(cluster.plane.service(), "/").await.1, "app-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_port_is_taken_says_so() {
    let cluster = Cluster::start().await;
    let _taken = std::net::TcpListener::bind((cluster.plane.service_ip(), PORT + 1)).unwrap();
    let mut service = cluster.api.get("services", "demo");
    service["spec"]["ports"] = json!([{"name": "a", "port": PORT}, {"name": "b", "port": PORT + 1}]);
    cluster.api.put("services", service);
    let mut changes = cluster.api.changes();
    while cluster.api.all("events").is_empty() {
        changes.changed().await.unwrap();
    }
    let event = &cluster.api.all("events")[0];
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("ListenFailed")));
    assert_eq!(event["involvedObject"]["name"], "demo");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("{}:{}: Address already in use", cluster.plane.service_ip(), PORT + 1)),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_everything_lets_the_last_answer_out_and_no_request_in() {
    let mut cluster = Cluster::start().await;
    let app = cluster.add_pod(2);
    cluster.has(2, ROUTED).await;
    let last = tokio::spawn(get(cluster.plane.service(), "/slow?300"));
    app.has_begun(1).await;
    cluster.orders.send_replace(Order::DrainAll);
    (&mut cluster.engine).await.unwrap();
    app.exit();
    assert_eq!(last.await.unwrap().1, "app-2");
}
