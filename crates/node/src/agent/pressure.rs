//! Looks whether the machine is short of memory or disk, asks `decide::node_pressure` which pod goes, and tells its task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use decide::Decision;
use decide::eviction::DiskUsage;
use decide::node_pressure::{self, Evict, Resource, Shortage, Usage, WaitingOn};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use objects::pods::is_finished;
use tokio::sync::mpsc;
use tracing::warn;

use super::runtime::{Cause, Used, chain};
use super::{Machine, Settings, disk, image_garbage};
use crate::images::Swept;
use crate::node_status;

/// How often the machine is looked at; Kubernetes' number.
const LOOK_EVERY: Duration = Duration::from_secs(10);

struct Watch {
    machine: Arc<Machine>,
    /// When a pod was last named, or seen on its way.
    last: Option<Timestamp>,
    images_kept_since: Option<Timestamp>,
}

/// Names pods to end whenever the machine is short, for as long as it is polled.
pub(super) async fn relieve(machine: Arc<Machine>, evict: mpsc::Sender<Evict>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watch = Watch { machine, last: None, images_kept_since: None };
    loop {
        look.tick().await;
        for resource in [Resource::Memory, Resource::Disk] {
            let Decision { steps, waiting_on, .. } = match watch.look_at(resource).await {
                Ok(decision) => decision,
                Err(error) => {
                    warn!(error = chain(&*error), "what pods use could not be measured; trying again");
                    continue;
                }
            };
            for reason in &waiting_on {
                warn!(%reason, "the machine is short of {}", resource.name());
            }
            let is_leaving = |reason: &WaitingOn| matches!(reason, WaitingOn::Leaving { .. });
            if !steps.is_empty() || waiting_on.iter().any(is_leaving) {
                watch.last = Some(watch.machine.clock.now());
            }
            for pod in steps {
                // Whoever would hear it goes with the engine.
                let _ = evict.send(pod).await;
            }
        }
    }
}

impl Watch {
    async fn look_at(&mut self, resource: Resource) -> Result<Decision<Evict, WaitingOn>, Cause> {
        let Settings { data_dir, eviction, node_name, .. } = &self.machine.settings;
        let mut room = node_status::room(resource, data_dir);
        if resource == Resource::Disk {
            self.images_kept_since = match eviction.are_crossed(resource, room) {
                true => self.remove_images().await?,
                false => None,
            };
            room = node_status::room(resource, data_dir);
        }
        let mut measured = Vec::new();
        if eviction.are_crossed(resource, room) {
            let api: Api<Pod> = Api::all(self.machine.client.clone());
            let own = ListParams::default().fields(&format!("spec.nodeName={node_name}"));
            measured = measure(&self.machine, resource, api.list(&own).await?.items).await?;
        }
        let usages: Vec<Usage<'_>> =
            measured.iter().map(|(pod, used)| Usage { pod, whole: used.whole, containers: &used.containers }).collect();
        let images_kept_since = self.images_kept_since.filter(|_| resource == Resource::Disk);
        let shortage = Shortage { of: resource, room, thresholds: eviction, last: self.last, images_kept_since };
        Ok(node_pressure::next_steps(&shortage, &usages, self.machine.clock.now()))
    }

    /// Since when that can't be done.
    async fn remove_images(&self) -> Result<Option<Timestamp>, Cause> {
        Ok(match image_garbage::remove_unused(&self.machine).await? {
            Swept::Yes => None,
            Swept::No => self.images_kept_since.or_else(|| Some(self.machine.clock.now())),
        })
    }
}

/// Blocks for as long as it takes to look at every file, if the disk is what is short.
async fn measure(machine: &Arc<Machine>, resource: Resource, pods: Vec<Pod>) -> Result<Vec<(Pod, Used)>, Cause> {
    let machine = Arc::clone(machine);
    let measure = move || {
        let used = |pod: &Pod| {
            let (settings, uid) = (&machine.settings, pod.metadata.uid.as_deref().unwrap_or_default());
            Ok(match resource {
                Resource::Memory => machine.runtime.memory(uid)?,
                Resource::Disk if is_finished(pod) => {
                    Used { whole: disk::left_behind(settings, uid)?, containers: BTreeMap::new() }
                }
                Resource::Disk => on_disk(disk::measure(settings, pod)?),
            })
        };
        pods.into_iter().map(|pod| used(&pod).map(|used| (pod, used))).collect()
    };
    tokio::task::spawn_blocking(measure).await?
}

fn on_disk(usage: DiskUsage) -> Used {
    let whole = usage.empty_dirs.values().chain(usage.containers.values()).sum();
    Used { whole, containers: usage.containers }
}
