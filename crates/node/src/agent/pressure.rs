//! Looks whether the machine is short of memory or disk, asks `decide::node_pressure` which pod goes, and tells its task.

use std::sync::Arc;
use std::time::Duration;

use decide::Decision;
use decide::eviction::DiskUsage;
use decide::node_pressure::{self, Evict, Resource, Usage, WaitingOn};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::sync::mpsc;
use tracing::warn;

use super::runtime::{Cause, Used, chain};
use super::{Machine, disk};
use crate::node_status::room;

/// How often the machine is looked at; Kubernetes' number.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Names pods to end whenever the machine is short, for as long as it is polled.
pub(super) async fn relieve(machine: Arc<Machine>, evict: mpsc::Sender<Evict>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        look.tick().await;
        for resource in [Resource::Memory, Resource::Disk] {
            let Decision { steps, waiting_on, .. } = match look_at(&machine, resource, last).await {
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
                last = Some(machine.clock.now());
            }
            for pod in steps {
                // Whoever would hear it goes with the engine.
                let _ = evict.send(pod).await;
            }
        }
    }
}

async fn look_at(
    machine: &Arc<Machine>,
    resource: Resource,
    last: Option<Timestamp>,
) -> Result<Decision<Evict, WaitingOn>, Cause> {
    let (thresholds, now) = (&machine.settings.eviction, machine.clock.now());
    let room = room(resource, &machine.settings.data_dir);
    if !thresholds.are_crossed(resource, room) {
        return Ok(node_pressure::next_steps(resource, room, thresholds, &[], last, now));
    }
    let api: Api<Pod> = Api::all(machine.client.clone());
    let own = ListParams::default().fields(&format!("spec.nodeName={}", machine.settings.node_name));
    let pods = api.list(&own).await?.items;
    let measured = measure(machine, resource, pods).await?;
    let usages: Vec<Usage<'_>> =
        measured.iter().map(|(pod, used)| Usage { pod, whole: used.whole, containers: &used.containers }).collect();
    Ok(node_pressure::next_steps(resource, room, thresholds, &usages, last, now))
}

/// Blocks for as long as it takes to look at every file, if the disk is what is short.
async fn measure(machine: &Arc<Machine>, resource: Resource, pods: Vec<Pod>) -> Result<Vec<(Pod, Used)>, Cause> {
    let machine = Arc::clone(machine);
    let measure = move || {
        let used = |pod: &Pod| match resource {
            Resource::Memory => Ok(machine.runtime.memory(pod.metadata.uid.as_deref().unwrap_or_default())?),
            Resource::Disk => Ok(on_disk(disk::measure(&machine.settings, pod)?)),
        };
        pods.into_iter().map(|pod| used(&pod).map(|used| (pod, used))).collect()
    };
    tokio::task::spawn_blocking(measure).await?
}

fn on_disk(usage: DiskUsage) -> Used {
    let whole = usage.empty_dirs.values().chain(usage.containers.values()).sum();
    Used { whole, containers: usage.containers }
}
