//! What came of a load, as data that can be printed, stored and compared.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Histogram, Way};

/// Failures are all counted; so many of the first are also described.
const SAMPLES: usize = 20;

/// Requests sent and what became of them. `sent` is the sum of `ok` and all of `failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    pub ok: u64,
    pub failed: BTreeMap<Failure, u64>,
    /// Right answers by the `x-app-version` that gave them.
    pub by_version: BTreeMap<String, u64>,
    /// Right answers by the `x-app-pod` that gave them.
    pub by_pod: BTreeMap<String, u64>,
    /// Right answers by the way that their requests were sent.
    #[serde(default)]
    pub by_way: BTreeMap<Way, u64>,
    /// From the moment a request was due, so that a stall counts for all that had to wait for it.
    pub latency: Histogram,
    /// Connections opened, kept alive or not.
    pub connections: u64,
    /// Requests that crossed a goodbye and were, as it says, not processed: they were asked on another connection.
    #[serde(default)]
    pub unprocessed: u64,
    pub elapsed: Duration,
    /// The first failures, as workers entered them: those of one moment are in any order.
    pub samples: Vec<Sample>,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// Nobody listened.
    Refused,
    /// The connection could not be opened for another reason.
    Unreachable,
    /// The connection broke before the answer began.
    Reset,
    /// The connection ended in order, but before the answer began.
    Unanswered,
    /// The answer had begun and was never completed: nobody can ask again for the rest of it.
    Short,
    /// The answer was not HTTP.
    Malformed,
    /// The status was not 200, or that of gRPC was not 0.
    Status,
    /// The answer was not to this request, or did not say who gave it.
    WrongBody,
    /// The answer took longer than the plan allows.
    Timeout,
}

/// One failed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the start of the load.
    pub after: Duration,
    pub failure: Failure,
    /// What was sent, over which connection, and what came back.
    pub detail: String,
}

impl Report {
    /// Requests that failed, of every kind.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Right answers that `version` gave.
    #[must_use]
    pub fn served_by(&self, version: &str) -> u64 {
        self.by_version.get(version).copied().unwrap_or_default()
    }

    pub(super) fn count_answer(&mut self, way: Way, version: &str, pod: &str, latency: Duration) {
        self.sent += 1;
        self.ok += 1;
        *self.by_way.entry(way).or_default() += 1;
        *self.by_version.entry(version.to_owned()).or_default() += 1;
        *self.by_pod.entry(pod.to_owned()).or_default() += 1;
        self.latency.record(latency);
    }

    pub(super) fn count_failure(&mut self, sample: Sample) {
        self.sent += 1;
        *self.failed.entry(sample.failure).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(sample);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "requests sent", &self.sent.to_string())?;
        row(f, "failed", &self.failures().to_string())?;
        for (failure, count) in &self.failed {
            row(f, &format!("  {failure}"), &count.to_string())?;
        }
        for (version, count) in &self.by_version {
            row(f, &format!("answered by {version}"), &count.to_string())?;
        }
        for (way, count) in &self.by_way {
            row(f, &format!("over {way}"), &count.to_string())?;
        }
        if self.unprocessed > 0 {
            row(f, "crossed a goodbye", &self.unprocessed.to_string())?;
        }
        row(f, "connections opened", &self.connections.to_string())?;
        row(f, "duration", &format!("{:.1} s", self.elapsed.as_secs_f64()))?;
        for (name, per_mille) in [("latency p50", 500), ("latency p99", 990), ("latency highest", 1000)] {
            if let Some(latency) = self.latency.quantile(per_mille) {
                row(f, name, &format!("{:.1} ms", latency.as_secs_f64() * 1000.0))?;
            }
        }
        for Sample { after, failure, detail } in &self.samples {
            writeln!(f, "failed at {:.3} s, {failure}: {detail}", after.as_secs_f64())?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<32}{value:>10}")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Refused => "connection refused",
            Failure::Unreachable => "could not connect",
            Failure::Reset => "connection broke",
            Failure::Unanswered => "connection ended without answer",
            Failure::Short => "answer cut short",
            Failure::Malformed => "answer was not HTTP",
            Failure::Status => "status was not good",
            Failure::WrongBody => "wrong answer",
            Failure::Timeout => "no answer in time",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(failure: Failure) -> Sample {
        Sample { after: Duration::from_millis(1500), failure, detail: "GET /".to_owned() }
    }

    #[test]
    fn every_failure_is_counted_even_when_no_longer_described() {
        let mut report = Report::default();
        for _ in 0..SAMPLES + 5 {
            report.count_failure(sample(Failure::Reset));
        }
        report.count_failure(sample(Failure::Timeout));
        report.count_answer(Way::Http2, "v1", "pod", Duration::from_millis(2));
        assert_eq!((report.sent, report.ok, report.failures()), (27, 1, 26));
        assert_eq!(report.samples.len(), SAMPLES);
    }

    #[test]
    fn a_report_survives_json() {
        let mut report = Report::default();
        report.count_failure(sample(Failure::WrongBody));
        report.count_answer(Way::Http2, "v2", "pod", Duration::from_millis(2));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn the_table_names_versions_and_kinds_of_failure() {
        let mut report = Report::default();
        report.count_failure(sample(Failure::Status));
        report.count_answer(Way::Http2, "v2", "pod", Duration::from_millis(2));
        let table = report.to_string();
        for line in
            ["answered by v2", "over HTTP/2", "status was not good", "failed at 1.500 s, status was not good: GET /"]
        {
            assert!(table.contains(line), "{line} is missing in\n{table}");
        }
    }
}
