//! What happened to the traffic of Services, as data: counted by the data plane, kept by the engine, shown by the API
//! under `traffic.segue.dev/v1`. Counts only grow; what happened in between is the difference of two.

mod shown;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use shown::{
    Connections, Count, Drained, Latency, PodTraffic, RolloutTraffic, RolloutTrafficStatus, ServiceTraffic,
};
pub use shown::{ServiceTrafficStatus, Totals, VersionTraffic, rollout_status, service_status};

/// Upper ends of the classes by which the length of requests is counted; the last class has none.
pub const LATENCY_LIMITS: [Duration; 16] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Whether a method only asks (RFC 9110, 9.2.1: safe) or may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MethodClass {
    Read,
    Write,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The connection was given to another protocol.
    Switched,
    /// 2xx; in gRPC the status `OK`.
    Success,
    /// 3xx
    Redirection,
    /// 4xx; in gRPC a status that the caller caused.
    ClientError,
    /// 5xx; in gRPC any other status.
    ServerError,
    /// The proxy answered, since no pod did.
    NoAnswer,
    /// The pod broke its answer off.
    BrokenOff,
    /// The client went away before it had the whole answer.
    ClientLeft,
}

/// What a connection carries. The first two are clients' connections; the others last as long as their work, on a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConnectionClass {
    Http1,
    Http2,
    /// Bytes that are passed as they are.
    Opaque,
    /// WebSocket, or whatever else HTTP/1.1 was given up for.
    Upgraded,
    /// Server-sent events.
    Events,
    /// A gRPC call that streams.
    GrpcStream,
}

/// One number that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cell {
    Requests(MethodClass, Outcome),
    /// Requests that this pod did not answer and another was asked.
    Retries,
    /// Requests whose length is in this class; the class after the last of [`LATENCY_LIMITS`] has no upper end.
    Latency(u8),
    /// Their lengths together, in microseconds.
    LatencySum,
    /// Bytes of bodies and of opaque connections, without heads.
    BytesFromClients,
    BytesToClients,
    Opened(ConnectionClass),
    Closed(ConnectionClass),
}

/// Classes of latency.
const LATENCIES: usize = LATENCY_LIMITS.len() + 1;
const METHODS: [MethodClass; 2] = [MethodClass::Read, MethodClass::Write];
const OUTCOMES: [Outcome; 8] = [
    Outcome::Switched,
    Outcome::Success,
    Outcome::Redirection,
    Outcome::ClientError,
    Outcome::ServerError,
    Outcome::NoAnswer,
    Outcome::BrokenOff,
    Outcome::ClientLeft,
];
const CLASSES: [ConnectionClass; 6] = [
    ConnectionClass::Http1,
    ConnectionClass::Http2,
    ConnectionClass::Opaque,
    ConnectionClass::Upgraded,
    ConnectionClass::Events,
    ConnectionClass::GrpcStream,
];

const AFTER_REQUESTS: usize = METHODS.len() * OUTCOMES.len();
const AFTER_LATENCIES: usize = AFTER_REQUESTS + 1 + LATENCIES;
const AFTER_SUMS: usize = AFTER_LATENCIES + 3;

impl Cell {
    /// How many cells there are.
    pub const COUNT: usize = AFTER_SUMS + 2 * CLASSES.len();

    /// Its place among all, from 0 on.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Requests(method, outcome) => method as usize * OUTCOMES.len() + outcome as usize,
            Self::Retries => AFTER_REQUESTS,
            Self::Latency(class) => AFTER_REQUESTS + 1 + class as usize,
            Self::LatencySum => AFTER_LATENCIES,
            Self::BytesFromClients => AFTER_LATENCIES + 1,
            Self::BytesToClients => AFTER_LATENCIES + 2,
            Self::Opened(class) => AFTER_SUMS + class as usize,
            Self::Closed(class) => AFTER_SUMS + CLASSES.len() + class as usize,
        }
    }

    /// Every cell, by its place.
    pub fn all() -> impl Iterator<Item = Self> {
        let requests = METHODS.into_iter().flat_map(|method| OUTCOMES.map(|outcome| Self::Requests(method, outcome)));
        let latencies = (0..LATENCIES as u8).map(Self::Latency);
        let sums = [Self::LatencySum, Self::BytesFromClients, Self::BytesToClients];
        let connections = CLASSES.map(Self::Opened).into_iter().chain(CLASSES.map(Self::Closed));
        requests.chain([Self::Retries]).chain(latencies).chain(sums).chain(connections)
    }

    /// The class of a request that took so long.
    #[must_use]
    pub fn latency(length: Duration) -> Self {
        Self::Latency(LATENCY_LIMITS.partition_point(|limit| *limit < length) as u8)
    }
}

impl MethodClass {
    /// As labels and fields name it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Outcome {
    /// The outcome of an HTTP answer.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            ..200 => Self::Switched,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// The outcome of a gRPC call with this status code (gRPC, "Status codes and their use").
    #[must_use]
    pub fn of_grpc_status(code: u32) -> Self {
        const CAUSED_BY_CALLERS: [u32; 8] = [1, 3, 5, 6, 7, 9, 11, 16];
        match code {
            0 => Self::Success,
            code if CAUSED_BY_CALLERS.contains(&code) => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// Whether somebody other than the client is to blame.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Self::ServerError | Self::NoAnswer | Self::BrokenOff)
    }

    /// As labels and fields name it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Switched => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::NoAnswer => "no-answer",
            Self::BrokenOff => "broken-off",
            Self::ClientLeft => "client-left",
        }
    }
}

impl ConnectionClass {
    /// As labels and fields name it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
            Self::Upgraded => "upgraded",
            Self::Events => "events",
            Self::GrpcStream => "grpc-stream",
        }
    }

    /// Every class.
    pub fn all() -> impl Iterator<Item = Self> {
        CLASSES.into_iter()
    }
}

/// Numbers by cell; those that are 0 are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(Vec<(Cell, u64)>);

impl Counts {
    /// From numbers by place.
    #[must_use]
    pub fn from_places(numbers: &[u64; Cell::COUNT]) -> Self {
        Self(Cell::all().zip(numbers.iter().copied()).filter(|(_, number)| *number > 0).collect())
    }

    /// One number.
    #[must_use]
    pub fn get(&self, cell: Cell) -> u64 {
        self.0.iter().find(|(found, _)| *found == cell).map_or(0, |(_, number)| *number)
    }

    /// Every number that is not 0.
    pub fn iter(&self) -> impl Iterator<Item = (Cell, u64)> {
        self.0.iter().copied()
    }

    /// Adds others, cell by cell.
    pub fn add(&mut self, others: &Self) {
        let mut numbers = self.places();
        for (cell, number) in others.iter() {
            numbers[cell.index()] += number;
        }
        *self = Self::from_places(&numbers);
    }

    /// What came since an earlier state of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut numbers = self.places();
        for (cell, number) in earlier.iter() {
            numbers[cell.index()] = numbers[cell.index()].saturating_sub(number);
        }
        Self::from_places(&numbers)
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The length that this share of the requests kept within, estimated within its class; none without requests.
    #[must_use]
    pub fn latency(&self, share: f64) -> Option<Duration> {
        let classes: Vec<u64> = (0..LATENCIES as u8).map(|class| self.get(Cell::Latency(class))).collect();
        let total: u64 = classes.iter().sum();
        let wanted = share * total as f64;
        let mut below = 0.0;
        for (class, number) in classes.iter().enumerate().filter(|(_, number)| **number > 0) {
            let within = (wanted - below) / *number as f64;
            if within <= 1.0 {
                let from = class.checked_sub(1).map_or(Duration::ZERO, |before| LATENCY_LIMITS[before]);
                let to = LATENCY_LIMITS.get(class).copied().unwrap_or(from);
                return Some(from + (to - from).mul_f64(within.max(0.0)));
            }
            below += *number as f64;
        }
        None
    }

    fn places(&self) -> [u64; Cell::COUNT] {
        let mut numbers = [0; Cell::COUNT];
        for (cell, number) in self.iter() {
            numbers[cell.index()] = number;
        }
        numbers
    }
}

/// What is counted apart: one port of one Service with one pod, or with none. All empty: requests from outside that are for
/// no Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesKey {
    pub namespace: String,
    pub service: String,
    pub port: u16,
    /// The pod's `metadata.uid`; empty for what concerns no pod.
    pub pod_uid: String,
    pub pod: String,
    /// The pod's `pod-template-hash`.
    pub version: String,
}

/// Counts of one port of one Service with one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Series {
    #[serde(flatten)]
    pub key: SeriesKey,
    pub counts: Counts,
    /// Once the pod was drained.
    #[serde(default)]
    pub drain: Option<Drain>,
}

/// How a pod was drained: from its withdrawal to the end of its last work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub milliseconds: u64,
    /// Requests and long connections that were still open when the pod was gone; both 0 when it was waited for.
    pub requests: u32,
    pub long: u32,
}

/// What was counted from one moment to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Period {
    pub since: jiff::Timestamp,
    pub until: jiff::Timestamp,
    pub series: Vec<Series>,
}

/// Adds series up by something they have in common.
fn sums<'a, K: Ord>(
    series: impl IntoIterator<Item = &'a Series>,
    key: impl Fn(&'a SeriesKey) -> K,
) -> BTreeMap<K, Counts> {
    let mut sums: BTreeMap<K, Counts> = BTreeMap::new();
    for one in series {
        sums.entry(key(&one.key)).or_default().add(&one.counts);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(numbers: &[(Cell, u64)]) -> Counts {
        let mut counts = Counts::default();
        for one in numbers {
            counts.add(&Counts(vec![*one]));
        }
        counts
    }

    #[test]
    fn every_cell_has_its_own_place() {
        assert_eq!(Cell::all().map(Cell::index).collect::<Vec<_>>(), (0..Cell::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn a_difference_and_its_start_make_the_end() {
        let start = counted(&[(Cell::Retries, 2), (Cell::BytesToClients, 10)]);
        let end = counted(&[(Cell::Retries, 5), (Cell::BytesToClients, 10), (Cell::LatencySum, 7)]);
        let difference = end.since(&start);
        assert_eq!(difference, counted(&[(Cell::Retries, 3), (Cell::LatencySum, 7)]));
        let mut sum = start.clone();
        sum.add(&difference);
        assert_eq!(sum, end);
        assert!(end.since(&end).is_empty());
    }

    #[test]
    fn lengths_fall_into_the_class_that_ends_at_or_above_them() {
        let class = |micros| Cell::latency(Duration::from_micros(micros));
        assert_eq!(class(0), Cell::Latency(0));
        assert_eq!(class(250), Cell::Latency(0));
        assert_eq!(class(251), Cell::Latency(1));
        assert_eq!(class(30_000_001), Cell::Latency(16));
    }

    #[test]
    fn shares_of_lengths_are_estimated_within_their_class() {
        let counts = counted(&[(Cell::Latency(0), 50), (Cell::Latency(2), 50)]);
        assert_eq!(counts.latency(0.5), Some(Duration::from_micros(250)));
        assert_eq!(counts.latency(0.75), Some(Duration::from_micros(750)));
        assert_eq!(counted(&[(Cell::Latency(16), 1)]).latency(0.5), Some(Duration::from_secs(30)));
        assert_eq!(Counts::default().latency(0.5), None);
    }

    #[test]
    fn grpc_statuses_are_blamed_on_who_caused_them() {
        assert_eq!(Outcome::of_grpc_status(0), Outcome::Success);
        assert_eq!(Outcome::of_grpc_status(5), Outcome::ClientError);
        assert_eq!(Outcome::of_grpc_status(14), Outcome::ServerError);
    }
}
