//! Connections to one port of one pod, or of another machine's proxy: opened, and kept for the next request. Knows nothing of
//! Services.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::balancer::Pod;
use super::lent::{Connection, PodSpeaks, Stream};
use super::neighbour::{Neighbour, Presence, Tied};
use super::passage::{self, Announced, Carries, Way};
use super::request_body::RequestBody;
use super::workers::WorkerNumber;

/// Pods are one hop away; one that has not answered by then is dead or cut off.
const LONGEST_CONNECT: Duration = Duration::from_secs(2);
/// Idle connections that a thread keeps to one port of one pod: what 128 clients that wait for each other's answers need.
const MOST_IDLE: usize = 128;
/// Servers commonly end connections that were idle for a minute or more.
const LONGEST_IDLE: Duration = Duration::from_secs(55);
/// A request that must not be sent twice takes no connection that was idle for longer: the server may be closing it.
const LONGEST_IDLE_ONCE: Duration = Duration::from_secs(1);

/// When an endpoint that failed a connection is tried again, and the longest pause between two trials.
const FIRST_PAUSE_ASIDE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE_ASIDE: Duration = Duration::from_secs(5);
/// Streams at one time on one HTTP/2 connection to a pod; what servers commonly allow.
const MOST_STREAMS: usize = 100;
/// What a pod may send of one stream, and of one connection, before a client has taken it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// The same where streams of many clients share one: those who don't read must not stop the others.
pub(crate) const PASSAGE_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;

/// One port of one pod.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    other: Option<Other>,
    pub(crate) pod: Arc<Pod>,
    /// By which a client's cookie names it.
    pub(crate) token: u64,
    /// One for each thread: a connection is used only where it is driven.
    pools: Box<[Mutex<Pool>]>,
    /// One for each thread, held while a shared connection is opened: requests that come meanwhile wait for it.
    sharing: Box<[tokio::sync::Mutex<()>]>,
    aside: Aside,
}

/// The way to another machine, and that machine.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) way: Way,
    pub(crate) neighbour: Arc<Neighbour>,
}

#[derive(Debug, Default)]
struct Pool {
    is_open: bool,
    /// The most recently used last.
    idle: Vec<Idle>,
    shared: Vec<Shared>,
}

/// An HTTP/1.1 connection without a request.
#[derive(Debug)]
struct Idle {
    connection: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Shared {
    stream: Stream,
    used: Instant,
}

/// Whether a request may be sent a second time after a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeatable {
    Yes,
    No,
}

impl Upstream {
    pub(crate) fn new(
        address: SocketAddr,
        other: Option<Other>,
        pod: Arc<Pod>,
        token: u64,
        workers: usize,
        aside: Aside,
    ) -> Self {
        let pools = (0..workers).map(|_| Mutex::default()).collect();
        let sharing = (0..workers).map(|_| tokio::sync::Mutex::default()).collect();
        Self { address, other, pod, token, pools, sharing, aside }
    }

    /// Whether it leads there by this way.
    pub(crate) fn is_by(&self, way: Option<&Way>) -> bool {
        self.other.as_ref().map(|other| &other.way) == way
    }

    /// The machine behind it, if there is one.
    pub(crate) fn neighbour(&self) -> Option<&Arc<Neighbour>> {
        self.other.as_ref().map(|other| &other.neighbour)
    }

    fn tied(&self, stream: TcpStream) -> Tied {
        Tied::new(stream, self.neighbour().map(Arc::as_ref))
    }

    /// Whether another machine is behind it, which picks the pod.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.other.is_some()
    }

    /// A connection that is open already, for a request.
    pub(crate) fn take(&self, worker: WorkerNumber, speaks: PodSpeaks, repeatable: Repeatable) -> Option<Connection> {
        match speaks {
            PodSpeaks::Http1 => self.take_idle(worker, repeatable).map(Connection::Http1),
            PodSpeaks::Http2 => self.pool(worker).lend_a_stream().map(Connection::Http2),
        }
    }

    fn take_idle(&self, worker: WorkerNumber, repeatable: Repeatable) -> Option<http1::SendRequest<RequestBody>> {
        let mut pool = self.pool(worker);
        while let Some(Idle { connection, since }) = pool.idle.pop() {
            if !connection.is_ready() {
                continue;
            }
            if repeatable == Repeatable::No && since.elapsed() > LONGEST_IDLE_ONCE {
                pool.idle.push(Idle { connection, since });
                return None;
            }
            return Some(connection);
        }
        None
    }

    /// Keeps a connection whose response was wholly received.
    pub(crate) fn keep(self: &Arc<Self>, worker: WorkerNumber, connection: Connection) {
        // A shared one was never taken away.
        let Connection::Http1(mut connection) = connection else { return };
        if connection.is_ready() {
            return self.keep_ready(worker, connection);
        }
        if connection.is_closed() {
            return;
        }
        // The request's body is still being sent, or hyper's task has not seen the end yet.
        let upstream = self.clone();
        tokio::spawn(async move {
            if connection.ready().await.is_ok() {
                upstream.keep_ready(worker, connection);
            }
        });
    }

    fn keep_ready(&self, worker: WorkerNumber, connection: http1::SendRequest<RequestBody>) {
        let mut pool = self.pool(worker);
        if pool.is_open && pool.idle.len() < MOST_IDLE {
            pool.idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// A new connection on which the bytes of `client` pass as they are.
    pub(crate) async fn connect(&self, client: IpAddr) -> io::Result<TcpStream> {
        self.connect_for(Carries::Bytes(client)).await
    }

    async fn connect_for(&self, carries: Carries) -> io::Result<TcpStream> {
        let Some(Other { way: Way { passage, key, .. }, .. }) = &self.other else { return self.open().await };
        let announced = Announced { key: key.clone(), passage: passage.clone(), carries };
        let connected = async {
            let mut stream = self.open().await?;
            passage::announce(&mut stream, &announced).await?;
            Ok(stream)
        };
        tokio::time::timeout(LONGEST_CONNECT, Box::pin(connected)).await?
    }

    async fn open(&self) -> io::Result<TcpStream> {
        let connected = async {
            match &self.other {
                Some(Other { neighbour, .. }) => neighbour.connect().await,
                None => TcpStream::connect(self.address).await,
            }
        };
        let stream = tokio::time::timeout(LONGEST_CONNECT, Box::pin(connected)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A new connection for HTTP; in HTTP/2 a stream of it, or of one that somebody else has opened meanwhile.
    pub(crate) async fn connect_http(&self, worker: WorkerNumber, speaks: PodSpeaks) -> io::Result<Connection> {
        match speaks {
            PodSpeaks::Http1 => self.connect_http1().await.map(Connection::Http1),
            PodSpeaks::Http2 => {
                let _turn = self.sharing[worker.index()].lock().await;
                // Whoever had the turn before may have found that nobody is there.
                if self.is_aside() || !self.pod.may_be_sent_to() {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                if let Some(stream) = self.pool(worker).lend_a_stream() {
                    return Ok(Connection::Http2(stream));
                }
                let stream = self.connect_http2().await?;
                let mut pool = self.pool(worker);
                if pool.is_open {
                    pool.shared.push(Shared { stream: stream.clone(), used: Instant::now() });
                }
                Ok(Connection::Http2(stream))
            }
        }
    }

    async fn connect_http1(&self) -> io::Result<http1::SendRequest<RequestBody>> {
        let stream = self.tied(self.connect_for(Carries::Requests(PodSpeaks::Http1)).await?);
        let (connection, io) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = io.with_upgrades().await {
                tracing::trace!("a connection to a pod ended: {error}");
            }
        });
        Ok(connection)
    }

    async fn connect_http2(&self) -> io::Result<Stream> {
        let stream = self.tied(self.connect_for(Carries::Requests(PodSpeaks::Http2)).await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let window = if self.is_elsewhere() { PASSAGE_WINDOW } else { CONNECTION_WINDOW };
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(window);
        let (sender, io) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = io.await {
                tracing::trace!("a connection to a pod ended: {error}");
            }
        });
        Ok(Stream::first_of(sender))
    }

    /// Whether it failed a connection and has not taken one since.
    pub(crate) fn is_aside(&self) -> bool {
        self.aside.is_set()
    }

    /// Notes that it does not accept connections: others are preferred until it does again.
    pub(crate) fn set_aside(self: &Arc<Self>) {
        if self.aside.set() {
            tokio::spawn(self.clone().come_back());
        }
    }

    async fn come_back(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE_ASIDE;
        while self.pod.may_be_sent_to() {
            tokio::time::sleep(pause).await;
            if self.open().await.is_ok() {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE_ASIDE);
        }
        self.aside.clear();
    }

    /// Waits until the machine that is behind it, if there is one, is at least so far away.
    pub(crate) fn is(&self, presence: Presence) -> impl Future<Output = ()> + Send + 'static {
        let is_so = self.neighbour().map(|neighbour| neighbour.is(presence));
        async move {
            match is_so {
                Some(is_so) => is_so.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Allows connections to be kept.
    pub(crate) fn open_pool(&self) {
        self.pools().for_each(|mut pool| pool.is_open = true);
    }

    /// Closes every idle connection, and each busy one after its response.
    pub(crate) fn close_pool(&self) {
        for mut pool in self.pools() {
            pool.is_open = false;
            pool.idle.clear();
            pool.shared.clear();
        }
    }

    /// Closes connections that have been idle for long, or were closed by the pod.
    pub(crate) fn close_idle(&self) {
        for mut pool in self.pools() {
            pool.idle.retain(|idle| idle.connection.is_ready() && idle.since.elapsed() < LONGEST_IDLE);
            pool.shared
                .retain(|it| !it.stream.is_closed() && (it.stream.lent() > 0 || it.used.elapsed() < LONGEST_IDLE));
        }
    }

    fn pool(&self, worker: WorkerNumber) -> MutexGuard<'_, Pool> {
        self.pools[worker.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> impl Iterator<Item = MutexGuard<'_, Pool>> {
        self.pools.iter().map(|pool| pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Pool {
    fn lend_a_stream(&mut self) -> Option<Stream> {
        self.shared.retain(|shared| !shared.stream.is_closed());
        let free = self.shared.iter_mut().find(|shared| shared.stream.lent() < MOST_STREAMS)?;
        free.used = Instant::now();
        Some(free.stream.clone())
    }
}

/// Whether an endpoint is set aside. It keeps count for the whole proxy, so that while none is, nobody has to look.
#[derive(Debug)]
pub(crate) struct Aside {
    is_set: AtomicBool,
    all: Arc<AtomicUsize>,
}

impl Aside {
    pub(crate) fn new(all: Arc<AtomicUsize>) -> Self {
        Self { is_set: AtomicBool::new(false), all }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Whether it was not set before.
    fn set(&self) -> bool {
        let is_new = !self.is_set.swap(true, Ordering::Relaxed);
        if is_new {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        is_new
    }

    fn clear(&self) {
        if self.is_set.swap(false, Ordering::Relaxed) {
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.clear();
    }
}
