//! One pod's loop: take a snapshot, ask what to do, write the status, do it, sleep until something happens.

use std::sync::Arc;
use std::time::Duration;

use decide::pod_lifecycle::{self, EndReason, PodSnapshot, PodStep, Volumes, WaitingOn};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, warn};

use super::events::EventType;
use super::memory::Memory;
use super::mounted::Changes;
use super::news::News;
use super::runtime::chain;
use super::status_writer::{self, Written};
use super::{Machine, Order, PodError};
use crate::volumes;

/// News that wait to be heard. A pod of ten containers with three probes each says less between two rounds.
const NEWS_KEPT: usize = 64;
/// Rounds without a rest. More would mean that a step changes nothing, which must not keep the machine busy.
const RESTLESS_ROUNDS: u32 = 100;
/// How long a pod rests after a round that failed or brought nothing forward.
const REST: Duration = Duration::from_secs(1);

/// Which pod a task looks after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodKey {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// Looks after one pod until nothing of it is left.
pub(super) struct PodTask {
    pub(super) machine: Arc<Machine>,
    pub(super) key: PodKey,
    pub(super) wake: Arc<Notify>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) memory: Memory,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) tell: mpsc::Sender<News>,
    mounted: Changes,
    last_waiting: Vec<WaitingOn>,
}

/// What a round came to.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// Something was done, so there may be more to do.
    Again,
    /// Nothing is to be done before this time, or before something happens.
    Rest(Option<Timestamp>),
    /// Nothing of the pod is left.
    Over,
}

impl PodKey {
    /// None for an object that the API did not make.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        Some(Self { namespace: metadata.namespace.clone()?, name: metadata.name.clone()?, uid: metadata.uid.clone()? })
    }
}

impl PodTask {
    pub(super) fn new(
        machine: Arc<Machine>,
        key: PodKey,
        pod: Pod,
        wake: Arc<Notify>,
        orders: watch::Receiver<Order>,
    ) -> Self {
        let (tell, news) = mpsc::channel(NEWS_KEPT);
        let mounted = machine.mounted.changes();
        Self { machine, key, wake, orders, memory: Memory::of(pod), news, tell, mounted, last_waiting: Vec::new() }
    }

    /// Runs until the pod is over.
    pub(super) async fn run(mut self) {
        let mut restless = 0;
        loop {
            let round = self.round().await;
            match round {
                Ok(Round::Over) => return,
                Ok(Round::Again) if restless < RESTLESS_ROUNDS => restless += 1,
                Ok(Round::Rest(until)) => {
                    restless = 0;
                    self.rest(until).await;
                }
                Ok(Round::Again) => {
                    warn!(pod = %self.key.name, "steps bring the pod no further; resting");
                    restless = 0;
                    tokio::time::sleep(REST).await;
                }
                Err(error) => {
                    warn!(pod = %self.key.name, error = chain(&error), "a round for the pod failed; trying again");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// The status is written before the steps are done: whoever is signalled is known as not ready first, and no
    /// ended container is replaced before its end is on record.
    async fn round(&mut self) -> Result<Round, PodError> {
        self.hear_news();
        let snapshot = self.take_snapshot().await?;
        let decision = pod_lifecycle::next_steps(&snapshot, self.machine.clock.now());
        self.note_waiting(decision.waiting_on);
        match self.write_status(&snapshot).await? {
            Written::Same => {}
            Written::Changed if decision.steps.is_empty() => return Ok(Round::Again),
            Written::Changed => {}
            Written::Outdated => return Ok(Round::Again),
        }
        for step in &decision.steps {
            debug!(pod = %self.key.name, ?step, "applying");
            self.apply(step, &snapshot).await?;
            if *step == PodStep::Forget {
                return Ok(Round::Over);
            }
        }
        Ok(if decision.steps.is_empty() { Round::Rest(decision.look_again_at) } else { Round::Again })
    }

    async fn write_status(&self, snapshot: &PodSnapshot) -> Result<Written, PodError> {
        if self.memory.is_gone() {
            return Ok(Written::Same);
        }
        let status = pod_lifecycle::status(snapshot, Timestamp::now());
        let before = snapshot.pod.status.as_ref().and_then(|status| status.reason.clone());
        let (reason, message) = (status.reason.clone(), status.message.clone().unwrap_or_default());
        let written = status_writer::write(&self.machine.client, &snapshot.pod, status).await?;
        if written == Written::Changed && reason != before {
            self.tell_end(reason.as_deref().and_then(EndReason::of_word), message);
        }
        Ok(written)
    }

    fn tell_end(&self, reason: Option<EndReason>, message: String) {
        let Some(reason) = reason else { return };
        let event_type = match reason {
            EndReason::DeadlineExceeded => EventType::Normal,
            EndReason::Evicted | EndReason::SysctlForbidden => EventType::Warning,
        };
        self.record(None, event_type, reason.word(), message);
    }

    async fn rest(&mut self, until: Option<Timestamp>) {
        let clock = self.machine.clock;
        let due = async {
            match until {
                Some(time) => tokio::time::sleep_until(clock.instant(time)).await,
                None => std::future::pending().await,
            }
        };
        let settings = &self.machine.settings;
        let is_ready = self.memory.volumes == Volumes::Ready;
        let tokens_due = volumes::tokens_due(settings, self.memory.pod()).filter(|_| is_ready);
        let tokens_are_due = async {
            match tokens_due {
                Some(time) => tokio::time::sleep_until(clock.instant(time)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wake.notified() => {}
            Some(news) = self.news.recv() => self.hear(news),
            () = self.mounted.changed_for(self.memory.pod()) => self.memory.volumes_are_stale(clock.now()),
            Ok(()) = self.orders.changed() => {}
            () = tokens_are_due => self.memory.volumes_are_stale(clock.now()),
            () = due => {}
        }
    }

    fn hear_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.hear(news);
        }
    }

    fn note_waiting(&mut self, waiting_on: Vec<WaitingOn>) {
        if waiting_on != self.last_waiting {
            for reason in &waiting_on {
                debug!(pod = %self.key.name, %reason, "waiting");
            }
            self.last_waiting = waiting_on;
        }
    }
}
