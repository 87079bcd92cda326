//! The node agent: registers the machine as a Node, and looks after every pod that is bound to it, each in a task of its
//! own. Events of the API only wake a task. It never asks a controller and never calls the data plane.

mod apply;
pub(crate) mod clock;
mod disk;
pub(crate) mod events;
mod hooks;
mod image_garbage;
mod images;
mod memory;
mod mounted;
mod news;
mod pod_task;
mod pods;
mod pressure;
mod pull_secrets;
pub mod runtime;
mod settings;
mod shims;
mod start_container;
mod status_writer;
mod take_snapshot;

#[cfg(any(test, feature = "fakes"))]
pub mod fakes;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use objects::pods::Resources;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::cgroups::{self, CgroupError, Hierarchies};
use crate::pod::etc_files::{EtcFiles, Naming};
use crate::pod_network::PodNetwork;
use crate::{node_status, pod};
use clock::Clock;
use events::Recorder;
use mounted::Mounted;
use runtime::{Runtime, RuntimeError};

pub use images::{Images, StoredImages};
pub(crate) use news::News;
pub use settings::Settings;

/// Pods that are made at once; each takes a process and a few mounts, and more only slow each other down.
const STARTS_AT_ONCE: usize = 8;
/// Images that are pulled at once; Kubernetes' runtimes pull about as many layers.
const PULLS_AT_ONCE: usize = 3;

/// What the agent is to do with its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Look after them.
    Run,
    /// Let them run and go away.
    Leave,
    /// Stop every pod, leave nothing of it behind but its files, and keep its object for the next engine.
    Down,
}

/// Why the agent can't do its work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot create directory {path:?}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up the pods' network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot use the machine's cgroups")]
    Cgroups(#[source] CgroupError),
    #[error("cannot register the node")]
    Node(#[source] kube::Error),
    #[error("cannot list the node's pods")]
    List(#[source] kube::Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Why a round for one pod came to no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("cannot read the pod")]
    Read(#[source] kube::Error),
    #[error("cannot list the NetworkPolicies")]
    Policies(#[source] kube::Error),
    #[error("cannot write the pod's status")]
    WriteStatus(#[source] kube::Error),
    #[error("cannot delete the pod")]
    Delete(#[source] kube::Error),
    #[error("cannot encode the pod")]
    Encode(#[source] serde_json::Error),
    #[error("cannot remove {path:?}")]
    RemoveFiles {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What all pods' tasks share.
pub(crate) struct Machine {
    settings: Settings,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    events: Recorder,
    clock: Clock,
    capacity: Resources,
    starts: Semaphore,
    pulls: Semaphore,
    mounted: Mounted,
}

/// Runs the agent until it is ordered to leave, or until an order to go down is done.
///
/// # Errors
/// When the machine lacks something, or the API refuses the node.
pub async fn run(
    settings: Settings,
    client: kube::Client,
    images: Arc<dyn Images>,
    orders: watch::Receiver<Order>,
) -> Result<(), AgentError> {
    for directory in [settings.data_dir.join("pods"), settings.run_dir.join("pods")] {
        std::fs::create_dir_all(&directory).map_err(|source| AgentError::Directory { path: directory, source })?;
    }
    let network = PodNetwork::open(&settings.run_dir, &settings.instance, settings.pod_range)
        .map_err(|error| AgentError::Network(error.into()))?;
    let network = Arc::new(network);
    let hierarchies = Hierarchies::find().map_err(AgentError::Cgroups)?;
    let shims = shims::Shims::new(settings.clone(), Arc::clone(&network), hierarchies.clone());
    let (instance, last_order) = (settings.instance.clone(), orders.clone());
    run_with(settings, client, Arc::new(shims), images, orders).await?;
    if *last_order.borrow() == Order::Down {
        network.close().await.map_err(|error| AgentError::Network(error.into()))?;
        cgroups::remove_instance(&instance, &hierarchies).map_err(AgentError::Cgroups)?;
    }
    Ok(())
}

/// Stops every pod that an earlier engine left, and leaves nothing of them behind but their files and objects.
///
/// # Errors
/// As [`run`].
pub async fn stop_all(settings: Settings, client: kube::Client, images: Arc<dyn Images>) -> Result<(), AgentError> {
    let (_order, orders) = watch::channel(Order::Down);
    run(settings, client, images, orders).await
}

/// The same over any runtime.
async fn run_with(
    settings: Settings,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    orders: watch::Receiver<Order>,
) -> Result<(), AgentError> {
    let machine = Arc::new(Machine {
        events: Recorder::start(client.clone(), settings.node_name.clone()),
        clock: Clock::start(),
        capacity: node_status::capacity(),
        starts: Semaphore::new(STARTS_AT_ONCE),
        pulls: Semaphore::new(PULLS_AT_ONCE),
        mounted: Mounted::follow(&client),
        settings,
        client,
        runtime,
        images,
    });
    let (client, settings, clock) = (machine.client.clone(), machine.settings.clone(), machine.clock);
    let recent = node_status::register(&client, &settings, clock).await.map_err(AgentError::Node)?;
    let heartbeat = tokio::spawn(node_status::keep_up_to_date(client, settings, clock, recent));
    let collector = tokio::spawn(image_garbage::collect(Arc::clone(&machine)));
    let (evict, evictions) = mpsc::channel(1);
    let relief = tokio::spawn(pressure::relieve(Arc::clone(&machine), evict));
    let ended = pods::look_after_all(machine, orders, evictions).await;
    relief.abort();
    collector.abort();
    heartbeat.abort();
    ended
}

impl Machine {
    fn write_etc_files(&self, pod: &Pod, ip: Ipv4Addr) -> io::Result<()> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let naming =
            Naming { dns: self.settings.dns, cluster_domain: &self.settings.cluster_domain, resolv_conf: &resolv_conf };
        let files = EtcFiles::new(pod, ip, &naming);
        files.write(&pod::etc_directory(&self.settings, uid))
    }
}
