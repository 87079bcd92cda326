//! What a client sees while something is deployed: a bounded stream of requests, every answer checked.
//! It never sends a request twice that may have been processed, and never leaves a failure out.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use histogram::Histogram;
pub use report::{Failure, Report, Sample};

use connections::Shared;

mod connections;
mod exchange;
mod histogram;
mod report;
mod worker;

/// What to send, where to, how much of it and for how long at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub target: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// All workers together.
    pub requests_per_second: NonZeroU32,
    /// Each asks one thing at a time.
    pub workers: NonZeroU16,
    /// Every worker sends in one of these ways: the first in the first, and so on in turn.
    pub ways: Vec<Way>,
    pub methods: Methods,
    /// How long the application waits before it answers; it answers gRPC at once.
    pub delay: Duration,
    /// The load ends by itself after this time.
    pub longest: Duration,
    /// An answer that takes longer is a failure.
    pub patience: Duration,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// HTTP/1.1, over a connection of the worker's own that is kept alive.
    KeptAlive,
    /// HTTP/1.1, over a new connection for each request.
    NewConnection,
    /// HTTP/2 without TLS, over one connection for all workers.
    Http2,
    /// A unary call, over one connection for all workers.
    Grpc,
}

/// Which methods are used. gRPC knows only POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Methods {
    Get,
    Post,
    /// Both in turn.
    GetAndPost,
    /// POST, with more than a proxy keeps in order to send it again.
    Upload,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 4] = [Way::KeptAlive, Way::NewConnection, Way::Http2, Way::Grpc];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::KeptAlive => "HTTP/1.1, kept alive",
            Way::NewConnection => "HTTP/1.1, new connections",
            Way::Http2 => "HTTP/2",
            Way::Grpc => "gRPC",
        })
    }
}

impl Plan {
    /// 240 requests a second by 16 workers in all ways for at most ten minutes, with ten seconds for each answer.
    #[must_use]
    pub fn against(target: SocketAddr) -> Plan {
        const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(239);
        const WORKERS: NonZeroU16 = NonZeroU16::MIN.saturating_add(15);
        Plan {
            target,
            host: target.to_string(),
            requests_per_second: REQUESTS_PER_SECOND,
            workers: WORKERS,
            ways: Way::ALL.to_vec(),
            methods: Methods::GetAndPost,
            delay: Duration::ZERO,
            longest: Duration::from_secs(600),
            patience: Duration::from_secs(10),
        }
    }
}

/// A load under way. Dropping it ends the load at once and loses the report.
#[derive(Debug)]
pub struct Running {
    observer: Observer,
    stop: watch::Sender<Stop>,
    workers: JoinSet<()>,
}

/// Sees how a load is going, also after it has ended.
#[derive(Clone, Debug)]
pub struct Observer {
    tally: Arc<Tally>,
    started: Instant,
}

/// Starts the workers of `plan` on the current Tokio runtime.
#[must_use]
pub fn start(plan: Plan) -> Running {
    let tally = Arc::new(Tally::default());
    let (stop, stopped) = watch::channel(Stop::No);
    let started = Instant::now();
    let shared = Shared::default();
    let mut workers = JoinSet::new();
    for (number, way) in (0..plan.workers.get()).zip(plan.ways.iter().copied().cycle()) {
        let worker = worker::Worker::new(number, way, &plan, &shared, started);
        workers.spawn(worker.work(Arc::clone(&tally), stopped.clone()));
    }
    Running { observer: Observer { tally, started }, stop, workers }
}

impl Running {
    /// For showing how it goes.
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// What has happened up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.observer.so_far()
    }

    /// Waits until `sent` requests have been answered or have failed since the start, or the load has ended by itself.
    pub async fn answered(&self, sent: u64) {
        let mut counted = self.observer.tally.counted.subscribe();
        tokio::select! {
            _ = counted.wait_for(|count| *count >= sent) => {}
            // No worker is left to listen.
            () = self.stop.closed() => {}
        }
    }

    /// Sends nothing more, waits for the answers that are due, and reports.
    pub async fn stop(self) -> Report {
        self.stop.send_replace(Stop::Now);
        self.finish().await
    }

    /// Waits until the longest time of the plan is over, and reports.
    pub async fn finish(mut self) -> Report {
        while let Some(ended) = self.workers.join_next().await {
            assert!(ended.is_ok(), "a worker that panics would leave its requests out of the report: {ended:?}");
        }
        self.so_far()
    }
}

impl Observer {
    /// What has happened up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        Report { elapsed: self.started.elapsed(), ..self.tally.lock().clone() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    Now,
}

#[derive(Debug, Default)]
struct Tally {
    report: Mutex<Report>,
    counted: watch::Sender<u64>,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, change: impl FnOnce(&mut Report)) {
        let sent = {
            let mut report = self.lock();
            change(&mut report);
            report.sent
        };
        self.counted.send_replace(sent);
    }
}

#[cfg(test)]
mod tests;
