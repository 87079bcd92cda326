//! What the keeper tells the proxy, and what it is told: sockets and configurations in, acknowledgements and counts
//! out. A proxy without a keeper goes on serving, and hands everything to the next keeper that asks.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::ProxyError;
use super::balancer::Balancer;
use super::clients::Present;
use super::connection::{self, Leaving, Serving};
use super::metrics;
use super::workers::{Open, WorkerNumber, Workers};
use crate::channel::{AsyncChannel, Channel, ChannelError, DESCRIPTORS_PER_FRAME};
use crate::config::{Applied, Change, DataPlaneConfig, Listener, Transport};
use crate::dns;
use crate::frames::{Command, Drain, Handover, Passed, Report, decode, encode};

/// The shortest time between two reports of counts, so that a busy pod's drain costs 100 messages a second at most.
const REPORT_EVERY: Duration = Duration::from_millis(10);
/// How often it is told what was counted.
const TELL_TRAFFIC_EVERY: Duration = Duration::from_secs(1);
/// How often idle connections are looked through.
const CLOSE_IDLE_EVERY: Duration = Duration::from_secs(5);
/// How long the last answers may take to reach their clients when the proxy ends; the keeper gives it 2 seconds.
const LONGEST_FAREWELL: Duration = Duration::from_millis(1500);
/// The same for one that was replaced and whose keeper is gone: it can't be told of pods that come and go any more.
const LONGEST_FAREWELL_OF_AN_ORPHAN: Duration = Duration::from_secs(30);
/// How long a client's idle connection is kept by a proxy that was replaced.
const LONGEST_IDLE: Duration = Duration::from_secs(75);
/// The pause after an accept that failed for want of descriptors or memory; nothing tells when there are some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Control {
    keeper: Option<AsyncChannel>,
    adoption: Option<UnixListener>,
    /// What the next keeper needs to go on with predecessors that finish their connections: channel and process of each.
    left: Vec<OwnedFd>,
    served: BTreeMap<Listener, Served>,
    workers: Workers,
    balancer: Arc<Balancer>,
    leaving: Arc<watch::Sender<Leaving>>,
    /// Set once another proxy has taken over: from when on idle connections are closed.
    close_idle_at: Option<Instant>,
    dns: Arc<dns::Server>,
    reported: (u64, Vec<Drain>),
    /// This process among all proxies there were.
    number: u64,
    started: Timestamp,
    /// Whether the keeper knows what was counted, up to the changes since.
    has_told_traffic: bool,
}

/// A socket that clients reach.
struct Served {
    /// Kept for the next keeper.
    socket: OwnedFd,
    /// None until the first configuration after it was taken.
    task: Option<JoinHandle<()>>,
}

#[derive(PartialEq, Eq)]
enum Life {
    GoOn,
    End,
}

impl Control {
    pub(super) fn new(keeper: AsyncChannel, workers: Workers) -> Self {
        let balancer = Arc::new(Balancer::new(workers.count()));
        Self {
            keeper: Some(keeper),
            adoption: None,
            left: Vec::new(),
            served: BTreeMap::new(),
            dns: Arc::new(dns::Server::new(balancer.clone())),
            workers,
            balancer,
            leaving: Arc::new(watch::Sender::default()),
            close_idle_at: None,
            reported: (0, Vec::new()),
            number: RandomState::new().hash_one(0),
            started: Timestamp::now(),
            has_told_traffic: false,
        }
    }

    /// Runs until a keeper says that it is over.
    pub(super) async fn run(mut self) {
        let mut close_idle = interval(CLOSE_IDLE_EVERY);
        close_idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (balancer, leaving) = (self.balancer.clone(), self.leaving.clone());
        let mut next_report = Instant::now();
        let mut tell_traffic = interval(TELL_TRAFFIC_EVERY);
        tell_traffic.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Without a keeper, and without the socket at which another finds it, nobody can tell it anything any more.
            if self.keeper.is_none() && self.adoption.is_none() {
                return self.end().await;
            }
            tokio::select! {
                received = receive(&mut self.keeper) => {
                    if self.hear(received).await == Life::End {
                        return self.end().await;
                    }
                }
                accepted = accept(self.adoption.as_ref()) => match accepted {
                    Ok(stream) => self.hand_over(stream).await,
                    Err(error) => tracing::warn!("can't take a keeper's connection: {error}"),
                },
                () = async { sleep_until(next_report).await; balancer.counts_changed().await } => {
                    next_report = Instant::now() + REPORT_EVERY;
                    self.report_drains().await;
                }
                _ = close_idle.tick() => balancer.close_idle(),
                _ = tell_traffic.tick() => self.tell_traffic().await,
                () = leaving.closed(), if self.close_idle_at.is_some() => return self.end().await,
                () = sleep_until(self.close_idle_at.unwrap_or_else(far_away)) => {
                    self.close_idle_at = Some(far_away());
                    self.leaving.send_replace(Leaving::Now);
                }
            }
        }
    }

    /// Takes no connection any more, since another proxy does, and finishes those that are open.
    async fn leave(&mut self) {
        self.adoption = None;
        self.stop_serving(|_| true).await;
        self.balancer.leave();
        self.leaving.send_replace(Leaving::AfterTheNextAnswer);
        self.close_idle_at = Some(Instant::now() + LONGEST_IDLE);
    }

    /// Takes no connection any more, and lets the answers that are on their way reach their clients.
    async fn end(&mut self) {
        self.stop_serving(|_| true).await;
        self.leaving.send_replace(Leaving::Now);
        let longest = if self.keeper.is_some() { LONGEST_FAREWELL } else { LONGEST_FAREWELL_OF_AN_ORPHAN };
        if tokio::time::timeout(longest, self.leaving.closed()).await.is_err() {
            tracing::warn!("some clients did not take their last answer in time");
        }
        self.tell_traffic().await;
    }

    async fn hear(&mut self, received: Result<Option<Vec<u8>>, ChannelError>) -> Life {
        match received {
            Ok(Some(payload)) => match self.obey(&payload).await {
                Ok(life) => return life,
                Err(error) => self.report(&Report::Trouble { sentence: error.to_string() }).await,
            },
            Ok(None) => {
                tracing::info!("the keeper is gone");
                self.keeper = None;
            }
            Err(error) => {
                tracing::warn!("the keeper's channel broke: {error}");
                self.keeper = None;
            }
        }
        Life::GoOn
    }

    async fn obey(&mut self, payload: &[u8]) -> Result<Life, ProxyError> {
        match decode::<Command>(payload).map_err(ChannelError::from)? {
            Command::Take(names) => {
                let descriptors = self.keeper.as_mut().map(|keeper| keeper.take_descriptors(names.len()));
                for (name, descriptor) in names.into_iter().zip(descriptors.unwrap_or_default()) {
                    self.take(name, descriptor)?;
                }
            }
            Command::Configure(config) => self.configure(config).await,
            Command::Change(change) => self.change(&change).await,
            Command::Leave => self.leave().await,
            Command::ReplaceProxy | Command::StepAside => tracing::warn!("only a keeper is told such a thing"),
            Command::ShutDown => return Ok(Life::End),
        }
        Ok(Life::GoOn)
    }

    fn take(&mut self, name: Passed, descriptor: OwnedFd) -> Result<(), ProxyError> {
        let taken = match name {
            Passed::Listener(listener) => {
                self.served.insert(listener, Served { socket: descriptor, task: None });
                Ok(())
            }
            Passed::Adoption => take_adoption(descriptor).map(|adoption| self.adoption = Some(adoption)),
            Passed::LeavingChannel | Passed::LeavingProcess => {
                self.left.push(descriptor);
                Ok(())
            }
            Passed::Process => Ok(()),
        };
        taken.map_err(|source| ProxyError::Take { name: format!("{name:?}"), source })
    }

    async fn stop_serving(&mut self, is_over: impl Fn(&Listener) -> bool) {
        let others: Vec<_> = self.served.extract_if(.., |listener, _| is_over(listener)).collect();
        for task in others.into_iter().filter_map(|(_, served)| served.task) {
            task.abort();
            // The task holds the socket: awaited, so that it is closed when the configuration is acknowledged.
            let _ = task.await;
        }
    }

    /// Sockets are served only under a configuration that knows them; until then clients wait in the kernel.
    async fn serve_what_was_taken(&mut self) {
        let serving = Serving { balancer: self.balancer.clone(), leaving: self.leaving.clone() };
        let accepting = Accepting { workers: self.workers.clone(), serving, dns: self.dns.clone() };
        let mut failures = Vec::new();
        for (place, (listener, served)) in self.served.iter_mut().enumerate() {
            if served.task.is_some() {
                continue;
            }
            match accepting.start(*listener, &served.socket, place) {
                Ok(task) => served.task = Some(task),
                Err(error) => failures.push(format!("{listener} can't be served: {error}")),
            }
        }
        for sentence in failures {
            self.report(&Report::Trouble { sentence }).await;
        }
    }

    async fn configure(&mut self, config: DataPlaneConfig) {
        let listen = config.listen.clone();
        self.balancer.apply(config);
        self.stop_serving(|listener| !listen.contains(listener)).await;
        self.acknowledge().await;
        // Whoever sends everything may be new, and know nothing yet.
        self.has_told_traffic = false;
    }

    async fn change(&mut self, change: &Change) {
        match self.balancer.change(change) {
            Applied::Yes => {
                self.stop_serving(|listener| change.closed.contains(listener)).await;
                self.acknowledge().await;
            }
            Applied::No => {
                let version = self.balancer.version();
                tracing::warn!("change {} is not one of configuration {version} and is refused", change.version);
                self.report(&Report::Hello { version, takes_changes: true }).await;
            }
        }
    }

    async fn acknowledge(&mut self) {
        self.serve_what_was_taken().await;
        self.reported = self.balancer.drains();
        let version = self.reported.0;
        self.report(&Report::Acknowledged { version, refused: Vec::new(), takes_changes: true }).await;
        self.report_all_drains().await;
    }

    async fn tell_traffic(&mut self) {
        if self.keeper.is_none() {
            return;
        }
        let complete = !std::mem::replace(&mut self.has_told_traffic, true);
        let series = self.balancer.counts_since_told(complete);
        self.report(&Report::Traffic { proxy: self.number, started: self.started, complete, series }).await;
    }

    async fn report_drains(&mut self) {
        let drains = self.balancer.drains();
        if drains != self.reported {
            self.reported = drains;
            self.report_all_drains().await;
        }
    }

    async fn report_all_drains(&mut self) {
        let (version, pods) = self.reported.clone();
        self.report(&Report::Drains { version, pods }).await;
    }

    async fn report(&mut self, report: &Report) {
        let Some(keeper) = &mut self.keeper else { return };
        match keeper.send(encode(report), Vec::new()).await {
            Ok(()) => {}
            // It is gone. What it said before is still to be heard, and then its end.
            Err(ChannelError::Send { source }) => tracing::debug!("the keeper does not hear: {source}"),
            Err(error) => {
                tracing::warn!("the keeper's channel broke: {error}");
                self.keeper = None;
            }
        }
    }

    /// Gives a keeper that was started anew everything, and obeys it from now on.
    async fn hand_over(&mut self, stream: UnixStream) {
        match self.try_hand_over(stream).await {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) => tracing::warn!("the handover to a new keeper failed: {error}"),
        }
    }

    async fn try_hand_over(&mut self, stream: UnixStream) -> Result<AsyncChannel, ProxyError> {
        let keeper = Channel::new(stream.into_std().map_err(|source| ProxyError::HandOver { source })?);
        let mut keeper = keeper.and_then(AsyncChannel::new).map_err(|source| ProxyError::HandOver { source })?;
        for (names, descriptors) in self.belongings().map_err(|source| ProxyError::HandOver { source })? {
            keeper.send(encode(&Handover::Take(names)), descriptors).await?;
        }
        let last = match self.balancer.configuration() {
            Some(config) => encode(&Command::Configure(config)),
            None => encode(&Handover::Unconfigured),
        };
        keeper.send(last, Vec::new()).await?;
        Ok(keeper)
    }

    fn belongings(&self) -> io::Result<Vec<(Vec<Passed>, Vec<OwnedFd>)>> {
        let adoption = self.adoption.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        let ours = (vec![Passed::Adoption, Passed::Process], vec![copy(adoption)?, process]);
        let mut belongings = vec![ours];
        for pair in self.left.chunks_exact(2) {
            let copies = pair.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            belongings.push((vec![Passed::LeavingChannel, Passed::LeavingProcess], copies));
        }
        let served: Vec<_> = self.served.iter().collect();
        for some in served.chunks(DESCRIPTORS_PER_FRAME) {
            let names = some.iter().map(|(listener, _)| Passed::Listener(**listener)).collect();
            let sockets = some.iter().map(|(_, served)| served.socket.try_clone()).collect::<io::Result<_>>()?;
            belongings.push((names, sockets));
        }
        Ok(belongings)
    }
}

fn copy(descriptor: &impl std::os::fd::AsFd) -> io::Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned()
}

fn take_adoption(descriptor: OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(descriptor.into())
}

/// No time that comes.
fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(24 * 365)
}

async fn receive(keeper: &mut Option<AsyncChannel>) -> Result<Option<Vec<u8>>, ChannelError> {
    match keeper {
        Some(keeper) => keeper.receive().await,
        None => std::future::pending().await,
    }
}

async fn accept(adoption: Option<&UnixListener>) -> io::Result<UnixStream> {
    match adoption {
        Some(adoption) => adoption.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// What every listening socket needs.
#[derive(Clone)]
struct Accepting {
    workers: Workers,
    serving: Serving,
    dns: Arc<dns::Server>,
}

impl Accepting {
    fn start(&self, listener: Listener, socket: &OwnedFd, place: usize) -> io::Result<JoinHandle<()>> {
        let socket = socket.try_clone()?;
        let accepting = self.clone();
        Ok(match listener.transport {
            Transport::Tcp => {
                let here = self.workers.at(place);
                self.workers.spawn(here, accepting.accept(socket, listener, here))
            }
            Transport::Udp => {
                let _entered = self.workers.enter();
                let socket = UdpSocket::from_std(socket.into())?;
                let open = self.serving.leaving.subscribe();
                self.workers.spawn(self.workers.at(0), accepting.dns.serve_datagrams(socket, open))
            }
        })
    }

    async fn accept(self, socket: OwnedFd, listener: Listener, here: WorkerNumber) {
        let socket = match TcpListener::from_std(socket.into()) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!("can't wait for connections at {listener}: {error}"),
        };
        loop {
            match socket.accept().await {
                Ok((stream, client)) => {
                    let at = self.address_of(&stream, &listener);
                    self.hand_out(stream, client, at, here);
                }
                Err(error) => {
                    tracing::warn!("can't accept a connection at {listener}: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A socket on every address takes connections of Services that have this port at one address of their own.
    fn address_of(&self, stream: &TcpStream, listener: &Listener) -> SocketAddr {
        let own = listener.is_on_every_address().then(|| stream.local_addr().ok()).flatten();
        own.filter(|at| self.serving.balancer.service(*at).is_some()).unwrap_or(listener.address)
    }

    /// Gives a connection to the thread that has fewest; moving one costs more than serving a request here.
    fn hand_out(&self, stream: TcpStream, client: SocketAddr, at: SocketAddr, here: WorkerNumber) {
        // Whoever has too many is hung up on; whom Tailscale's daemon or another machine brings is known later.
        let balancer = &self.serving.balancer;
        let is_itself = balancer.tailnet_before(at).is_none() && !balancer.is_mesh(at);
        let present = is_itself.then(|| balancer.clients().enter(client.ip()));
        if matches!(present, Some(None)) {
            return;
        }
        let present = present.flatten();
        // Held from now on: a proxy that leaves must not end before this connection was looked at.
        let present = (present, self.serving.leaving.subscribe());
        let (accepting, open) = (self.clone(), self.workers.least_busy(here));
        let worker = open.worker();
        if worker == here {
            drop(tokio::spawn(accepting.carry(stream, client, at, open, present)));
            return;
        }
        let Ok(stream) = stream.into_std() else { return };
        self.workers.spawn(worker, async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                accepting.carry(stream, client, at, open, present).await;
            }
        });
    }

    /// While `_present` lives, the connection counts as its client's, and the proxy does not end.
    async fn carry(
        self,
        stream: TcpStream,
        client: SocketAddr,
        at: SocketAddr,
        open: Open,
        _present: (Option<Present>, watch::Receiver<Leaving>),
    ) {
        // Each on the heap by itself: a connection takes what its own kind needs, not what the largest would.
        if self.dns.is_at(at) {
            Box::pin(self.dns.serve_stream(stream)).await;
        } else if self.serving.balancer.metrics_at() == Some(at) {
            Box::pin(metrics::serve(stream, self.serving.balancer)).await;
        } else if self.serving.balancer.is_mesh(at) {
            Box::pin(connection::serve_machine(stream, client, self.serving, open.worker())).await;
        } else if let Some(tls) = self.serving.balancer.is_ingress(at) {
            Box::pin(connection::serve_ingress(stream, client, at, tls, self.serving, open.worker())).await;
        } else {
            Box::pin(connection::serve(stream, client, at, self.serving, open.worker())).await;
        }
    }
}
