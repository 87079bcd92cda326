//! Has the kernel do what the newest plan says, and asks it what is in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::config::PodUid;
use crate::frames::Drain;
use crate::kernel::connections::{Conntrack, ConntrackError, in_flight, misled, orphans};
use crate::kernel::{self, KernelConfig, Scope};
use crate::rules::RulesError;

/// How long a pod is given to answer what it was asked over UDP before it was withdrawn: nothing tells when it has.
const ANSWERS: Duration = Duration::from_secs(1);

/// The kernel's part of the data plane. One change is made at a time; the newest wins.
pub(super) struct Kernel {
    scope: Scope,
    wanted: Option<Arc<Wanted>>,
    /// What was put in force last; None while nobody knows.
    in_force: Option<Arc<Wanted>>,
    /// Pods by their addresses.
    pods: BTreeMap<Ipv4Addr, PodUid>,
    /// Pods that may still answer over UDP, and until when that is waited for.
    answering: BTreeMap<PodUid, Instant>,
    running: JoinSet<(Arc<Wanted>, Result<Settled, KernelError>)>,
}

#[derive(Debug)]
struct Wanted {
    version: u64,
    config: KernelConfig,
    /// Addresses of pods that are gone.
    gone: BTreeSet<Ipv4Addr>,
}

/// What came of a change.
#[derive(Debug, Default)]
struct Settled {
    /// Connections over TCP; None when conntrack can't be asked.
    in_flight: Option<BTreeMap<PodUid, u32>>,
    /// Pods from which clients over UDP were taken.
    answering: BTreeSet<PodUid>,
}

/// What is in force, and what is in flight under it.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) version: u64,
    /// None when conntrack can't be asked.
    pub(super) pods: Option<Vec<Drain>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    #[error("the kernel can't be told what to balance")]
    Rules(#[from] RulesError),
    #[error("the change of rules broke off")]
    Broke(#[from] tokio::task::JoinError),
}

impl Kernel {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            wanted: None,
            in_force: None,
            pods: BTreeMap::new(),
            answering: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Puts `config` in force under this version, as soon as what is being done is done. `pods` are all there are.
    pub(super) fn want(&mut self, version: u64, config: KernelConfig, pods: BTreeMap<Ipv4Addr, PodUid>) {
        let before = std::mem::replace(&mut self.pods, pods);
        let mut gone: BTreeSet<Ipv4Addr> =
            before.into_iter().filter(|(ip, uid)| self.pods.get(ip) != Some(uid)).map(|(ip, _)| ip).collect();
        if let Some(unfinished) = self.wanted.as_ref().filter(|wanted| !self.is_in_force(wanted)) {
            gone.extend(unfinished.gone.iter().filter(|ip| !self.pods.contains_key(ip)));
        }
        self.wanted = Some(Arc::new(Wanted { version, config, gone }));
        self.start();
    }

    /// Does what is wanted, if nothing is being done; counts anew if all is done.
    pub(super) fn start(&mut self) {
        let Some(wanted) = self.wanted.clone().filter(|_| self.running.is_empty()) else { return };
        let before = self.in_force.clone();
        let (scope, pods) = (self.scope.clone(), self.pods.clone());
        self.running.spawn(async move {
            let settled = match apply(scope.clone(), before, wanted.clone()).await {
                Ok(()) => Ok(follow(scope.instance, wanted.clone(), &pods).await),
                Err(error) => Err(error),
            };
            (wanted, settled)
        });
    }

    /// What came of it. Never ready while nothing is being done; safe to cancel.
    pub(super) async fn done(&mut self) -> Result<Counted, KernelError> {
        let Some(joined) = self.running.join_next().await else { return std::future::pending().await };
        let (done, settled) = joined?;
        let is_newest = self.wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(wanted, &done));
        let version = done.version;
        self.in_force = settled.is_ok().then_some(done);
        let settled = settled?;
        if !is_newest {
            self.start();
        }
        let now = Instant::now();
        self.answering.retain(|_, until| *until > now);
        self.answering.extend(settled.answering.into_iter().map(|uid| (uid, now + ANSWERS)));
        let pods = settled.in_flight.map(|counts| self.drains(counts));
        Ok(Counted { version, pods })
    }

    fn drains(&self, mut counts: BTreeMap<PodUid, u32>) -> Vec<Drain> {
        for uid in self.answering.keys() {
            *counts.entry(uid.clone()).or_default() += 1;
        }
        counts.into_iter().map(|(uid, long)| Drain { long, ..Drain::nothing(uid) }).collect()
    }

    fn is_in_force(&self, wanted: &Arc<Wanted>) -> bool {
        self.in_force.as_ref().is_some_and(|in_force| Arc::ptr_eq(in_force, wanted))
    }
}

/// Changes what is to be another. What is refused doesn't keep the other from being in force.
async fn apply(scope: Scope, before: Option<Arc<Wanted>>, wanted: Arc<Wanted>) -> Result<(), KernelError> {
    let work = move || {
        let (new, old) = (&wanted.config, before.as_ref().map(|before| &before.config));
        let is_guarded = old.is_some_and(|old| old.policies == new.policies);
        let guarded = if is_guarded { Ok(()) } else { kernel::guard(&scope, &new.policies) };
        let is_balanced = old.is_some_and(|old| old.ports == new.ports);
        let balanced = if is_balanced { Ok(()) } else { kernel::balance(&scope, &new.ports) };
        guarded.and(balanced)
    };
    Ok(tokio::task::spawn_blocking(work).await??)
}

async fn follow(instance: String, wanted: Arc<Wanted>, pods: &BTreeMap<Ipv4Addr, PodUid>) -> Settled {
    if wanted.config.ports.is_empty() && wanted.gone.is_empty() {
        return Settled { in_flight: Some(BTreeMap::new()), ..Settled::default() };
    }
    ask_conntrack(instance, wanted, pods).await.unwrap_or_else(|error| {
        tracing::warn!("what the kernel has in flight is not known: {}", super::chain(&error));
        Settled::default()
    })
}

/// Has conntrack forget what leads nowhere, and counts what is in flight.
async fn ask_conntrack(
    instance: String,
    wanted: Arc<Wanted>,
    pods: &BTreeMap<Ipv4Addr, PodUid>,
) -> Result<Settled, ConntrackError> {
    let conntrack = Conntrack::open()?;
    let connections = Arc::new(conntrack.list().await?);
    let through = {
        let (wanted, connections) = (wanted.clone(), connections.clone());
        move || {
            let misled = misled(&wanted.config.ports, &connections);
            (kernel::let_answers_through(&instance, &misled), misled.into_iter().cloned().collect::<Vec<_>>())
        }
    };
    let (through, misled) = tokio::task::spawn_blocking(through).await.map_err(ConntrackError::Broke)?;
    if let Err(error) = through {
        tracing::warn!("late answers over UDP won't reach their clients: {}", super::chain(&error));
    }
    for connection in misled.iter().chain(orphans(&wanted.gone, &connections)) {
        conntrack.forget(connection).await?;
    }
    let answering = misled.iter().filter_map(|connection| pods.get(connection.answering.ip()).cloned()).collect();
    Ok(Settled { in_flight: Some(in_flight(pods, &connections)), answering })
}
