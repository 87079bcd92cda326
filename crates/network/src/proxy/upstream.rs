//! Connections to one port of one pod: opened, and kept for the next request. Knows nothing of Services.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::balancer::Pod;
use super::bodies::RequestBody;
use super::workers::WorkerNumber;

/// Pods are one hop away; one that has not answered by then is dead or cut off.
const LONGEST_CONNECT: Duration = Duration::from_secs(2);
/// Idle connections that a thread keeps to one port of one pod: what 128 clients that wait for each other's answers need.
const MOST_IDLE: usize = 128;
/// Servers commonly end connections that were idle for a minute or more.
const LONGEST_IDLE: Duration = Duration::from_secs(55);
/// A request that must not be sent twice takes no connection that was idle for longer: the server may be closing it.
const LONGEST_IDLE_ONCE: Duration = Duration::from_secs(1);

pub(crate) type Connection = SendRequest<RequestBody>;

/// One port of one pod.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) pod: Arc<Pod>,
    /// One for each thread: a connection is used only where it is driven.
    pools: Box<[Mutex<Pool>]>,
}

#[derive(Debug, Default)]
struct Pool {
    is_open: bool,
    /// The most recently used last.
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Whether a request may be sent a second time after a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeatable {
    Yes,
    No,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, pod: Arc<Pod>, workers: usize) -> Self {
        Self { address, pod, pools: (0..workers).map(|_| Mutex::default()).collect() }
    }

    /// An idle connection for a request.
    pub(crate) fn take_idle(&self, worker: WorkerNumber, repeatable: Repeatable) -> Option<Connection> {
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
    pub(crate) fn keep(self: &Arc<Self>, worker: WorkerNumber, mut connection: Connection) {
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

    fn keep_ready(&self, worker: WorkerNumber, connection: Connection) {
        let mut pool = self.pool(worker);
        if pool.is_open && pool.idle.len() < MOST_IDLE {
            pool.idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// A new connection on which bytes pass as they are.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(LONGEST_CONNECT, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A new connection for HTTP/1.1.
    pub(crate) async fn connect_http(&self) -> io::Result<Connection> {
        let stream = self.connect().await?;
        let (connection, io) = Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = io.with_upgrades().await {
                tracing::trace!("a connection to a pod ended: {error}");
            }
        });
        Ok(connection)
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
        }
    }

    /// Closes connections that have been idle for long, or were closed by the pod.
    pub(crate) fn close_idle(&self) {
        let is_useful = |idle: &Idle| idle.connection.is_ready() && idle.since.elapsed() < LONGEST_IDLE;
        self.pools().for_each(|mut pool| pool.idle.retain(is_useful));
    }

    fn pool(&self, worker: WorkerNumber) -> MutexGuard<'_, Pool> {
        self.pools[worker.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> impl Iterator<Item = MutexGuard<'_, Pool>> {
        self.pools.iter().map(|pool| pool.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
