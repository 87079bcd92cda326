//! The threads that carry connections. Each has a runtime and pooled connections of its own, so that nothing of a
//! request crosses from one thread to another.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::task::JoinHandle;

use super::counts::count_as;

/// Each carries some 40,000 requests a second, so these saturate a network card before they run out.
const MOST_WORKERS: usize = 8;

/// All threads.
#[derive(Clone)]
pub(crate) struct Workers(Arc<[Worker]>);

struct Worker {
    handle: Handle,
    /// Connections that were given to it and have not ended.
    open: AtomicUsize,
}

/// A thread's number, from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerNumber(usize);

impl WorkerNumber {
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

impl Workers {
    /// One thread a core.
    pub(crate) fn start() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        (0..cores.min(MOST_WORKERS)).map(start_worker).collect::<io::Result<_>>().map(Self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The thread for the `place`-th listening socket: sockets are spread over the threads.
    pub(crate) fn at(&self, place: usize) -> WorkerNumber {
        WorkerNumber(place % self.0.len())
    }

    pub(crate) fn spawn(
        &self,
        worker: WorkerNumber,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.0[worker.0].handle.spawn(task)
    }

    /// Counts a connection for the thread that has fewest; for `here` if that is one of them.
    pub(crate) fn least_busy(&self, here: WorkerNumber) -> Open {
        let open = |number: usize| self.0[number].open.load(Ordering::Relaxed);
        let mut least = here.0;
        for number in 0..self.0.len() {
            if open(number) < open(least) {
                least = number;
            }
        }
        self.0[least].open.fetch_add(1, Ordering::Relaxed);
        Open { workers: self.clone(), number: WorkerNumber(least) }
    }

    /// Until the guard is dropped, sockets that are made belong to the first thread.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.0[0].handle.enter()
    }
}

/// A connection, counted for as long as this lives.
pub(crate) struct Open {
    workers: Workers,
    number: WorkerNumber,
}

impl Open {
    pub(crate) fn worker(&self) -> WorkerNumber {
        self.number
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.workers.0[self.number.0].open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start_worker(number: usize) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let name = format!("worker-{number}");
    let serve = move || {
        count_as(WorkerNumber(number));
        runtime.block_on(std::future::pending::<()>());
    };
    thread::Builder::new().name(name).spawn(serve)?;
    Ok(Worker { handle, open: AtomicUsize::new(0) })
}
