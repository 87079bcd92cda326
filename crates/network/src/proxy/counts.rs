//! What happens to each Service's traffic, counted where it happens. Every thread counts on memory of its own, so that
//! counting costs an addition and no waiting.

use std::cell::Cell as ThreadCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use objects::traffic::{self, Cell, ConnectionClass, Counts, MethodClass, Outcome, SeriesKey};

use super::access_log::{End, Entry, milliseconds};
use super::balancer::{Balancer, Pod};
use super::workers::WorkerNumber;

/// How long the counts of what left the configuration are shown, so that whoever asks every minute sees the last ones.
const SHOWN_AFTER_THE_END: Duration = Duration::from_mins(5);

thread_local! {
    static THREAD: ThreadCell<usize> = const { ThreadCell::new(0) };
}

/// Says that what this thread counts is `worker`'s.
pub(crate) fn count_as(worker: WorkerNumber) {
    THREAD.set(worker.index());
}

/// Counts of one port of one Service, with one pod or with none.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) key: SeriesKey,
    pod: Option<Arc<Pod>>,
    /// Each thread's, once it has counted something: most Services are idle on most threads.
    threads: Box<[OnceLock<Box<Numbers>>]>,
}

/// One thread's numbers, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Numbers([AtomicU64; Cell::COUNT]);

impl Numbers {
    fn zeros() -> Box<Self> {
        Box::new(Self([const { AtomicU64::new(0) }; Cell::COUNT]))
    }
}

impl Series {
    pub(crate) fn new(key: SeriesKey, pod: Option<Arc<Pod>>, threads: usize) -> Self {
        Self { key, pod, threads: (0..threads.max(1)).map(|_| OnceLock::new()).collect() }
    }

    pub(crate) fn add(&self, cell: Cell, number: u64) {
        // Of another process's or a test's thread there is no number of its own.
        let thread = THREAD.get().min(self.threads.len() - 1);
        self.threads[thread].get_or_init(Numbers::zeros).0[cell.index()].fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a request that is over.
    pub(crate) fn finish(&self, method: MethodClass, outcome: Outcome, length: Option<Duration>) {
        self.add(Cell::Requests(method, outcome), 1);
        if let Some(length) = length {
            self.add(Cell::latency(length), 1);
            self.add(Cell::LatencySum, length.as_micros() as u64);
        }
    }

    /// Counts a connection for as long as what this gives lives.
    pub(crate) fn open(self: &Arc<Self>, class: ConnectionClass) -> OpenConnection {
        self.add(Cell::Opened(class), 1);
        OpenConnection { series: self.clone(), class }
    }

    pub(crate) fn read(&self) -> traffic::Series {
        self.tell(self.state())
    }

    fn tell(&self, state: State) -> traffic::Series {
        traffic::Series { key: self.key.clone(), counts: state.counts, drain: state.drain }
    }

    fn state(&self) -> State {
        let mut numbers = [0; Cell::COUNT];
        let counted = self.threads.iter().filter_map(OnceLock::get);
        for thread in counted {
            for (sum, number) in numbers.iter_mut().zip(&thread.0) {
                *sum += number.load(Ordering::Relaxed);
            }
        }
        State { counts: Counts::from_places(&numbers), drain: self.pod.as_ref().and_then(|pod| pod.drained()) }
    }
}

/// What a series says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    counts: Counts,
    drain: Option<traffic::Drain>,
}

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    series: Arc<Series>,
    class: ConnectionClass,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.series.add(Cell::Closed(self.class), 1);
    }
}

/// One request: counted, and written to the access log, when this is dropped.
pub(crate) struct Tally {
    series: Arc<Series>,
    method: MethodClass,
    begun: Instant,
    /// Whether its length says something about the pod, and not only about how long both sides want to talk.
    is_timed: bool,
    outcome: Outcome,
    /// What the outcome is once the answer is complete.
    answer: Outcome,
    logged: Option<Logged>,
}

/// A request that the access log will tell of.
pub(crate) struct Logged {
    pub(crate) balancer: Arc<Balancer>,
    pub(crate) entry: Box<Entry>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) bytes_to_client: u64,
}

impl Tally {
    /// A request whose client has left, as long as nothing else is said.
    pub(crate) fn new(series: Arc<Series>, method: &Method, logged: Option<Logged>) -> Self {
        Self {
            series,
            method: if method.is_safe() { MethodClass::Read } else { MethodClass::Write },
            begun: Instant::now(),
            is_timed: true,
            outcome: Outcome::ClientLeft,
            answer: Outcome::Success,
            logged,
        }
    }

    /// It is counted with this pod from now on.
    pub(crate) fn belongs_to(&mut self, series: &Arc<Series>) {
        self.series = series.clone();
    }

    /// What was answered, complete or not.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.answer = Outcome::of_status(status.as_u16());
        if let Some(logged) = &mut self.logged {
            logged.status = Some(status);
        }
    }

    /// What gRPC says beside the status.
    pub(crate) fn answered_grpc(&mut self, headers: &HeaderMap) {
        let status = headers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        if let Some(code) = status {
            self.answer = Outcome::of_grpc_status(code);
        }
    }

    pub(crate) fn sent(&mut self, bytes: u64) {
        self.series.add(Cell::BytesToClients, bytes);
        if let Some(logged) = &mut self.logged {
            logged.bytes_to_client += bytes;
        }
    }

    pub(crate) fn complete(&mut self) {
        self.outcome = self.answer;
    }

    pub(crate) fn end_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    pub(crate) fn become_long(&mut self) {
        self.is_timed = false;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let length = self.begun.elapsed();
        self.series.finish(self.method, self.outcome, self.is_timed.then_some(length));
        if let Some(logged) = &self.logged {
            logged.balancer.access_log().write(&End {
                entry: &logged.entry,
                status: logged.status.map(|status| status.as_u16()),
                outcome: self.outcome.word(),
                pod: &self.series.key.pod,
                version: &self.series.key.version,
                bytes_to_client: logged.bytes_to_client,
                milliseconds: milliseconds(length),
            });
        }
    }
}

/// Every series there is.
#[derive(Debug)]
pub(crate) struct Registry {
    threads: usize,
    series: Mutex<HashMap<SeriesKey, Known>>,
}

#[derive(Debug)]
struct Known {
    series: Arc<Series>,
    told: State,
    left: Option<Instant>,
}

impl Registry {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, series: Mutex::default() }
    }

    /// The series of this key, new or known.
    pub(crate) fn series(&self, key: SeriesKey, pod: Option<&Arc<Pod>>) -> Arc<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |key: &SeriesKey| Known {
            series: Arc::new(Series::new(key.clone(), pod.cloned(), self.threads)),
            told: State::default(),
            left: None,
        };
        let known = all.entry(key).or_insert_with_key(new);
        known.left = None;
        known.series.clone()
    }

    /// What every series has counted.
    pub(crate) fn read(&self) -> Vec<traffic::Series> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|known| known.series.read()).collect()
    }

    /// Those that say something else than when this was last asked.
    pub(crate) fn changes(&self) -> Vec<traffic::Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = all.values_mut().filter_map(|known| {
            let state = known.series.state();
            (state != known.told).then(|| {
                known.told = state.clone();
                known.series.tell(state)
            })
        });
        changes.collect()
    }

    /// Whoever asks for changes is told everything again.
    pub(crate) fn forget_what_was_told(&self) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.values_mut().for_each(|known| known.told = State::default());
    }

    /// Forgets what nobody counts on any more and was shown for long enough.
    pub(crate) fn forget(&self) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| {
            if Arc::strong_count(&known.series) > 1 {
                return true;
            }
            known.left.get_or_insert_with(Instant::now).elapsed() < SHOWN_AFTER_THE_END
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(service: &str) -> SeriesKey {
        SeriesKey {
            namespace: "default".to_owned(),
            service: service.to_owned(),
            port: 80,
            pod_uid: String::new(),
            pod: String::new(),
            version: String::new(),
        }
    }

    #[test]
    fn numbers_of_all_threads_are_added_up() {
        let series = Arc::new(Series::new(key("web"), None, 2));
        series.add(Cell::Retries, 1);
        let other = series.clone();
        let worker = std::thread::spawn(move || {
            THREAD.set(1);
            other.add(Cell::Retries, 2);
        });
        worker.join().unwrap();
        assert_eq!(series.read().counts.get(Cell::Retries), 3);
    }

    #[test]
    fn a_request_is_counted_once_it_is_over() {
        let series = Arc::new(Series::new(key("web"), None, 1));
        let mut tally = Tally::new(series.clone(), &Method::GET, None);
        tally.answered(StatusCode::OK);
        assert!(series.read().counts.is_empty());
        tally.complete();
        drop(tally);
        drop(Tally::new(series.clone(), &Method::POST, None));
        let counts = series.read().counts;
        assert_eq!(counts.get(Cell::Requests(MethodClass::Read, Outcome::Success)), 1);
        assert_eq!(counts.get(Cell::Requests(MethodClass::Write, Outcome::ClientLeft)), 1);
    }

    #[test]
    fn only_changes_are_told() {
        let registry = Registry::new(1);
        let (one, _other) = (registry.series(key("one"), None), registry.series(key("other"), None));
        assert!(registry.changes().is_empty());
        one.add(Cell::Retries, 1);
        assert_eq!(registry.changes().len(), 1);
        assert!(registry.changes().is_empty());
        registry.forget_what_was_told();
        assert_eq!(registry.changes().len(), 1);
    }

    #[test]
    fn what_is_used_is_not_forgotten() {
        let registry = Registry::new(1);
        let used = registry.series(key("used"), None);
        drop(registry.series(key("left"), None));
        registry.forget();
        assert_eq!(registry.read().len(), 2, "what left is shown for a while");
        drop(used);
    }
}
