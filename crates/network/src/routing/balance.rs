//! Has the kernel do what the newest plan says, and asks it what is in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::config::PodUid;
use crate::frames::Drain;
use crate::kernel::connections::{Conntrack, ConntrackError, in_flight, misled, orphans};
use crate::kernel::{self, KernelConfig};
use crate::rules::RulesError;

/// How long a pod is given to answer what it was asked over UDP before it was withdrawn: nothing tells when it has.
const ANSWERS: Duration = Duration::from_secs(1);

/// The kernel's part of the data plane. One change is made at a time; the newest wins.
pub(super) struct Kernel {
    instance: String,
    /// Whom the proxy runs as.
    proxy_user: Option<u32>,
    wanted: Option<Arc<Wanted>>,
    /// What was put in force last; None while nobody knows.
    in_force: Option<Arc<Wanted>>,
    /// Pods that connections may be passed on to, by their addresses.
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
    pub(super) fn new(instance: String, proxy_user: Option<u32>) -> Self {
        Self {
            instance,
            proxy_user,
            wanted: None,
            in_force: None,
            pods: BTreeMap::new(),
            answering: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Puts `config` in force under this version, as soon as what is being done is done. `living` are all pods.
    pub(super) fn want(&mut self, version: u64, config: KernelConfig, living: &BTreeSet<PodUid>) {
        let (mut gone, remembered) = (BTreeSet::new(), std::mem::take(&mut self.pods));
        for (ip, uid) in remembered {
            if living.contains(&uid) {
                self.pods.insert(ip, uid);
            } else {
                gone.insert(ip);
            }
        }
        for endpoint in config.ports.iter().flat_map(|port| &port.port.endpoints).filter(|it| living.contains(&it.pod))
        {
            if let IpAddr::V4(ip) = endpoint.ip {
                self.pods.insert(ip, endpoint.pod.clone());
            }
        }
        if let Some(unfinished) = self.wanted.as_ref().filter(|wanted| !self.is_in_force(wanted)) {
            gone.extend(&unfinished.gone);
        }
        self.wanted = Some(Arc::new(Wanted { version, config, gone }));
        self.start();
    }

    /// Does what is wanted, if nothing is being done; counts anew if all is done.
    pub(super) fn start(&mut self) {
        let Some(wanted) = self.wanted.clone().filter(|_| self.running.is_empty()) else { return };
        let is_the_same = self.in_force.as_ref().is_some_and(|in_force| in_force.config == wanted.config);
        let (instance, proxy_user, pods) = (self.instance.clone(), self.proxy_user, self.pods.clone());
        self.running.spawn(async move {
            let applied = if is_the_same { Ok(()) } else { apply(instance.clone(), wanted.clone(), proxy_user).await };
            let settled = match applied {
                Ok(()) => Ok(follow(instance, wanted.clone(), &pods).await),
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

async fn apply(instance: String, wanted: Arc<Wanted>, proxy_user: Option<u32>) -> Result<(), KernelError> {
    Ok(tokio::task::spawn_blocking(move || kernel::apply(&instance, &wanted.config, proxy_user)).await??)
}

async fn follow(instance: String, wanted: Arc<Wanted>, pods: &BTreeMap<Ipv4Addr, PodUid>) -> Settled {
    if pods.is_empty() && wanted.gone.is_empty() {
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
        move || kernel::let_answers_through(&instance, &misled(&wanted.config.ports, &connections))
    };
    if let Err(error) = tokio::task::spawn_blocking(through).await.map_err(KernelError::from).and_then(|it| Ok(it?)) {
        tracing::warn!("late answers over UDP won't reach their clients: {}", super::chain(&error));
    }
    let misled = misled(&wanted.config.ports, &connections);
    for connection in misled.iter().copied().chain(orphans(&wanted.gone, &connections)) {
        conntrack.forget(connection).await?;
    }
    let answering = misled.iter().filter_map(|connection| pods.get(connection.answering.ip()).cloned()).collect();
    Ok(Settled { in_flight: Some(in_flight(pods, &connections)), answering })
}
