//! How a pod's snapshot comes together: its object from the API, its containers from its shim, the rest from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use decide::pod_lifecycle::{
    ContainerSnapshot, Exit, ExitReason, Instance, NetworkPolicies, PodSnapshot, PostStart, Running, Sandbox, Stop,
    find_status,
};
use decide::probes::{self, Answers, ProbeKind, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, Probe};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams};
use objects::names;
use tracing::{info, warn};

use super::disk::Measuring;
use super::memory::{ContainerMemory, Ended, Looked, Seen, all_containers};
use super::pod_task::PodTask;
use super::runtime::{Found, chain};
use super::{Order, PodError};
use crate::pod::{status_id, termination_message};
use crate::probes::{Prober, Target};
use crate::shim::protocol::{self, ContainerState, Status};

impl PodTask {
    pub(super) async fn take_snapshot(&mut self) -> Result<PodSnapshot, PodError> {
        self.read_object().await?;
        self.look_for_sandbox().await?;
        let reports = self.read_containers().await?;
        let now = self.machine.clock.now();
        let pod = self.memory.pod().clone();
        let containers = all_containers(&pod)
            .map(|container| (container.name.clone(), self.container_snapshot(&pod, container, &reports, now)))
            .collect::<BTreeMap<_, _>>();
        let network_policies = self.network_policies(&pod, &containers).await?;
        Ok(PodSnapshot {
            network_policies,
            stop: self.stop(&pod, now),
            host_ip: self.machine.settings.host_ip.to_string(),
            active_for: self.active_for(&pod, now),
            nodes_end: self.memory.nodes_end.clone(),
            ending_for: self.ending_for(&pod, now),
            volumes: self.memory.volumes.clone(),
            files: self.memory.files,
            object: self.memory.object,
            sandbox: self.sandbox(),
            containers,
            pod,
        })
    }

    async fn read_object(&mut self) -> Result<(), PodError> {
        if !self.memory.is_gone() {
            let api: Api<Pod> = Api::namespaced(self.machine.client.clone(), &self.key.namespace);
            let read = api.get_opt(&self.key.name).await.map_err(PodError::Read)?;
            self.memory.take_object(read, self.machine.clock.now());
        }
        Ok(())
    }

    /// An earlier engine's sandbox is taken over as it is.
    async fn look_for_sandbox(&mut self) -> Result<(), PodError> {
        if self.memory.looked_for_sandbox == Looked::NotYet {
            let found = self.machine.runtime.adopt(&self.key.uid, Arc::clone(&self.wake)).await?;
            if let Some(sandbox) = found {
                info!(pod = %self.key.name, "found running; taken over");
                self.take_sandbox(sandbox);
                // Nobody has followed what its volumes show.
                self.memory.volumes_are_stale(self.machine.clock.now());
            }
            self.memory.looked_for_sandbox = Looked::Done;
        }
        Ok(())
    }

    pub(super) fn take_sandbox(&mut self, sandbox: Found) {
        self.memory.sandbox = Some(sandbox);
        self.memory.measuring = Measuring::start(&self.machine.settings, self.memory.pod(), self.tell.clone());
        self.memory.sandbox_retry_at = None;
        self.memory.volumes = decide::pod_lifecycle::Volumes::Ready;
        self.memory.tried_with_success();
    }

    /// A sandbox that does not answer is looked for once more before it counts as dead.
    async fn read_containers(&mut self) -> Result<Vec<ContainerState>, PodError> {
        // Whatever runs there is ended with the sandbox.
        let sandbox = self.memory.sandbox.clone().filter(|_| !self.memory.is_gone());
        let Some(sandbox) = sandbox else { return Ok(Vec::new()) };
        let error = match sandbox.containers().await {
            Ok(containers) => return Ok(containers),
            Err(error) => error,
        };
        match self.machine.runtime.adopt(&self.key.uid, Arc::clone(&self.wake)).await? {
            Some(sandbox) => {
                let containers = sandbox.containers().await?;
                self.take_sandbox(sandbox);
                Ok(containers)
            }
            None => {
                warn!(pod = %self.key.name, error = chain(&error), "the pod's sandbox is dead");
                self.memory.forget_sandbox();
                Ok(Vec::new())
            }
        }
    }

    fn sandbox(&self) -> Sandbox {
        match (&self.memory.sandbox, self.memory.sandbox_retry_at) {
            (Some(sandbox), _) => Sandbox::Ready { ip: sandbox.ip().to_string() },
            (None, Some(retry_at)) => Sandbox::Failed { retry_at },
            (None, None) => Sandbox::Absent,
        }
    }

    fn stop(&mut self, pod: &Pod, now: Timestamp) -> Option<Stop> {
        let wall = Timestamp::now();
        if self.memory.is_gone() {
            return Some(Stop::Vanished);
        }
        if *self.orders.borrow() == Order::Down {
            let seen = self.memory.order_down.get_or_insert_with(|| Seen::now(wall, wall, now));
            return Some(Stop::Down { since: seen.age(now) });
        }
        let deleted_at = objects::pods::deleted_at(pod)?;
        Some(Stop::Deleted { since: Seen::age_of(&mut self.memory.deletion, deleted_at, now) })
    }

    /// Asked only for a pod with an address of which no container has run yet.
    async fn network_policies(
        &self,
        pod: &Pod,
        containers: &BTreeMap<String, ContainerSnapshot>,
    ) -> Result<NetworkPolicies, PodError> {
        let ran = containers.values().any(|it| matches!(it.instance, Instance::Running(_) | Instance::Exited(_)));
        let Some(sandbox) = self.memory.sandbox.as_ref().filter(|_| !ran) else { return Ok(NetworkPolicies::InForce) };
        let named = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        if objects::pods::is_true(pod, names::POLICIES_IN_FORCE) && named == Some(&*sandbox.ip().to_string()) {
            return Ok(NetworkPolicies::InForce);
        }
        let api: Api<NetworkPolicy> = Api::all(self.machine.client.clone());
        let policies = api.list(&ListParams::default().limit(1)).await.map_err(PodError::Policies)?;
        Ok(if policies.items.is_empty() { NetworkPolicies::InForce } else { NetworkPolicies::Awaited })
    }

    fn active_for(&mut self, pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
        let started = pod.status.as_ref()?.start_time.as_ref()?.0;
        Some(Seen::age_of(&mut self.memory.start, started, now))
    }

    fn ending_for(&mut self, pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
        let since = objects::pods::node_ends_since(pod)?;
        Some(Seen::age_of(&mut self.memory.ending, since, now))
    }

    fn container_snapshot(
        &mut self,
        pod: &Pod,
        container: &Container,
        reports: &[ContainerState],
        now: Timestamp,
    ) -> ContainerSnapshot {
        let last_status = find_status(pod, &container.name);
        let of_container = reports.iter().filter(|report| report.name == container.name);
        let report = of_container.max_by_key(|report| report.attempt);
        let uid = self.key.uid.clone();
        let known = self.memory.container_mut(&container.name);
        let mut instance = report
            .and_then(|report| reported(report, &uid, last_status, known))
            .filter(|instance| !is_before(instance, known.never_ran.as_ref()))
            .or_else(|| known.never_ran.clone().map(Instance::Exited))
            .or_else(|| last_status.map(Instance::from_status))
            .unwrap_or(Instance::None);
        match &mut instance {
            Instance::Running(running) => seed_verdicts(known, &running.container_id, last_status),
            Instance::Exited(exit) => {
                let settings = &self.machine.settings;
                let last_words =
                    |exit: &Exit| termination_message::read(settings, pod, container, exit.attempt, exit.code);
                note_end(known, exit, now, last_words);
            }
            Instance::None | Instance::Earlier(_) => {}
        }
        let mut snapshot = ContainerSnapshot::new(container, instance);
        copy_memory(&mut snapshot, known);
        self.start_probes(pod, container, report, &snapshot);
        snapshot
    }

    /// Starts the probes that are to be asked now, and ends the others. What is going away anyway is not restarted, so
    /// only its readiness is asked for.
    fn start_probes(
        &mut self,
        pod: &Pod,
        container: &Container,
        report: Option<&ContainerState>,
        snapshot: &ContainerSnapshot,
    ) {
        let goes = snapshot.stopping.is_some() || objects::pods::is_terminating(pod);
        let (Instance::Running(running), Some(report)) = (&snapshot.instance, report) else { return };
        if snapshot.post_start == PostStart::Running {
            return;
        }
        let Some(sandbox) = self.memory.sandbox.clone() else { return };
        let tell = self.tell.clone();
        let known = self.memory.container_mut(&container.name);
        for (kind, probe) in probes_of(container) {
            let ends = goes && kind != ProbeKind::Readiness;
            if ends || !probes::is_asked(kind, snapshot.startup) {
                known.probers.remove(&kind);
                continue;
            }
            let seeded = known.verdicts.get(&kind).copied();
            known.probers.entry(kind).or_insert_with(|| {
                let target = Target {
                    sandbox: Arc::clone(&sandbox),
                    container: container.clone(),
                    runtime_id: report.id.clone(),
                    container_id: running.container_id.clone(),
                };
                let running_for = Timestamp::now().duration_since(running.started_at);
                let answers = seeded.map_or_else(|| Answers::none_yet(kind), Answers::starting_from);
                Prober::start(target, kind, probe.clone(), running_for, answers, tell.clone())
            });
        }
    }
}

/// What the shim says of a container; None for one whose start was not finished, which is made anew.
fn reported(
    report: &ContainerState,
    uid: &str,
    last_status: Option<&ContainerStatus>,
    known: &ContainerMemory,
) -> Option<Instance> {
    let attempt = i32::try_from(report.attempt).unwrap_or(i32::MAX);
    let container_id = status_id(uid, &report.name, attempt);
    let image_id = image_id(&container_id, last_status, known);
    match &report.status {
        Status::Created => None,
        Status::Running { started_at } => {
            Some(Instance::Running(Running { attempt, container_id, image_id, started_at: *started_at }))
        }
        Status::Exited(exit) => Some(Instance::Exited(Exit {
            attempt,
            container_id,
            image_id,
            code: exit.code,
            reason: exit_reason(exit),
            message: exit.start_error.clone(),
            started_at: exit.started_at,
            finished_at: Some(exit.finished_at),
        })),
    }
}

fn is_before(instance: &Instance, never_ran: Option<&Exit>) -> bool {
    let attempt = match instance {
        Instance::Running(running) => running.attempt,
        Instance::Exited(exit) | Instance::Earlier(exit) => exit.attempt,
        Instance::None => return true,
    };
    never_ran.is_some_and(|never_ran| attempt < never_ran.attempt)
}

fn exit_reason(exit: &protocol::Exit) -> ExitReason {
    if exit.start_error.is_some() {
        ExitReason::StartError
    } else if exit.oom_killed {
        ExitReason::OomKilled
    } else if exit.code == 0 {
        ExitReason::Completed
    } else {
        ExitReason::Error
    }
}

fn image_id(container_id: &str, last_status: Option<&ContainerStatus>, known: &ContainerMemory) -> String {
    let remembered = known.image_id.as_ref().filter(|(id, _)| id == container_id).map(|(_, image)| image.clone());
    let recorded = || last_status.filter(|status| status.container_id.as_deref() == Some(container_id));
    remembered.or_else(|| recorded().map(|status| status.image_id.clone())).unwrap_or_default()
}

/// The first sight of a run. If an earlier engine had it ready, it is ready until its probes say otherwise.
fn seed_verdicts(known: &mut ContainerMemory, container_id: &str, last_status: Option<&ContainerStatus>) {
    if known.probed_id.as_deref() == Some(container_id) {
        return;
    }
    known.forget_run();
    known.probed_id = Some(container_id.to_owned());
    let recorded = last_status.filter(|status| status.container_id.as_deref() == Some(container_id));
    if recorded.is_some_and(|status| status.started == Some(true)) {
        known.verdicts.insert(ProbeKind::Startup, Verdict::Success);
    }
    if recorded.is_some_and(|status| status.ready) {
        known.verdicts.insert(ProbeKind::Readiness, Verdict::Success);
    }
}

/// What a run said last is read once: the file is a container's, and may be large.
fn note_end(
    known: &mut ContainerMemory,
    exit: &mut Exit,
    now: Timestamp,
    last_words: impl Fn(&Exit) -> Option<String>,
) {
    let noted = known.ended.take().filter(|ended| ended.status_id == exit.container_id);
    let ended = noted.unwrap_or_else(|| Ended {
        status_id: exit.container_id.clone(),
        at: now,
        last_words: exit.started_at.and_then(|_| last_words(exit)),
    });
    exit.message = exit.message.take().or_else(|| ended.last_words.clone());
    known.ended = Some(ended);
    known.forget_run();
}

fn copy_memory(snapshot: &mut ContainerSnapshot, known: &ContainerMemory) {
    snapshot.ended_at = match &snapshot.instance {
        Instance::Exited(exit) => {
            known.ended.as_ref().filter(|ended| ended.status_id == exit.container_id).map(|ended| ended.at)
        }
        Instance::None | Instance::Running(_) | Instance::Earlier(_) => None,
    };
    snapshot.image = known.image.clone();
    snapshot.failed_pull = known.failed_pull;
    snapshot.failure = known.failure.clone();
    snapshot.restarts = known.restarts;
    snapshot.backing_off_until = known.backing_off_until;
    snapshot.stopping = known.stopping;
    if let (Instance::Running(running), Some((id, post_start))) = (&snapshot.instance, &known.post_start)
        && *id == running.container_id
    {
        snapshot.post_start = *post_start;
    }
    let verdict = |kind| known.verdicts.get(&kind).copied();
    snapshot.startup = verdict(ProbeKind::Startup).unwrap_or(snapshot.startup);
    snapshot.readiness = verdict(ProbeKind::Readiness).unwrap_or(snapshot.readiness);
    snapshot.liveness = verdict(ProbeKind::Liveness).unwrap_or(snapshot.liveness);
}

fn probes_of(container: &Container) -> impl Iterator<Item = (ProbeKind, &Probe)> {
    let probes = [
        (ProbeKind::Startup, &container.startup_probe),
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
    ];
    probes.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
}
