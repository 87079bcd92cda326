//! The engine's side of traffic: watches Services, EndpointSlices and Pods, tells the data plane what to do, and
//! writes on pods what the data plane has acknowledged. It carries no traffic itself, so it may stop at any time.

mod balance;
mod book;
mod fronts;
mod ingress;
mod ledger;
mod load_balancers;
mod plan;
mod replacement;
mod traffic;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use decide::exposure::Target;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use kube::Client;
use objects::names::POLICIES_IN_FORCE;
use objects::pods::drain_budget;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chain;
use crate::config::{Base, Listener, PodUid};
use crate::events::{About, Said, write_event};
use crate::frames::{Refused, Report};
use crate::kernel::Scope;
use crate::link::{DataPlaneCommand, Greeting, Link, LinkError};
use crate::mesh::{Here, Machines};
use crate::rules::Rules;
use crate::tailnet::{Fronts, Peers, Shared};
use crate::watch::{Cache, follow};
use balance::{Counted, Kernel, KernelError};
use book::{Book, Condition, ForProxy, Now, Round, Sending, Side};
use ingress::{CertificateFaults, IngressStatus};
use ledger::Told;
use load_balancers::{BalancerStatus, statuses};
use plan::Snapshot;
pub use replacement::Replacement;
pub use traffic::Traffic;
use writes::{Written, write_balancer, write_condition, write_guarded, write_ingress};

/// The pause before a keeper that could not be reached or started is tried again.
const LINK_PAUSE: Duration = Duration::from_millis(500);
/// How often sockets that could not be opened are tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// The pause before a write that failed for another reason than a change of the pod.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// The pause before the kernel is told again what it refused.
const KERNEL_PAUSE: Duration = Duration::from_secs(1);
/// How often the kernel is asked what is in flight to pods that go away.
const COUNT_PAUSE: Duration = Duration::from_millis(100);
/// Writes at one time. More only wait in the API server for the same commit.
const MOST_WRITES: usize = 32;

/// Secrets that hold a certificate.
const CERTIFICATES: &str = "type=kubernetes.io/tls";

/// Events that are heard before anything is done about them.
const MOST_HEARD: usize = 64;

/// What routing has to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to start the data plane where there is none.
    pub data_plane: DataPlaneCommand,
    pub base: Base,
    /// The rules that the kernel has anyway.
    pub rules: Rules,
    /// Where the API is, to which a Service leads.
    pub api: SocketAddr,
    /// The machine's address, at which Services of type LoadBalancer are reached.
    pub host: IpAddr,
    /// Where what the data plane counts is entered.
    pub traffic: Traffic,
    /// By which others have the proxy replaced.
    pub replacement: Replacement,
    /// Where the tailnet hears at which fronts connections are taken.
    pub fronts: Shared<Fronts>,
    /// Where the tailnet says which addresses its names have.
    pub peers: Shared<Peers>,
    /// Where the mesh says what it knows of other machines, if this one is in a mesh.
    pub machines: Option<Shared<Arc<Machines>>>,
    /// Ports of this machine that are for engines and proxies of other machines alone.
    pub mesh_ports: RangeInclusive<u16>,
    /// Where it hears what of that is in force, and what is ready here.
    pub here: Shared<Here>,
}

/// What routing is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Pods get work as the API has it.
    Route,
    /// No pod gets new work any more; routing ends when nothing is in flight, or every pod's drain budget is over.
    DrainAll,
}

/// Routes until it has drained everything, if it is ordered to. When this future is dropped, the data plane goes on as
/// it was told last.
pub async fn run(client: Client, settings: Settings, mut orders: Receiver<Order>) {
    let mut routing = Routing::new(client, settings);
    let mut drained_by = None;
    loop {
        tokio::select! {
            Ok(()) = orders.changed() => {}
            () = sleep_until(drained_by) => return,
            event = routing.wait() => {
                let follows_nothing = matches!(event, Event::Reported(Ok(Some(Report::Traffic { .. }))));
                routing.hear(event).await;
                // It comes every second, and with a thousand Services a round costs as much as a thousand requests.
                if follows_nothing {
                    continue;
                }
            }
        }
        // What has arrived meanwhile is heard first: an acknowledgement and the counts after it make one write.
        for _ in 0..MOST_HEARD {
            let Some(event) = routing.wait().now_or_never() else { break };
            routing.hear(event).await;
        }
        if *orders.borrow() == Order::DrainAll {
            drained_by.get_or_insert_with(|| routing.drain_all());
        }
        routing.act().await;
        if drained_by.is_some() && routing.book.is_idle() {
            return;
        }
    }
}

struct Routing {
    client: Client,
    settings: Settings,
    caches: Caches,
    /// When, by the wall and by a clock that never jumps.
    began: (Timestamp, Instant),
    book: Book,
    link: Option<Link>,
    open_link_at: Instant,
    kernel: Kernel,
    ask_kernel_at: Option<Instant>,
    look_again_at: Option<Instant>,
    try_refused_at: Option<Instant>,
    refused: BTreeSet<Listener>,
    /// Statuses of load balancers that were written last.
    balancers: BTreeSet<BalancerStatus>,
    balancer_writes: JoinSet<(BalancerStatus, Written)>,
    /// The same of Ingresses.
    ingress_statuses: BTreeSet<IngressStatus>,
    ingress_writes: JoinSet<(IngressStatus, Written)>,
    certificate_faults: CertificateFaults,
    writes: JoinSet<(Condition, Written)>,
    /// The version of each pod that a write was based on; the same version is not written to twice.
    written: BTreeMap<PodUid, String>,
}

enum Event {
    /// The API or the time has changed.
    Changed,
    LinkIsDue,
    ReplacementWanted,
    RefusedAreDue,
    Reported(Result<Option<Report>, LinkError>),
    KernelIsDue,
    KernelDone(Result<Counted, KernelError>),
    Written(Condition, Written),
    BalancerWritten(BalancerStatus, Written),
    IngressWritten(IngressStatus, Written),
}

impl Routing {
    fn new(client: Client, settings: Settings) -> Self {
        let proxy_user = settings.data_plane.keeper.proxy_user.map(|user| user.uid);
        let Rules { instance, services, .. } = settings.rules.clone();
        let scope = Scope { instance, services, proxy_user };
        Self {
            caches: Caches::follow(&client, &settings.peers, settings.machines.as_ref()),
            client,
            kernel: Kernel::new(scope),
            ask_kernel_at: None,
            settings,
            began: (Timestamp::now(), Instant::now()),
            book: Book::default(),
            link: None,
            open_link_at: Instant::now(),
            look_again_at: None,
            try_refused_at: None,
            refused: BTreeSet::new(),
            balancers: BTreeSet::new(),
            balancer_writes: JoinSet::new(),
            ingress_statuses: BTreeSet::new(),
            ingress_writes: JoinSet::new(),
            certificate_faults: CertificateFaults::default(),
            writes: JoinSet::new(),
            written: BTreeMap::new(),
        }
    }

    async fn wait(&mut self) -> Event {
        tokio::select! {
            () = self.caches.changed.notified() => Event::Changed,
            () = sleep_until(self.look_again_at) => Event::Changed,
            () = sleep_until(self.try_refused_at) => Event::RefusedAreDue,
            () = sleep_until(self.link.is_none().then_some(self.open_link_at)) => Event::LinkIsDue,
            reported = receive(&mut self.link) => Event::Reported(reported),
            () = sleep_until(self.ask_kernel_at) => Event::KernelIsDue,
            done = self.kernel.done() => Event::KernelDone(done),
            () = self.settings.replacement.is_wanted(), if self.link.is_some() => Event::ReplacementWanted,
            Some(Ok((condition, written))) = self.writes.join_next() => Event::Written(condition, written),
            Some(Ok((status, written))) = self.balancer_writes.join_next() => Event::BalancerWritten(status, written),
            Some(Ok((status, written))) = self.ingress_writes.join_next() => Event::IngressWritten(status, written),
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Changed => self.look_again_at = None,
            Event::LinkIsDue => self.open_link().await,
            Event::ReplacementWanted => self.replace_proxy().await,
            Event::RefusedAreDue => {
                self.try_refused_at = None;
                self.book.try_again();
            }
            Event::Reported(Ok(Some(report))) => self.hear_report(report),
            Event::KernelIsDue => {
                self.ask_kernel_at = None;
                self.kernel.start();
            }
            Event::KernelDone(done) => self.hear_kernel(done),
            Event::Reported(Ok(None)) => self.lose_link("the keeper is gone"),
            Event::Reported(Err(error)) => self.lose_link(&chain(&error)),
            Event::Written(_, Written::Done | Written::Stale)
            | Event::BalancerWritten(_, Written::Done | Written::Stale)
            | Event::IngressWritten(_, Written::Done | Written::Stale) => {}
            Event::IngressWritten(status, Written::Failed) => {
                self.ingress_statuses.remove(&status);
                self.look_again_in(WRITE_PAUSE);
            }
            Event::BalancerWritten(status, Written::Failed) => {
                self.balancers.remove(&status);
                self.look_again_in(WRITE_PAUSE);
            }
            Event::Written(condition, Written::Failed) => {
                self.written.remove(&condition.uid);
                self.look_again_in(WRITE_PAUSE);
            }
        }
    }

    /// Takes every pod out of the balancer; when the last of their drain budgets is over.
    fn drain_all(&mut self) -> Instant {
        self.book.drain_all();
        let pods = self.caches.pods.objects().unwrap_or_default();
        let longest = pods.values().map(|pod| drain_budget(pod)).max().unwrap_or_default();
        Instant::now() + Duration::try_from(longest).unwrap_or_default()
    }

    fn hear_report(&mut self, report: Report) {
        match report {
            Report::Hello { version, takes_changes } => self.book.connected(version, takes_changes),
            Report::Acknowledged { version, refused, .. } => {
                self.book.open(version, &refused.iter().map(|refused| refused.listener).collect());
                self.book.acknowledge(Side::Proxy, version);
                self.tell_refused(refused);
            }
            Report::Drains { version, pods } => self.book.count(Side::Proxy, version, pods),
            Report::Traffic { proxy, started, complete, series } => {
                self.settings.traffic.enter(Told { proxy, started, is_complete: complete, series });
            }
            Report::ProxyReplaced => self.settings.replacement.is_done(),
            Report::Trouble { sentence } => tracing::warn!("the data plane: {sentence}"),
        }
    }

    fn hear_kernel(&mut self, done: Result<Counted, KernelError>) {
        match done {
            Ok(Counted { version, pods }) => {
                self.book.acknowledge(Side::Kernel, version);
                if let Some(pods) = pods {
                    self.book.count(Side::Kernel, version, pods);
                }
            }
            Err(error) => {
                tracing::error!("{}", chain(&error));
                // What comes next may be what the kernel takes.
                self.book.kernel_refuses();
                self.ask_kernel_at = Some(Instant::now() + KERNEL_PAUSE);
            }
        }
    }

    async fn open_link(&mut self) {
        match Link::open(&self.settings.data_plane).await {
            Ok((link, Greeting { version, takes_changes })) => {
                self.book.connected(version, takes_changes);
                self.link = Some(link);
            }
            Err(error) => {
                tracing::warn!("the data plane can't be reached: {}", chain(&error));
                self.open_link_at = Instant::now() + LINK_PAUSE;
            }
        }
    }

    async fn replace_proxy(&mut self) {
        if let Some(link) = &mut self.link
            && let Err(error) = link.replace_proxy().await
        {
            self.lose_link(&chain(&error));
        }
    }

    fn lose_link(&mut self, reason: &str) {
        tracing::warn!("the data plane's keeper is replaced: {reason}");
        self.link = None;
        self.book.disconnected();
        self.open_link_at = Instant::now();
    }

    fn now(&self) -> Now {
        let (began_at, began) = self.began;
        let steady = began_at.checked_add(began.elapsed()).unwrap_or(Timestamp::MAX);
        Now { steady, wall: Timestamp::now() }
    }

    /// Does what follows from everything known. Nothing follows before everything was listed once: the first
    /// configuration of a restarted engine is as complete as the last of its predecessor.
    async fn act(&mut self) {
        let Some(snapshot) = self.caches.snapshot(&self.settings) else { return };
        let now = self.now();
        let Round { send, write, look_again_at } = self.book.round(&snapshot, &self.settings.base, now);
        if let Some(sending) = send {
            self.send(sending, &snapshot).await;
        }
        if self.book.waits_for_kernel() && self.ask_kernel_at.is_none() {
            self.ask_kernel_at = Some(Instant::now() + COUNT_PAUSE);
        }
        self.write(write);
        self.write_balancers(&snapshot);
        self.write_ingresses(&snapshot);
        self.tell_fronts(&snapshot);
        if self.settings.machines.is_some() && self.book.is_acknowledged() {
            let (here, until) = self.book.here(now);
            self.settings.here.tell(here);
            if let Some(time) = until {
                self.look_again_in(Duration::try_from(time.duration_since(now.steady)).unwrap_or_default());
            }
        }
        self.tell_certificate_faults(&snapshot);
        if let Some(time) = look_again_at {
            self.look_again_in(Duration::try_from(time.duration_since(now.steady)).unwrap_or_default());
        }
        self.written.retain(|uid, _| snapshot.pods.values().any(|pod| plan::uid_of(pod) == *uid));
    }

    async fn send(&mut self, Sending { version, proxy, kernel }: Sending, snapshot: &Snapshot) {
        self.kernel.want(version, kernel, snapshot.addresses());
        let Some(link) = &mut self.link else { return };
        let sent = match proxy {
            ForProxy::Whole(config) => link.configure(&config).await,
            ForProxy::Change(change) => link.change(*change).await,
        };
        if let Err(error) = sent {
            self.lose_link(&chain(&error));
        }
    }

    fn write(&mut self, conditions: Vec<Condition>) {
        for condition in conditions {
            if self.writes.len() >= MOST_WRITES {
                return;
            }
            let is_written = self.written.get(&condition.uid) == Some(&condition.resource_version);
            if !is_written {
                self.written.insert(condition.uid.clone(), condition.resource_version.clone());
                let client = self.client.clone();
                if condition.type_ == POLICIES_IN_FORCE {
                    self.writes.spawn(write_guarded(client, condition, self.book.policies_in_force()));
                } else {
                    self.writes.spawn(write_condition(client, condition));
                }
            }
        }
    }

    fn write_balancers(&mut self, snapshot: &Snapshot) {
        let is_served =
            |key: &str, listener: &Listener| self.book.is_served(key, listener) && !self.refused.contains(listener);
        let statuses = statuses(snapshot, &is_served);
        for status in statuses.difference(&self.balancers) {
            self.balancer_writes.spawn(write_balancer(self.client.clone(), status.clone()));
        }
        self.balancers = statuses;
    }

    fn write_ingresses(&mut self, snapshot: &Snapshot) {
        let is_open = |listener: &Listener| self.book.is_ingress_at(listener) && !self.refused.contains(listener);
        let statuses = ingress::statuses(snapshot, &is_open);
        for status in statuses.difference(&self.ingress_statuses) {
            self.ingress_writes.spawn(write_ingress(self.client.clone(), status.clone()));
        }
        self.ingress_statuses = statuses;
    }

    fn tell_fronts(&self, snapshot: &Snapshot) {
        if self.book.is_acknowledged() {
            let is_served = |key: &str, listener: &Listener| self.book.is_served(key, listener);
            self.settings.fronts.tell(fronts::open(snapshot, &is_served, &self.refused));
        }
    }

    fn tell_certificate_faults(&mut self, snapshot: &Snapshot) {
        for (about, fault) in self.certificate_faults.new_ones(snapshot) {
            drop(tokio::spawn(write_event(self.client.clone(), about, Said::by_routing("CertificateUnusable", fault))));
        }
    }

    fn tell_refused(&mut self, refused: Vec<Refused>) {
        let listeners: BTreeSet<Listener> = refused.iter().map(|refused| refused.listener).collect();
        for refused in refused.into_iter().filter(|refused| !self.refused.contains(&refused.listener)) {
            tracing::warn!("can't listen on {}: {}", refused.listener, refused.reason);
            for about in self.about(&refused.listener) {
                let Refused { listener, reason } = &refused;
                let message = format!(
                    "No connections are taken at {listener}: {reason}. It is tried again every 10 seconds; \
                     `ss -lnp` shows what holds the port."
                );
                drop(tokio::spawn(write_event(self.client.clone(), about, Said::by_routing("ListenFailed", message))));
            }
        }
        self.try_refused_at = (!listeners.is_empty()).then(|| Instant::now() + REFUSED_PAUSE);
        self.refused = listeners;
    }

    /// Whoever is reached at a listener.
    fn about(&self, listener: &Listener) -> Vec<About> {
        let Some(snapshot) = self.caches.snapshot(&self.settings) else { return Vec::new() };
        if let Some(service) = self.book.service_at(listener) {
            let about = match plan::host_ports::pod_of(service) {
                Some(pod) => {
                    snapshot.pods.get(&format!("{}/{pod}", service.namespace)).map(|pod| About::of(pod.as_ref()))
                }
                None => snapshot.services.get(&service.key()).map(|service| About::of(service.as_ref())),
            };
            return about.into_iter().collect();
        }
        let ours = ingress::ours(&snapshot).into_iter().filter(|_| ingress::is_at(listener));
        ours.map(About::of).collect()
    }

    fn look_again_in(&mut self, pause: Duration) {
        let time = Instant::now() + pause;
        self.look_again_at = Some(self.look_again_at.map_or(time, |earlier| earlier.min(time)));
    }
}

/// Everything that is followed.
struct Caches {
    changed: Arc<Notify>,
    services: Arc<Cache<Service>>,
    slices: Arc<Cache<EndpointSlice>>,
    pods: Arc<Cache<Pod>>,
    ingresses: Arc<Cache<Ingress>>,
    ingress_classes: Arc<Cache<IngressClass>>,
    secrets: Arc<Cache<Secret>>,
    policies: Arc<Cache<NetworkPolicy>>,
    namespaces: Arc<Cache<Namespace>>,
    /// Ends the following when dropped.
    _following: JoinSet<()>,
}

impl Caches {
    fn follow(client: &Client, peers: &Shared<Peers>, machines: Option<&Shared<Arc<Machines>>>) -> Self {
        let changed = Arc::new(Notify::new());
        let mut following = JoinSet::new();
        following.spawn(notify(peers.subscribe(), Arc::clone(&changed)));
        following.extend(machines.map(|machines| notify(machines.subscribe(), Arc::clone(&changed))));
        Self {
            services: follow(client, &changed, None, &mut following),
            slices: follow(client, &changed, None, &mut following),
            pods: follow(client, &changed, None, &mut following),
            ingresses: follow(client, &changed, None, &mut following),
            ingress_classes: follow(client, &changed, None, &mut following),
            secrets: follow(client, &changed, Some(CERTIFICATES), &mut following),
            policies: follow(client, &changed, None, &mut following),
            namespaces: follow(client, &changed, None, &mut following),
            changed,
            _following: following,
        }
    }

    fn snapshot(&self, settings: &Settings) -> Option<Snapshot> {
        let services = self.services.objects()?;
        // Until the daemon was asked for them once, the data plane goes on with those of before.
        let machines = match &settings.machines {
            Some(machines) => machines.known()?,
            None => Arc::default(),
        };
        let peers = settings.peers.known();
        // Until they are known, the data plane goes on with those of before.
        if peers.is_none() && services.values().any(|service| matches!(Target::of(service), Some(Ok(Target::Name(_)))))
        {
            return None;
        }
        Some(Snapshot {
            services,
            peers: peers.unwrap_or_default(),
            machines,
            mesh_ports: Some(settings.mesh_ports.clone()),
            slices: self.slices.objects()?,
            pods: self.pods.objects()?,
            ingresses: self.ingresses.objects()?,
            ingress_classes: self.ingress_classes.objects()?,
            secrets: self.secrets.objects()?,
            policies: self.policies.objects()?,
            namespaces: self.namespaces.objects()?,
            host: Some(settings.host),
            api: Some(settings.api),
            service_range: Some(settings.rules.services),
        })
    }
}

/// Tells of every change.
async fn notify<T>(mut told: Receiver<Option<T>>, changed: Arc<Notify>) {
    while told.changed().await.is_ok() {
        changed.notify_one();
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn receive(link: &mut Option<Link>) -> Result<Option<Report>, LinkError> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}
