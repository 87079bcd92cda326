//! The configuration in force, and what is in flight under it. Every pick is made and counted under the lock that a
//! new configuration takes to come into force. So once `apply` has returned, no pick of an older configuration can
//! follow, and every earlier one is either counted as in flight or over.

mod memory;
mod port;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use decide::balancing::EndpointState;
use decide::exposure::is_front;
use decide::ingress::Routes;
use decide::network_policy::Policies;
use decide::retries;
use objects::ranges::Range;
use objects::traffic::{self, ConnectionClass, SeriesKey};
use tokio::sync::{Notify, watch};

use super::access_log::AccessLog;
use super::caller::Caller;
use super::certificates::Certificates;
use super::clients::Clients;
use super::connection::Tls;
use super::counts::{OpenConnection, Registry, Series};
use super::neighbour::Presence;
use super::passage::Passage;
use super::upstream::Upstream;
use crate::config::{
    Applied, Backend, Change, DataPlaneConfig, Ingress, Mesh, PodUid, ProxyProtocol, Secret, Speaks, Tailnet,
};
use crate::dns::Names;
use crate::frames::Drain;
use memory::Memory;
use port::{Port, random};

/// The configuration in force.
pub(crate) struct Balancer {
    table: RwLock<Table>,
    memory: Mutex<Memory>,
    version: watch::Sender<u64>,
    counts_changed: Arc<Notify>,
    /// Endpoints that are set aside.
    aside: Arc<AtomicUsize>,
    counts: Arc<Registry>,
    access_log: AccessLog,
    certificates: Arc<Certificates>,
    clients: Arc<Clients>,
    /// Connections from machines' addresses that have not shown a key.
    unproven: Arc<Clients>,
    is_leaving: AtomicBool,
}

#[derive(Default)]
struct Table {
    version: u64,
    ports: HashMap<SocketAddr, Arc<Port>>,
    /// Pods whose work is reported: not ready, or gone from the configuration with work in flight.
    drains: Vec<Arc<Pod>>,
    names: Arc<Names>,
    metrics: Option<SocketAddr>,
    ingress: Arc<Entries>,
    policies: Arc<Policies>,
    tailnet: Option<Arc<Tailnet>>,
    mesh: Arc<Passages>,
}

/// What other machines of the mesh may ask for, and where it is.
#[derive(Default)]
struct Passages {
    at: Option<SocketAddr>,
    machines: BTreeMap<IpAddr, Secret>,
    /// Addresses that mean something else on each machine.
    private: Vec<Range>,
    places: HashMap<Passage, SocketAddr>,
}

/// Where requests from outside come in, and where they go.
#[derive(Default)]
struct Entries {
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    routes: Routes<Backend>,
}

/// A pod, and what is in flight to it.
#[derive(Debug)]
pub(crate) struct Pod {
    uid: PodUid,
    standing: AtomicU8,
    requests: AtomicU32,
    long: AtomicU32,
    /// Becomes true when long connections to it are to end.
    long_is_over: watch::Sender<bool>,
    counts_changed: Arc<Notify>,
    withdrawn_at: OnceLock<Instant>,
    drained: OnceLock<traffic::Drain>,
}

/// Connections of one machine's address at a time that have not shown its key.
const MOST_UNPROVEN: u32 = 1024;

/// Long connections that have to end do so within this time, so that not all clients come back at once.
const SPREAD: Duration = Duration::from_secs(1);

/// A pod's place in the configuration, as it stands in `Pod::standing`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ready = 0,
    Deprioritised = 1,
    Withdrawn = 2,
    Gone = 3,
}

/// How work is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// An HTTP request, until its response has been received.
    Request,
    /// A connection whose end nobody can predict.
    Long,
}

/// A piece of work, counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) series: Arc<Series>,
    work: Work,
    /// Set for long connections that are open to the client's knowledge.
    open: Option<OpenConnection>,
}

/// Why nothing was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPick {
    /// No endpoint may be given work.
    NothingReady,
    /// Every endpoint that may be given work was tried.
    AllTried,
    /// Policies forbid the client every endpoint that may be given work.
    Forbidden,
}

impl Balancer {
    /// For so many threads, of which each keeps connections of its own.
    pub(crate) fn new(workers: usize) -> Self {
        let (aside, counts) = (Arc::new(AtomicUsize::new(0)), Arc::new(Registry::new(workers)));
        let counts_changed = Arc::default();
        Self {
            table: RwLock::default(),
            memory: Mutex::new(Memory::new(workers, &counts, &counts_changed, &aside)),
            version: watch::Sender::default(),
            counts_changed,
            aside,
            counts,
            access_log: AccessLog::default(),
            certificates: Arc::default(),
            clients: Arc::default(),
            unproven: Arc::new(Clients::limited(MOST_UNPROVEN)),
            is_leaving: AtomicBool::new(false),
        }
    }

    /// The endpoint of this token, if it is ready and the caller may reach it, with the work counted.
    pub(crate) fn pick_again(&self, at: SocketAddr, caller: Caller, token: u64, work: Work) -> Option<InFlight> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let port = table.ports.get(&at)?;
        let index = port.upstreams.iter().position(|upstream| upstream.token == token)?;
        let is_well = port.states[index] == EndpointState::Ready
            && !port.upstreams[index].is_aside()
            && port.is_open_to(caller, &table.policies, index);
        if is_well && work == Work::Request {
            port.retries.earn();
        }
        is_well.then(|| port.count(index, work))
    }

    /// The cookie by which clients come back to a pod of the Service whose port is at `at`.
    pub(crate) fn sticky_cookie(&self, at: SocketAddr) -> Option<Arc<str>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at)?.sticky_cookie.clone()
    }

    /// Who alone may connect there, if it is before a Service that is on the tailnet.
    pub(crate) fn tailnet_before(&self, at: SocketAddr) -> Option<Arc<Tailnet>> {
        let IpAddr::V4(ip) = at.ip() else { return None };
        if !ip.is_loopback() {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.tailnet.clone().filter(|tailnet| is_front(tailnet.fronts, ip))
    }

    /// Whether other machines of the mesh connect there.
    pub(crate) fn is_mesh(&self, at: SocketAddr) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).mesh.at == Some(at)
    }

    /// Whether it is the address of another machine of the mesh.
    pub(crate) fn is_machine(&self, ip: IpAddr) -> bool {
        self.table.read().unwrap_or_else(PoisonError::into_inner).mesh.machines.contains_key(&ip.to_canonical())
    }

    /// Whether an address may be another's here than on the machine that says it.
    pub(crate) fn is_private(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip.to_canonical() else { return ip.is_loopback() };
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        ip.is_loopback() || table.mesh.private.iter().any(|range| range.contains(ip))
    }

    /// Where a Service's port is that another machine asks for; nowhere for whoever doesn't know the machine's key.
    pub(crate) fn place_of(&self, machine: IpAddr, passage: &Passage, key: &Secret) -> Option<SocketAddr> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let is_known = table.mesh.machines.get(&machine).is_some_and(|known| known.is(&key.0));
        is_known.then(|| table.mesh.places.get(passage).copied()).flatten()
    }

    /// Whether and how pods there are told whom a connection comes from.
    pub(crate) fn proxy_protocol(&self, at: SocketAddr) -> Option<ProxyProtocol> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at)?.proxy_protocol
    }

    /// The most bytes that the body of a request for the port at `at` may have.
    pub(crate) fn max_request_body(&self, at: SocketAddr) -> u64 {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at).and_then(|port| port.max_request_body).unwrap_or(u64::MAX)
    }

    /// Picks an endpoint for work that `caller` brought to `at`, leaving out those in `tried`, and counts the work.
    pub(crate) fn pick(
        &self,
        at: SocketAddr,
        caller: Caller,
        work: Work,
        tried: &[SocketAddr],
    ) -> Result<InFlight, NoPick> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let port = table.ports.get(&at).ok_or(NoPick::NothingReady)?;
        let (states, client) = (port.states_for(caller, &table.policies)?, caller.ip());
        let some_aside = self.aside.load(Ordering::Relaxed) > 0;
        let preferred =
            some_aside.then(|| port.states_without(&states, |it| it.is_aside() || tried.contains(&it.address)));
        let preferred = preferred.and_then(|states| port.pick(&states, client));
        let picked = match preferred {
            Some(picked) => picked,
            None if tried.is_empty() => port.pick(&states, client).ok_or(NoPick::NothingReady)?,
            None => {
                let untried = port.states_without(&states, |it| tried.contains(&it.address));
                port.pick(&untried, client).ok_or(NoPick::AllTried)?
            }
        };
        if work == Work::Request {
            port.retries.earn();
        }
        Ok(port.count(picked, work))
    }

    /// Counts work for an endpoint that was chosen earlier, if it may still be given work of this caller.
    pub(crate) fn claim(
        &self,
        at: SocketAddr,
        caller: Caller,
        upstream: &Arc<Upstream>,
        work: Work,
    ) -> Option<InFlight> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let port = table.ports.get(&at)?;
        let index = port.upstreams.iter().position(|it| Arc::ptr_eq(it, upstream))?;
        let is_well = port.states[index] != EndpointState::Withdrawn && port.is_open_to(caller, &table.policies, index);
        is_well.then(|| port.count(index, work))
    }

    /// Takes one more repeat from the budget of the Service's port.
    pub(crate) fn spend_retry(&self, at: SocketAddr) -> retries::Budget {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at).map_or(retries::Budget::Spent, |port| port.retries.spend())
    }

    /// What the Service says about the port at `at`.
    pub(crate) fn speaks(&self, at: SocketAddr) -> Speaks {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at).map_or(Speaks::FindOut, |port| port.speaks)
    }

    /// `namespace/name` of the Service whose port is at `at`.
    pub(crate) fn service(&self, at: SocketAddr) -> Option<Arc<str>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at).map(|port| port.service.clone())
    }

    /// Counts of what concerns no pod of the Service whose port is at `at`.
    pub(crate) fn counts_at(&self, at: SocketAddr) -> Option<Arc<Series>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ports.get(&at).map(|port| port.own_counts.clone())
    }

    /// From now on another proxy takes the connections that come.
    pub(crate) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    /// Whether requests that come in there are told apart by host and path, and whether with TLS.
    pub(crate) fn is_ingress(&self, at: SocketAddr) -> Option<Tls> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Entries { http, https, .. } = &*table.ingress;
        if *https == Some(at) { Some(Tls::Yes) } else { (*http == Some(at)).then_some(Tls::No) }
    }

    /// What is behind a path of a host.
    pub(crate) fn route(&self, host: &str, path: &str) -> Option<Backend> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.ingress.routes.find(host, path).cloned()
    }

    /// Counts of requests from outside that no Service had a part in.
    pub(crate) fn ingress_counts(&self) -> Arc<Series> {
        self.counts.series(SeriesKey::default(), None)
    }

    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    pub(crate) fn unproven(&self) -> &Arc<Clients> {
        &self.unproven
    }

    /// Whether a pod of this machine may take what comes there.
    pub(crate) fn has_pod_at(&self, at: SocketAddr) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let takes = |(upstream, state): (&Arc<Upstream>, &EndpointState)| {
            !upstream.is_elsewhere() && *state != EndpointState::Withdrawn
        };
        table.ports.get(&at).is_some_and(|port| port.upstreams.iter().zip(&port.states).any(takes))
    }

    pub(crate) fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// Where metrics are shown.
    pub(crate) fn metrics_at(&self) -> Option<SocketAddr> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).metrics
    }

    /// Everything that was counted.
    pub(crate) fn counts(&self) -> Vec<traffic::Series> {
        self.counts.read()
    }

    /// What was counted since this was last asked; or everything.
    pub(crate) fn counts_since_told(&self, everything: bool) -> Vec<traffic::Series> {
        if everything {
            self.counts.forget_what_was_told();
        }
        self.counts.changes()
    }

    pub(crate) fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// The names that DNS answers.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).names.clone()
    }

    /// Tells every change of the configuration from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What is in force, if anything is.
    pub(crate) fn configuration(&self) -> Option<DataPlaneConfig> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// The version in force.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Puts a configuration in force. When this returns it holds for every later pick.
    pub(crate) fn apply(&self, config: DataPlaneConfig) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let table = memory.table(&config);
        self.put_in_force(&mut memory, table, &config);
        memory.config = Some(config);
    }

    /// Puts what has changed in force, if it is a change of what is in force. When this returns it holds for every later
    /// pick.
    pub(crate) fn change(&self, change: &Change) -> Applied {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut config) = memory.config.take() else { return Applied::No };
        let before = config.services_of(&change.names()).into_values().flatten().cloned().collect::<Vec<_>>();
        let applied = config.apply(change);
        if applied == Applied::Yes {
            let table = if change.policies.is_some() {
                // Every port knows whether they are about it.
                memory.table(&config)
            } else {
                let in_force = self.table.read().unwrap_or_else(PoisonError::into_inner);
                memory.changed_table(&in_force, &config, change, &before)
            };
            self.put_in_force(&mut memory, table, &config);
        }
        memory.config = Some(config);
        applied
    }

    fn put_in_force(&self, memory: &mut Memory, mut table: Table, config: &DataPlaneConfig) {
        let standings = memory.standings(&table);
        {
            let mut in_force = self.table.write().unwrap_or_else(PoisonError::into_inner);
            for (pod, standing) in &standings {
                pod.stand(*standing);
            }
            std::mem::swap(&mut *in_force, &mut table);
            in_force.drains = memory.drains();
        }
        drop(table);
        memory.doubt(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        for pod in config.end_long.iter().filter_map(|uid| memory.pods.get(uid)) {
            pod.long_is_over.send_if_modified(|is_over| !std::mem::replace(is_over, true));
        }
        memory.forget_what_is_gone();
        self.access_log.switch(config.access_log);
        self.clients.limit(config.connections_per_client);
        for error in self.certificates.renew(&config.ingress.certificates) {
            tracing::warn!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
        }
        self.version.send_replace(config.version);
    }

    /// The version in force, and the work of every pod that is not ready in it.
    pub(crate) fn drains(&self) -> (u64, Vec<Drain>) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        (table.version, table.drains.iter().map(|pod| pod.drain()).collect())
    }

    /// Waits until a count that [`Balancer::drains`] gives may have changed.
    pub(crate) async fn counts_changed(&self) {
        self.counts_changed.notified().await;
    }

    /// Closes pooled connections that have been idle for long.
    pub(crate) fn close_idle(&self) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.upstreams.values().for_each(|upstream| upstream.close_idle());
        self.counts.forget();
    }
}

impl Entries {
    fn new(ingress: &Ingress) -> Self {
        let routes = Routes::new(ingress.rules.iter().cloned(), ingress.default.clone());
        Self { http: ingress.http, https: ingress.https, routes }
    }
}

impl Passages {
    fn new(config: &DataPlaneConfig) -> Self {
        let mut places = HashMap::new();
        for service in config.services.iter().filter(|service| service.is_in_mesh) {
            let key: Arc<str> = service.key().into();
            for port in &service.ports {
                if let Some(at) = service.addresses_of(port).next() {
                    places.insert(Passage { service: key.clone(), port: port.port }, at);
                }
            }
        }
        let Mesh { at, machines } = config.mesh.clone();
        Self { at, machines, private: config.dns.ranges.clone(), places }
    }
}

impl Pod {
    fn new(uid: &PodUid, counts_changed: &Arc<Notify>) -> Self {
        Self {
            uid: uid.clone(),
            standing: AtomicU8::new(Standing::Gone as u8),
            requests: AtomicU32::new(0),
            long: AtomicU32::new(0),
            long_is_over: watch::Sender::new(false),
            counts_changed: counts_changed.clone(),
            withdrawn_at: OnceLock::new(),
            drained: OnceLock::new(),
        }
    }

    /// Takes its place in a new configuration.
    fn stand(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::SeqCst);
        match standing {
            Standing::Ready | Standing::Deprioritised => {}
            Standing::Withdrawn => {
                self.withdrawn_at.get_or_init(Instant::now);
                self.note_the_end_of_its_drain();
            }
            Standing::Gone => self.note_drain(),
        }
    }

    fn note_the_end_of_its_drain(&self) {
        if self.outstanding() == 0 {
            self.note_drain();
        }
    }

    fn note_drain(&self) {
        let Some(withdrawn_at) = self.withdrawn_at.get() else { return };
        let Drain { requests, long, .. } = self.drain_counts();
        let milliseconds = withdrawn_at.elapsed().as_millis() as u64;
        let _ = self.drained.set(traffic::Drain { milliseconds, requests, long });
    }

    /// How it was drained, once it is.
    pub(crate) fn drained(&self) -> Option<traffic::Drain> {
        self.drained.get().copied()
    }

    /// Whether it may still be sent what was picked for it.
    pub(crate) fn may_be_sent_to(&self) -> bool {
        match self.standing() {
            Standing::Ready | Standing::Deprioritised => true,
            Standing::Withdrawn | Standing::Gone => false,
        }
    }

    fn standing(&self) -> Standing {
        match self.standing.load(Ordering::SeqCst) {
            0 => Standing::Ready,
            1 => Standing::Deprioritised,
            2 => Standing::Withdrawn,
            _ => Standing::Gone,
        }
    }

    fn outstanding(&self) -> u32 {
        let Drain { requests, long, .. } = self.drain_counts();
        requests + long
    }

    fn drain(&self) -> Drain {
        Drain { uid: self.uid.clone(), ..self.drain_counts() }
    }

    /// Requests first: work that becomes long is counted as long before it stops being a request.
    fn drain_counts(&self) -> Drain {
        let requests = self.requests.load(Ordering::SeqCst);
        let long = self.long.load(Ordering::SeqCst);
        Drain { uid: PodUid(String::new()), requests, long }
    }

    fn counter(&self, work: Work) -> &AtomicU32 {
        match work {
            Work::Request => &self.requests,
            Work::Long => &self.long,
        }
    }

    fn tell_change(&self) {
        if self.standing() != Standing::Ready {
            self.counts_changed.notify_one();
        }
        if self.standing() == Standing::Withdrawn {
            self.note_the_end_of_its_drain();
        }
    }
}

impl InFlight {
    fn count(upstream: Arc<Upstream>, series: Arc<Series>, work: Work) -> Self {
        upstream.pod.counter(work).fetch_add(1, Ordering::SeqCst);
        upstream.pod.tell_change();
        Self { upstream, series, work, open: None }
    }

    /// Waits until this work, if it is long, has to end.
    pub(crate) fn is_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let (mut is_over, is_gone) = (self.upstream.pod.long_is_over.subscribe(), self.upstream.is(Presence::Gone));
        let is_over = async move {
            if is_over.wait_for(|is_over| *is_over).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        async move {
            tokio::select! {
                () = is_over => {}
                () = is_gone => return,
            }
            let [bits, _] = random();
            tokio::time::sleep(SPREAD.mul_f64(f64::from(bits) / f64::from(u32::MAX))).await;
        }
    }

    /// Goes on as a long connection, and is counted as open.
    pub(crate) fn become_long(&mut self, class: ConnectionClass) {
        self.open = Some(self.series.open(class));
        if self.work == Work::Request {
            self.upstream.pod.long.fetch_add(1, Ordering::SeqCst);
            self.upstream.pod.requests.fetch_sub(1, Ordering::SeqCst);
            self.work = Work::Long;
            self.upstream.pod.tell_change();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.upstream.pod.counter(self.work).fetch_sub(1, Ordering::SeqCst);
        self.upstream.pod.tell_change();
    }
}
