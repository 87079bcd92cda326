//! What the proxy knows of pods and connections to them from one configuration to the next, and the tables that it makes
//! of configurations.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use decide::balancing::EndpointState;
use decide::network_policy::Policies;
use objects::traffic::SeriesKey;
use tokio::sync::Notify;

use super::port::Port;
use super::{Entries, Passages, Pod, Standing, Table};
use crate::config::{Change, DataPlaneConfig, Elsewhere, Endpoint, PodUid, Service, ServicePort};
use crate::dns::Names;
use crate::proxy::counts::Registry;
use crate::proxy::neighbour::Neighbour;
use crate::proxy::passage::{Passage, Way};
use crate::proxy::retry_budget::RetryBudget;
use crate::proxy::sticky;
use crate::proxy::upstream::{Aside, Other, Upstream};

/// An endpoint on another machine is chosen as often as a pod here would be for each of its pods, up to so many.
const MOST_SHARES: u32 = 16;

/// Uids of withdrawn pods that are remembered after they left the configuration: a day of one replaced pod every
/// five seconds, in about 2 MB.
const REMEMBERED_WITHDRAWALS: usize = 17_280;

/// What outlives a configuration.
pub(super) struct Memory {
    /// Threads that keep connections of their own to each pod.
    workers: usize,
    counts: Arc<Registry>,
    counts_changed: Arc<Notify>,
    /// What is in force; None before the first.
    pub(super) config: Option<DataPlaneConfig>,
    pub(super) pods: HashMap<PodUid, Arc<Pod>>,
    pub(super) upstreams: HashMap<(PodUid, SocketAddr), Arc<Upstream>>,
    /// By this machine's address and theirs.
    neighbours: HashMap<(IpAddr, SocketAddr), Arc<Neighbour>>,
    retries: HashMap<SocketAddr, Arc<RetryBudget>>,
    aside: Arc<AtomicUsize>,
    withdrawn: HashSet<PodUid>,
    withdrawn_in_order: VecDeque<PodUid>,
}

impl Memory {
    pub(super) fn new(
        workers: usize,
        counts: &Arc<Registry>,
        counts_changed: &Arc<Notify>,
        aside: &Arc<AtomicUsize>,
    ) -> Self {
        Self {
            workers,
            counts: counts.clone(),
            counts_changed: counts_changed.clone(),
            config: None,
            pods: HashMap::new(),
            upstreams: HashMap::new(),
            neighbours: HashMap::new(),
            retries: HashMap::new(),
            aside: aside.clone(),
            withdrawn: HashSet::new(),
            withdrawn_in_order: VecDeque::new(),
        }
    }

    fn remember_withdrawals(&mut self, services: &[Arc<Service>]) {
        let endpoints = services.iter().flat_map(|service| &service.ports).flat_map(|port| &port.endpoints);
        for endpoint in endpoints.filter(|endpoint| endpoint.state == EndpointState::Withdrawn) {
            if self.withdrawn.insert(endpoint.pod.clone()) {
                self.withdrawn_in_order.push_back(endpoint.pod.clone());
            }
        }
        let too_many = self.withdrawn_in_order.len().saturating_sub(REMEMBERED_WITHDRAWALS);
        for oldest in self.withdrawn_in_order.drain(..too_many) {
            self.withdrawn.remove(&oldest);
        }
    }

    pub(super) fn table(&mut self, config: &DataPlaneConfig) -> Table {
        let mut ports = HashMap::new();
        self.add_ports(&mut ports, &config.services, &config.policies);
        Table {
            version: config.version,
            ports,
            drains: Vec::new(),
            names: Arc::new(Names::new(config)),
            metrics: config.metrics,
            ingress: Arc::new(Entries::new(&config.ingress)),
            policies: Arc::new(config.policies.clone()),
            tailnet: config.tailnet.clone().map(Arc::new),
            mesh: Arc::new(Passages::new(config)),
        }
    }

    /// The table of `config`, which `change` has made of the one before; `before` are the Services that it is about as
    /// they were there.
    pub(super) fn changed_table(
        &mut self,
        table: &Table,
        config: &DataPlaneConfig,
        change: &Change,
        before: &[Arc<Service>],
    ) -> Table {
        let mut ports = table.ports.clone();
        for service in before {
            for at in service.ports.iter().flat_map(|port| service.addresses_of(port)) {
                ports.remove(&at);
            }
        }
        self.add_ports(&mut ports, &change.services, &config.policies);
        let has_its_names = change.aliases.is_none()
            && before.len() == change.services.len()
            && before.iter().all(|old| change.services.iter().any(|new| new.is_named_like(old)));
        let has_its_entries = change.ingress.is_none();
        Table {
            version: config.version,
            ports,
            drains: Vec::new(),
            names: if has_its_names { table.names.clone() } else { Arc::new(Names::new(config)) },
            metrics: config.metrics,
            ingress: if has_its_entries { table.ingress.clone() } else { Arc::new(Entries::new(&config.ingress)) },
            policies: table.policies.clone(),
            tailnet: table.tailnet.clone(),
            mesh: Arc::new(Passages::new(config)),
        }
    }

    /// Adds the ports of these Services, and forgets what concerns none of all.
    fn add_ports(
        &mut self,
        ports: &mut HashMap<SocketAddr, Arc<Port>>,
        services: &[Arc<Service>],
        policies: &Policies,
    ) {
        self.remember_withdrawals(services);
        for service in services {
            let key: Arc<str> = service.key().into();
            for port in &service.ports {
                for at in service.addresses_of(port) {
                    ports.insert(at, Arc::new(self.port(at, (service, port), key.clone(), policies)));
                }
            }
        }
        self.retries.retain(|at, _| ports.contains_key(at));
    }

    fn port(
        &mut self,
        at: SocketAddr,
        (of, port): (&Service, &ServicePort),
        service: Arc<str>,
        policies: &Policies,
    ) -> Port {
        let mut states: Vec<_> = port.endpoints.iter().map(|endpoint| self.state(endpoint)).collect();
        let mut upstreams: Vec<_> = port.endpoints.iter().map(|endpoint| self.upstream_of(endpoint)).collect();
        let mut shares = vec![1; upstreams.len()];
        let with_each = port.endpoints.iter().zip(&upstreams);
        let mut counts: Vec<_> = with_each
            .map(|(endpoint, upstream)| self.counts.series(series_key(of, port, Some(endpoint)), Some(&upstream.pod)))
            .collect();
        for elsewhere in &port.elsewhere {
            let upstream = self.upstream_elsewhere(elsewhere, &Passage { service: service.clone(), port: port.port });
            let key = SeriesKey { pod_uid: upstream.pod.uid.0.clone(), ..series_key(of, port, None) };
            let series = self.counts.series(key, Some(&upstream.pod));
            let share = elsewhere.ready.clamp(1, MOST_SHARES);
            for _ in 0..share {
                states.push(elsewhere.state);
                upstreams.push(upstream.clone());
                counts.push(series.clone());
                shares.push(share);
            }
        }
        let own_counts = self.counts.series(series_key(of, port, None), None);
        let retries = self.retries.entry(at).or_default().clone();
        let sticky_cookie = of.sticky_cookie.as_deref().map(Arc::from);
        let (speaks, affinity, proxy_protocol) = (port.speaks, of.affinity, of.proxy_protocol);
        let max_request_body = of.max_request_body;
        Port {
            speaks,
            affinity,
            sticky_cookie,
            proxy_protocol,
            max_request_body,
            service,
            states,
            upstreams,
            shares,
            counts,
            own_counts,
            retries,
            is_isolated: port.endpoints.iter().any(|endpoint| policies.isolates_receiver(endpoint.ip)),
        }
    }

    /// A pod once withdrawn stays withdrawn.
    fn state(&self, endpoint: &Endpoint) -> EndpointState {
        if self.withdrawn.contains(&endpoint.pod) { EndpointState::Withdrawn } else { endpoint.state }
    }

    fn upstream_of(&mut self, endpoint: &Endpoint) -> Arc<Upstream> {
        self.upstream(&endpoint.pod, SocketAddr::new(endpoint.ip, endpoint.port), None)
    }

    /// All pods of a Service's port on another machine are as one.
    fn upstream_elsewhere(&mut self, elsewhere: &Elsewhere, passage: &Passage) -> Arc<Upstream> {
        let uid = PodUid::on_another_machine(&elsewhere.machine, &passage.service, passage.port);
        let way = Way { from: elsewhere.from, passage: passage.clone(), key: elsewhere.key.clone() };
        self.upstream(&uid, elsewhere.proxy, Some(way))
    }

    fn upstream(&mut self, uid: &PodUid, address: SocketAddr, way: Option<Way>) -> Arc<Upstream> {
        let new = || Arc::new(Pod::new(uid, &self.counts_changed));
        let pod = self.pods.entry(uid.clone()).or_insert_with(new).clone();
        let place = (uid.clone(), address);
        if self.upstreams.get(&place).is_some_and(|known| !known.is_by(way.as_ref())) {
            self.upstreams.remove(&place);
        }
        let neighbours = &mut self.neighbours;
        let other = |way: Way| {
            let new = || Arc::new(Neighbour::new(way.from, address));
            let neighbour = neighbours.entry((way.from, address)).or_insert_with(new).clone();
            Other { way, neighbour }
        };
        let upstream = self.upstreams.entry(place);
        let (workers, token) = (self.workers, sticky::token(uid, address));
        let new =
            || Arc::new(Upstream::new(address, way.map(other), pod, token, workers, Aside::new(self.aside.clone())));
        upstream.or_insert_with(new).clone()
    }

    /// Where every known pod stands in `table`.
    pub(super) fn standings(&self, table: &Table) -> Vec<(Arc<Pod>, Standing)> {
        let mut best: HashMap<&PodUid, EndpointState> = HashMap::new();
        for port in table.ports.values() {
            for (upstream, state) in port.upstreams.iter().zip(&port.states) {
                let known = best.entry(&upstream.pod.uid).or_insert(*state);
                *known = (*known).max(*state);
            }
        }
        let standing = |pod: &Arc<Pod>| match best.get(&pod.uid) {
            // Nobody waits for work of other machines.
            Some(EndpointState::Ready | EndpointState::Elsewhere | EndpointState::Doubtful) => Standing::Ready,
            Some(EndpointState::Deprioritised) => Standing::Deprioritised,
            Some(EndpointState::Withdrawn) => Standing::Withdrawn,
            None => Standing::Gone,
        };
        self.pods.values().map(|pod| (pod.clone(), standing(pod))).collect()
    }

    /// Whose engine is not heard is looked after, and so is whoever is chosen no more: something may be in flight there.
    pub(super) fn doubt(&self, table: &Table) {
        if self.neighbours.is_empty() {
            return;
        }
        let upstreams = table.ports.values().flat_map(|port| port.upstreams.iter().zip(&port.states));
        let trusted = upstreams.filter(|(_, state)| **state != EndpointState::Doubtful);
        let trusted: HashSet<_> = trusted.filter_map(|(upstream, _)| upstream.neighbour().map(Arc::as_ptr)).collect();
        for neighbour in self.neighbours.values() {
            neighbour.doubt(!trusted.contains(&Arc::as_ptr(neighbour)));
        }
    }

    pub(super) fn drains(&self) -> Vec<Arc<Pod>> {
        let reported = |pod: &&Arc<Pod>| match pod.standing() {
            Standing::Ready => false,
            Standing::Deprioritised | Standing::Withdrawn => true,
            Standing::Gone => pod.outstanding() > 0,
        };
        self.pods.values().filter(reported).cloned().collect()
    }

    pub(super) fn forget_what_is_gone(&mut self) {
        for upstream in self.upstreams.values() {
            match upstream.pod.standing() {
                Standing::Ready | Standing::Deprioritised => upstream.open_pool(),
                Standing::Withdrawn | Standing::Gone => upstream.close_pool(),
            }
        }
        // What nothing but this memory holds is a port that left the configuration; its idle connections close.
        self.upstreams
            .retain(|_, upstream| upstream.pod.standing() != Standing::Gone && Arc::strong_count(upstream) > 1);
        self.neighbours.retain(|_, neighbour| Arc::strong_count(neighbour) > 1);
        self.pods.retain(|_, pod| pod.standing() != Standing::Gone || pod.outstanding() > 0);
    }
}

fn series_key(service: &Service, port: &ServicePort, endpoint: Option<&Endpoint>) -> SeriesKey {
    SeriesKey {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port: port.port,
        pod_uid: endpoint.map(|endpoint| endpoint.pod.0.clone()).unwrap_or_default(),
        pod: endpoint.map(|endpoint| endpoint.pod_name.clone()).unwrap_or_default(),
        version: endpoint.map(|endpoint| endpoint.pod_version.clone()).unwrap_or_default(),
    }
}
