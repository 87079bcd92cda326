//! A machine with its data plane: pods start, become ready, are acknowledged, crash, drain and end, each in its own
//! time. It asks `safe_to_stop` as the node agent does, and checks the answer against what it knows to be in flight.

use std::collections::BTreeMap;

use decide::availability;
use decide::safe_to_stop::{StopCause, safe_to_stop};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::names;
use objects::pods::{self, Routed};

use crate::rng::Rng;
use crate::world::World;

/// How long things take, in seconds from the first to the second number.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    pub start: (i64, i64),
    pub ready: (i64, i64),
    pub acknowledge: (i64, i64),
    pub withdraw: (i64, i64),
    pub finish_requests: (i64, i64),
    pub exit: (i64, i64),
}

/// What a version does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Works,
    NeverReady,
    /// Becomes ready and dies again, for ever.
    Crashes,
}

/// The machine's own knowledge of its pods.
#[derive(Clone, Debug)]
pub struct Machine {
    pub delays: Delays,
    /// Versions that do not work, by image.
    pub behaviours: BTreeMap<String, Behaviour>,
    /// While the data plane is held, nothing is acknowledged.
    pub acknowledges: bool,
    rng: Rng,
    pods: BTreeMap<String, Running>,
}

/// When each thing happens to a pod; None when it is not to happen, or has happened.
#[derive(Clone, Debug, Default)]
struct Running {
    start: Option<Timestamp>,
    ready: Option<Timestamp>,
    acknowledge: Option<Timestamp>,
    crash: Option<Timestamp>,
    withdraw: Option<Timestamp>,
    idle: Option<Timestamp>,
    exit: Option<Timestamp>,
    /// Whether the data plane may give it requests.
    routed: bool,
    /// Whether it has requests, which it had while it was routed.
    busy: bool,
    leaving: bool,
}

impl Delays {
    /// Everything takes a second.
    pub const STEADY: Self = Self {
        start: (1, 1),
        ready: (1, 1),
        acknowledge: (1, 1),
        withdraw: (1, 1),
        finish_requests: (1, 1),
        exit: (1, 1),
    };
}

impl Machine {
    /// A machine without pods.
    #[must_use]
    pub fn new(delays: Delays, rng: Rng) -> Self {
        Self { delays, behaviours: BTreeMap::new(), acknowledges: true, rng, pods: BTreeMap::new() }
    }

    /// Does everything that is due by now.
    ///
    /// # Errors
    /// A sentence, when a pod was signalled that still had requests.
    pub fn advance(&mut self, world: &mut World) -> Result<(), String> {
        self.pods.retain(|name, _| world.pods.contains_key(name));
        let names: Vec<_> = world.pods.keys().cloned().collect();
        names.into_iter().try_for_each(|name| self.advance_pod(world, &name))
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_due(&self, world: &World) -> Option<Timestamp> {
        let held = |it: &Running| if self.acknowledges { it.acknowledge } else { None };
        let times = |it: &Running| [it.start, it.ready, held(it), it.crash, it.withdraw, it.idle, it.exit];
        let timers = self.pods.values().flat_map(times).flatten();
        let refusals = world.pods.values().filter_map(|pod| {
            safe_to_stop(pod, StopCause::Deletion, world.now).err().and_then(|reason| reason.look_again_at())
        });
        let unseen = world.pods.iter().any(|(name, pod)| self.has_not_seen(name, pod)).then_some(world.now);
        timers.chain(refusals).chain(unseen).min()
    }

    /// Kills the pod's container; it is started again.
    pub fn crash(&mut self, world: &mut World, name: &str) {
        let restart = Some(self.later(world, self.delays.start));
        let Some(running) = self.pods.get_mut(name).filter(|running| !running.leaving) else { return };
        *running = Running { start: restart, ..Running::default() };
        let now = Time(world.now);
        world.write_pod(name, |pod| {
            set_condition(pod, "Ready", "False", "ContainersNotReady", &now);
            set_condition(pod, names::ROUTED, "False", "NotReady", &now);
            let status = pod.status.get_or_insert_default();
            status.container_statuses.iter_mut().flatten().for_each(|it| it.state = None);
        });
    }

    /// Ends the pod for good, as an eviction by the node does.
    pub fn fail(&mut self, world: &mut World, name: &str) {
        self.crash(world, name);
        self.pods.insert(name.to_owned(), Running::default());
        world.write_pod(name, |pod| pod.status.get_or_insert_default().phase = Some("Failed".to_owned()));
    }

    /// Whether the pod is new, or was asked to go since the machine looked.
    fn has_not_seen(&self, name: &str, pod: &Pod) -> bool {
        self.pods.get(name).is_none_or(|running| pods::is_terminating(pod) && !running.leaving)
    }

    fn advance_pod(&mut self, world: &mut World, name: &str) -> Result<(), String> {
        if !self.pods.contains_key(name) {
            let start = Some(self.later(world, self.delays.start));
            self.pods.insert(name.to_owned(), Running { start, ..Running::default() });
            bind(world, name);
        }
        let Some(pod) = world.pods.get(name).cloned() else { return Ok(()) };
        self.live(world, &pod, name);
        if pods::is_terminating(&pod) {
            self.leave(world, &pod, name);
            return self.stop(world, name);
        }
        Ok(())
    }

    /// Starting, becoming ready, being acknowledged, crashing.
    fn live(&mut self, world: &mut World, pod: &Pod, name: &str) {
        let now = world.now;
        let behaviour = self.behaviour(pod);
        let routed = availability::routed(pod, &world.services);
        let (ready, acknowledge) = (self.later(world, self.delays.ready), self.later(world, self.delays.acknowledge));
        let acknowledges = self.acknowledges;
        let crash = self.later(world, self.delays.ready);
        let Some(running) = self.pods.get_mut(name) else { return };
        if is_due(&mut running.start, now) && !pods::is_finished(pod) {
            running.ready = (behaviour != Behaviour::NeverReady).then_some(ready);
            world.write_pod(name, |pod| start(pod, now));
        } else if is_due(&mut running.ready, now) {
            running.acknowledge = (routed == Routed::Required).then_some(acknowledge);
            running.crash = (behaviour == Behaviour::Crashes).then_some(crash);
            world.write_pod(name, |pod| set_condition(pod, "Ready", "True", "", &Time(now)));
        } else if running.acknowledge.is_some_and(|due| due <= now) && acknowledges {
            running.acknowledge = None;
            (running.routed, running.busy) = (true, true);
            world.write_pod(name, |pod| set_condition(pod, names::ROUTED, "True", "", &Time(now)));
        } else if is_due(&mut running.crash, now) {
            self.crash(world, name);
        }
    }

    /// Being withdrawn and finishing what is in flight, told in the pod's condition.
    fn leave(&mut self, world: &mut World, pod: &Pod, name: &str) {
        let now = world.now;
        let withdraw = self.later(world, self.delays.withdraw);
        let idle = self.later(world, self.delays.finish_requests);
        let Some(running) = self.pods.get_mut(name) else { return };
        let told = if !running.leaving {
            running.leaving = true;
            running.acknowledge = None;
            if running.routed {
                running.withdraw = Some(withdraw);
                ("False", names::DEPRIORITISED)
            } else {
                ("True", names::NOT_ROUTED)
            }
        } else if is_due(&mut running.withdraw, now) {
            (running.routed, running.idle) = (false, Some(idle));
            ("False", names::WITHDRAWN)
        } else if is_due(&mut running.idle, now) {
            running.busy = false;
            ("True", names::IDLE)
        } else {
            return;
        };
        if pods::is_terminating(pod) {
            world.write_pod(name, |pod| set_condition(pod, names::DRAINED, told.0, told.1, &Time(now)));
        }
    }

    /// Signals the pod when that is safe, and removes it when it has ended.
    fn stop(&mut self, world: &mut World, name: &str) -> Result<(), String> {
        let now = world.now;
        let exit = self.later(world, self.delays.exit);
        let (Some(pod), Some(running)) = (world.pods.get(name), self.pods.get_mut(name)) else { return Ok(()) };
        if is_due(&mut running.exit, now) {
            world.pods.remove(name);
        } else if running.exit.is_none() && safe_to_stop(pod, StopCause::Deletion, now).is_ok() {
            let deadline = decide::safe_to_stop::drain_deadline(pod);
            if (running.routed || running.busy) && deadline.is_none_or(|deadline| now < deadline) {
                return Err(format!("{name} was signalled with requests in flight"));
            }
            *running = Running { exit: Some(exit), leaving: true, ..Running::default() };
        }
        Ok(())
    }

    fn behaviour(&self, pod: &Pod) -> Behaviour {
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
        self.behaviours.get(&image).copied().unwrap_or(Behaviour::Works)
    }

    fn later(&mut self, world: &World, (from, to): (i64, i64)) -> Timestamp {
        world.now + SignedDuration::from_secs(self.rng.between(from, to))
    }
}

/// Takes the time when it has come.
fn is_due(time: &mut Option<Timestamp>, now: Timestamp) -> bool {
    time.take_if(|due| *due <= now).is_some()
}

fn bind(world: &mut World, name: &str) {
    world.write_pod(name, |pod| {
        pod.spec.get_or_insert_default().node_name = Some("machine".to_owned());
        pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    });
}

fn start(pod: &mut Pod, now: Timestamp) {
    let state = ContainerState {
        running: Some(ContainerStateRunning { started_at: Some(Time(now)) }),
        ..ContainerState::default()
    };
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Running".to_owned());
    status.container_statuses =
        Some(vec![ContainerStatus { name: "app".to_owned(), state: Some(state), ..ContainerStatus::default() }]);
}

fn set_condition(pod: &mut Pod, type_: &str, status: &str, reason: &str, now: &Time) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        last_transition_time: Some(now.clone()),
        ..PodCondition::default()
    });
}
