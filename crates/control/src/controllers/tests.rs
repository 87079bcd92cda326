//! The loops over the real API and store, with a machine that makes every pod ready at once and lets it go when asked.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use kube::core::Resource;
use kube::{Api, Client};
use objects::traffic::{Period, SeriesKey};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::apiserver::{ApiServer, Connection, ExecRequest, ExecSession, LogOptions, LogStream, PodAccess, Traffic};
use crate::serve;
use crate::store::Store;
use crate::tokens::Tokens;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct NoPods;

impl PodAccess for NoPods {
    fn read_log(&self, _: &Value, _: &str, _: &LogOptions) -> Result<LogStream, String> {
        Err("there are no logs here".to_owned())
    }

    fn exec<'a>(&'a self, _: &'a Value, _: &'a str, _: &'a ExecRequest) -> BoxFuture<'a, Result<ExecSession, String>> {
        Box::pin(async { Err("nothing runs here".to_owned()) })
    }

    fn connect<'a>(&'a self, _: &'a Value, _: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, String>> {
        Box::pin(async { Err("nothing listens here".to_owned()) })
    }
}

/// Nor is there a data plane.
struct NoTraffic;

impl Traffic for NoTraffic {
    fn since(&self, _: Option<Timestamp>, _: &dyn Fn(&SeriesKey) -> bool) -> Period {
        Period::default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// An engine without processes: API, controllers, and a machine that only says so.
struct World {
    client: Client,
    tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl World {
    /// With a node of this many cores.
    async fn start(cores: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.db"), &directory.path().join("key")).unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let api = ApiServer::new(store, "10.45.0.0/16".parse().unwrap(), Arc::new(NoPods), Arc::new(NoTraffic), tokens);
        let client = serve::client(&api);
        create::<Namespace>(&Api::all(client.clone()), json!({"metadata": {"name": "n"}})).await;
        let nodes = Api::<Node>::all(client.clone());
        create(&nodes, json!({"metadata": {"name": "machine"}})).await;
        let allocatable = json!({"cpu": cores.to_string(), "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {"allocatable": allocatable, "capacity": allocatable}});
        nodes.patch_status("machine", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(super::run(client.clone(), "the authority".to_owned(), std::future::pending()));
        tasks.spawn(run_machine(client.clone()));
        Self { client, tasks, _directory: directory }
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), "n")
    }

    /// The engine is killed and started again.
    fn restart_controllers(&mut self) {
        self.tasks.abort_all();
        self.tasks.spawn(super::run(self.client.clone(), "the authority".to_owned(), std::future::pending()));
        self.tasks.spawn(run_machine(self.client.clone()));
    }

    async fn deploy(&self, image: &str, replicas: i32) {
        create(&self.api::<Deployment>(), deployment(image, replicas)).await;
        self.until_rolled_out(image, replicas).await;
    }

    async fn set_image(&self, image: &str) {
        let containers = json!([{"name": "app", "image": image}]);
        self.patch_deployment(json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
    }

    async fn patch_deployment(&self, change: Value) {
        let deployments = self.api::<Deployment>();
        deployments.patch("web", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    }

    async fn until_rolled_out(&self, image: &str, replicas: i32) {
        let told = |it: &Deployment| {
            let status = it.status.clone().unwrap_or_default();
            status.observed_generation == it.metadata.generation
                && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(replicas); 3]
        };
        until(&self.api::<Deployment>(), |all| all.iter().any(told)).await;
        until(&self.api::<Pod>(), |all| {
            let active: Vec<_> = all.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            active.len() == usize::try_from(replicas).unwrap() && active.iter().all(|pod| image_of(pod) == image)
        })
        .await;
    }
}

fn deployment(image: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app", "image": image}]},
            },
        },
    })
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref()).unwrap_or_default()
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + Debug + DeserializeOwned + serde::Serialize,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// Waits until `wanted` holds for all objects; looks after every change of one.
async fn until<K>(api: &Api<K>, wanted: impl Fn(&[K]) -> bool)
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let waiting = async {
        loop {
            let list = api.list(&ListParams::default()).await.unwrap();
            if wanted(&list.items) {
                return;
            }
            let version = list.metadata.resource_version.unwrap_or_default();
            let changes = api.watch(&WatchParams::default(), &version).await.unwrap();
            pin_mut!(changes);
            changes.next().await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        let found = api.list(&ListParams::default()).await.unwrap().items;
        panic!("what is awaited of {} does not come about: {found:#?}", api.resource_url());
    }
}

/// Makes every bound pod ready, but for images `broken`, and removes those that are to go.
async fn run_machine(client: Client) {
    let pods = Api::<Pod>::all(client.clone());
    loop {
        let list = pods.list(&ListParams::default()).await.unwrap();
        for pod in &list.items {
            act_on(&Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap()), pod).await;
        }
        let version = list.metadata.resource_version.unwrap_or_default();
        let Ok(changes) = pods.watch(&WatchParams::default(), &version).await else { continue };
        pin_mut!(changes);
        changes.next().await;
    }
}

async fn act_on(pods: &Api<Pod>, pod: &Pod) {
    let name = pod.metadata.name.as_deref().unwrap();
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = pods.delete(name, &DeleteParams::default().grace_period(0)).await;
    } else if bound && !objects::pods::is_ready(pod) && image_of(pod) != "broken" {
        let ready = json!([
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "segue.dev/Routed", "status": "True"},
        ]);
        let status = json!({"phase": "Running", "podIP": "10.44.0.9", "conditions": ready});
        let change = Patch::Strategic(json!({"status": status}));
        let _ = pods.patch_status(name, &PatchParams::default(), &change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_rolls_and_an_undo_reuses_the_old_replica_set() {
    let world = World::start(8).await;
    world.deploy("one", 3).await;
    world.set_image("two").await;
    world.until_rolled_out("two", 3).await;
    world.set_image("one").await;
    world.until_rolled_out("one", 3).await;

    let revision = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sets = world.api::<ReplicaSet>().list(&ListParams::default()).await.unwrap().items;
    let annotations: BTreeSet<_> = sets.iter().flat_map(|set| set.metadata.annotations.clone().unwrap()).collect();
    assert_eq!(sets.len(), 2);
    assert!(annotations.contains(&revision("deployment.kubernetes.io/revision", "3")), "{annotations:?}");
    assert!(annotations.contains(&revision("deployment.kubernetes.io/revision-history", "1")), "{annotations:?}");
    let message = |event: &Event| event.message.clone().unwrap_or_default();
    let told = |all: &[Event], start: &str, end: &str| {
        all.iter().map(message).any(|it| it.starts_with(start) && it.ends_with(end))
    };
    until(&world.api::<Event>(), |all| {
        told(all, "Scaled up replica set web-", " from 0 to 3")
            && told(all, "Scaled down replica set web-", " from 3 to 2")
            && told(all, "Successfully assigned n/web-", " to machine")
            && told(all, "Created pod: web-", "")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_version_replaces_nobody_and_says_what_is_awaited() {
    let world = World::start(8).await;
    world.deploy("one", 3).await;
    world.set_image("broken").await;
    let progressing = |it: &Deployment| {
        let conditions = it.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let progressing = conditions.filter(|condition| condition.type_ == "Progressing");
        progressing.filter_map(|condition| condition.message.clone()).next().unwrap_or_default()
    };
    until(&world.api::<Deployment>(), |all| all.iter().any(|it| progressing(it).contains("is not ready."))).await;
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.iter().filter(|pod| image_of(pod) == "one").count(), 3);
    assert_eq!(pods.iter().filter(|pod| image_of(pod) == "broken").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_carries_on_where_it_was() {
    let mut world = World::start(8).await;
    world.deploy("one", 3).await;
    world.set_image("two").await;
    until(&world.api::<Pod>(), |all| all.iter().any(|pod| image_of(pod) == "two")).await;
    world.restart_controllers();
    world.until_rolled_out("two", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_creates_and_deletes_pods_and_their_endpoints() {
    let world = World::start(8).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    create(&world.api::<Service>(), service).await;
    world.deploy("one", 3).await;
    for replicas in [6, 2, 0] {
        world.patch_deployment(json!({"spec": {"replicas": replicas}})).await;
        let ready = |all: &[EndpointSlice]| all.iter().flat_map(|slice| slice.endpoints.iter().flatten()).count();
        until(&world.api::<EndpointSlice>(), |all| ready(all) == replicas).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_fit_hears_why_and_is_placed_when_there_is_room() {
    let world = World::start(1).await;
    let pod = |name: &str| {
        let resources = json!({"requests": {"cpu": "600m"}});
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    create(&world.api::<Pod>(), pod("first")).await;
    until(&world.api::<Pod>(), |all| all.iter().any(objects::pods::is_ready)).await;
    create(&world.api::<Pod>(), pod("second")).await;
    let message = |event: &Event| event.message.clone().unwrap_or_default();
    until(&world.api::<Event>(), |all| {
        let mut failed = all.iter().filter(|event| event.reason.as_deref() == Some("FailedScheduling"));
        failed.any(|event| message(event).starts_with("0/1 nodes are available: 1 Insufficient cpu."))
    })
    .await;
    world.api::<Pod>().delete("first", &DeleteParams::default()).await.unwrap();
    until(&world.api::<Pod>(), |all| all.len() == 1 && all.iter().all(objects::pods::is_ready)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_with_their_owner() {
    let world = World::start(8).await;
    for parameters in [DeleteParams::background(), DeleteParams::foreground()] {
        world.deploy("one", 2).await;
        world.api::<Deployment>().delete("web", &parameters).await.unwrap();
        until(&world.api::<Deployment>(), <[Deployment]>::is_empty).await;
        until(&world.api::<ReplicaSet>(), <[ReplicaSet]>::is_empty).await;
        until(&world.api::<Pod>(), <[Pod]>::is_empty).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_replica_sets_keep_their_pods() {
    let world = World::start(8).await;
    world.deploy("one", 2).await;
    world.api::<Deployment>().delete("web", &DeleteParams::orphan()).await.unwrap();
    until(&world.api::<Deployment>(), <[Deployment]>::is_empty).await;
    let free = |set: &ReplicaSet| set.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    until(&world.api::<ReplicaSet>(), |all| all.len() == 1 && all.iter().all(free)).await;
    assert_eq!(world.api::<Pod>().list(&ListParams::default()).await.unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_furnished_and_goes_with_all_it_holds() {
    let world = World::start(8).await;
    until(&world.api::<ConfigMap>(), |all| {
        let data = all.iter().filter_map(|map| map.data.as_ref()?.get("ca.crt"));
        data.eq(["the authority"])
    })
    .await;
    world.deploy("one", 2).await;
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    let gone = |all: &[Namespace]| all.iter().all(|namespace| namespace.metadata.name.as_deref() != Some("n"));
    until(&namespaces, gone).await;
    assert_eq!(world.api::<Pod>().list(&ListParams::default()).await.unwrap().items, []);
}
