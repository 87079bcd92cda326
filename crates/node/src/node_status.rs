//! The Node object: what this machine is and has, and how it feels. Written on start, on every change, and now and then.

use std::time::Duration;

use decide::node_pressure::{self, Resource};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Resource as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use objects::pods::Resources;
use serde_json::json;
use tracing::warn;

use crate::agent::Settings;
use crate::agent::clock::Clock;
use crate::agent::runtime::chain;

mod machine;

pub(crate) use machine::room;
use machine::{Pressure, Shortage};

/// How many pods a node takes; Kubernetes' number.
const MOST_PODS: u32 = 110;
/// How often the machine is looked at; Kubernetes' number.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The namespace of nodes' leases, and how long one holds; Kubernetes' names and numbers.
const LEASES: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// How often the Node is written although nothing has changed; Kubernetes' number.
const REPORT_EVERY: Duration = Duration::from_secs(300);

/// What the machine has to give to pods.
pub(crate) fn capacity() -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Resources {
        cpu_millis: i64::try_from(cores).unwrap_or(1) * 1000,
        memory_bytes: i64::try_from(machine::memory().total_bytes).unwrap_or(i64::MAX),
    }
}

/// Creates the Node, or brings an earlier engine's up to date. What that one was short of holds for a while.
pub(crate) async fn register(client: &kube::Client, settings: &Settings, clock: Clock) -> kube::Result<Recent> {
    let api: Api<Node> = Api::all(client.clone());
    let mut node = match api.get_opt(&settings.node_name).await? {
        Some(node) => node,
        None => api.create(&PostParams::default(), &new_node(settings)).await?,
    };
    let labels = labels(settings);
    if labels.iter().any(|(key, value)| node.metadata.labels.as_ref().and_then(|known| known.get(key)) != Some(value)) {
        node.metadata.labels.get_or_insert_default().extend(labels);
        node = api.replace(&settings.node_name, &PostParams::default(), &node).await?;
    }
    let mut recent = Recent::of(&node, clock.now());
    let pressure = recent.with(machine::pressure(settings), clock.now());
    report(&api, node, settings, pressure).await?;
    Ok(recent)
}

/// Looks at the machine for as long as it is polled.
pub(crate) async fn keep_up_to_date(client: kube::Client, settings: Settings, clock: Clock, mut recent: Recent) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let api: Api<Node> = Api::all(client);
    let mut reported = tokio::time::Instant::now();
    // What a registration has told is not remembered.
    let mut last = None;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = renew_lease(&leases, &api, &settings.node_name).await {
            warn!(error = chain(&error), "the node's lease could not be renewed; trying again");
        }
        let pressure = recent.with(machine::pressure(&settings), clock.now());
        if last == Some(pressure) && reported.elapsed() < REPORT_EVERY {
            continue;
        }
        let done = match api.get(&settings.node_name).await {
            Ok(node) => report(&api, node, &settings, pressure).await,
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                register(&api.clone().into_client(), &settings, clock).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => (last, reported) = (Some(pressure), tokio::time::Instant::now()),
            Err(error) => warn!(error = chain(&error), "the node's status could not be written; trying again"),
        }
    }
}

/// Says that the node is alive, to whoever looks for it where a kubelet says so.
async fn renew_lease(leases: &Api<Lease>, nodes: &Api<Node>, name: &str) -> kube::Result<()> {
    let renewal = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(&renewal)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        renewed => return renewed.map(drop),
    }
    let Some(node) = nodes.get_opt(name).await? else { return Ok(()) };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(node.owner_ref(&()).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}

async fn report(api: &Api<Node>, mut node: Node, settings: &Settings, pressure: Pressure) -> kube::Result<()> {
    let old_taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let taints = taints(old_taints.clone(), pressure);
    if taints != old_taints {
        node.spec.get_or_insert_default().taints = Some(taints);
        node = api.replace(&settings.node_name, &PostParams::default(), &node).await?;
    }
    let old = node.status.take().unwrap_or_default();
    node.status = Some(status(settings, old, pressure, Timestamp::now()));
    api.replace_status(&settings.node_name, &PostParams::default(), &node).await?;
    Ok(())
}

fn new_node(settings: &Settings) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(settings.node_name.clone()),
            labels: Some(labels(settings).into_iter().collect()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(settings.pod_range.to_string()),
            pod_cidrs: Some(vec![settings.pod_range.to_string()]),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

fn labels(settings: &Settings) -> Vec<(String, String)> {
    let arch = machine::architecture();
    [
        ("kubernetes.io/hostname", settings.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn status(settings: &Settings, old: NodeStatus, pressure: Pressure, now: Timestamp) -> NodeStatus {
    let capacity = amounts(settings);
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", settings.host_ip.to_string()),
            address("Hostname", settings.node_name.clone()),
        ]),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(old.conditions.clone().unwrap_or_default(), pressure, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        node_info: Some(node_info()),
        ..old
    }
}

fn amounts(settings: &Settings) -> std::collections::BTreeMap<String, Quantity> {
    let capacity = capacity();
    [
        ("cpu", format!("{}", capacity.cpu_millis / 1000)),
        ("memory", format!("{}Ki", capacity.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine::room(Resource::Disk, &settings.data_dir).capacity / 1024)),
        ("pods", MOST_PODS.to_string()),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into()
}

fn node_info() -> NodeSystemInfo {
    let version = format!("v1.36.0+segue-{}", env!("CARGO_PKG_VERSION"));
    NodeSystemInfo {
        architecture: machine::architecture().to_owned(),
        boot_id: machine::read_line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("segue://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: machine::read_line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: version,
        machine_id: machine::read_line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: machine::os_image(),
        system_uuid: machine::read_line("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// What the machine was short of lately, when it was so last.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    pids: Option<Timestamp>,
}

impl Recent {
    /// As if what the Node says were so now.
    fn of(node: &Node, now: Timestamp) -> Self {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let said = |type_: &str| {
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|condition| condition.type_ == type_ && condition.status == "True").then_some(now)
        };
        Self { memory: said("MemoryPressure"), disk: said("DiskPressure"), pids: said("PIDPressure") }
    }

    /// Short of what it is short of `now`, or was so lately.
    fn with(&mut self, pressure: Pressure, now: Timestamp) -> Pressure {
        let held = |last: &mut Option<Timestamp>, shortage| {
            if shortage == Shortage::Yes {
                *last = Some(now);
            }
            if node_pressure::holds(*last, now) { Shortage::Yes } else { Shortage::No }
        };
        Pressure {
            memory: held(&mut self.memory, pressure.memory),
            disk: held(&mut self.disk, pressure.disk),
            pids: held(&mut self.pids, pressure.pids),
        }
    }
}

/// Keeps new pods away from what the machine is short of. Taints that others set are kept.
fn taints(old: Vec<Taint>, pressure: Pressure) -> Vec<Taint> {
    let shortages = [
        ("node.kubernetes.io/memory-pressure", pressure.memory),
        ("node.kubernetes.io/disk-pressure", pressure.disk),
        ("node.kubernetes.io/pid-pressure", pressure.pids),
    ];
    let is_ours = |taint: &Taint| shortages.iter().any(|(key, _)| taint.key == *key);
    let mut taints: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    for (key, _) in shortages.iter().filter(|(_, shortage)| *shortage == Shortage::Yes) {
        let known = old.iter().find(|taint| taint.key == *key).cloned();
        let new = || Taint { key: (*key).to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        taints.push(known.unwrap_or_else(new));
    }
    taints
}

/// Conditions that others write are kept.
fn conditions(old: Vec<NodeCondition>, pressure: Pressure, now: Timestamp) -> Vec<NodeCondition> {
    let ours = [
        shortage("MemoryPressure", pressure.memory, ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"]),
        shortage("DiskPressure", pressure.disk, ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"]),
        shortage("PIDPressure", pressure.pids, ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"]),
        ("Ready", "True", "KubeletReady"),
    ];
    let written = |(type_, status, reason): (&str, &str, &str)| {
        let unchanged = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: None,
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: unchanged.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let others = old.iter().filter(|old| ours.iter().all(|(type_, _, _)| old.type_ != *type_));
    others.cloned().chain(ours.map(written)).collect()
}

fn shortage(
    type_: &'static str,
    shortage: Shortage,
    [short, enough]: [&'static str; 2],
) -> (&'static str, &'static str, &'static str) {
    match shortage {
        Shortage::Yes => (type_, "True", short),
        Shortage::No => (type_, "False", enough),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_keeps_new_pods_away_until_it_has_been_over_for_a_while() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (none, low) = (Pressure::default(), Pressure { disk: Shortage::Yes, ..Pressure::default() });
        let mut recent = Recent::default();
        let pressures = [(0, none), (10, low), (20, none), (309, none), (310, none)];
        let held = pressures.map(|(second, pressure)| recent.with(pressure, at(second)).disk);
        assert_eq!(held, [Shortage::No, Shortage::Yes, Shortage::Yes, Shortage::Yes, Shortage::No]);

        let said = conditions(Vec::new(), low, at(1000));
        let status = NodeStatus { conditions: Some(said), ..NodeStatus::default() };
        let mut after_a_restart = Recent::of(&Node { status: Some(status), ..Node::default() }, at(1010));
        let held = [1010, 1309, 1310].map(|second| after_a_restart.with(none, at(second)));
        assert_eq!(held, [low, low, none]);

        let foreign: Taint = serde_json::from_value(json!({"key": "gpu", "effect": "NoExecute"})).unwrap();
        let short = taints(vec![foreign.clone()], low);
        assert_eq!(
            short.iter().map(|taint| &*taint.key).collect::<Vec<_>>(),
            ["gpu", "node.kubernetes.io/disk-pressure"]
        );
        assert_eq!(taints(short.clone(), low), short);
        assert_eq!(taints(short, none), [foreign]);
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let foreign = NodeCondition { type_: "Foreign".into(), status: "True".into(), ..NodeCondition::default() };
        let first = conditions(vec![foreign.clone()], Pressure::default(), at(1));
        let low = Pressure { disk: Shortage::Yes, ..Pressure::default() };
        let second = conditions(first, low, at(2));
        assert_eq!(second[0], foreign);
        let told: Vec<(&str, &str, i64)> = second[1..]
            .iter()
            .map(|each| (&*each.type_, &*each.status, each.last_transition_time.as_ref().unwrap().0.as_second()))
            .collect();
        let expected = [
            ("MemoryPressure", "False", 1),
            ("DiskPressure", "True", 2),
            ("PIDPressure", "False", 1),
            ("Ready", "True", 1),
        ];
        assert_eq!(told, expected);
    }
}
