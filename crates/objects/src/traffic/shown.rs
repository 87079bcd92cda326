//! Traffic as the API shows it: `ServiceTraffic` and `RolloutTraffic`.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cell, ConnectionClass, Counts, Drain, METHODS, OUTCOMES, Period, Series, sums};

/// What happened to the traffic of one Service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "dev.segue.traffic.v1.ServiceTraffic")]
pub struct ServiceTraffic {
    /// That of the Service.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What was counted.
    #[serde(default)]
    pub status: ServiceTrafficStatus,
}

/// What happened to the traffic of one Deployment's last rollout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "dev.segue.traffic.v1.RolloutTraffic")]
pub struct RolloutTraffic {
    /// That of the Deployment.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What was counted.
    #[serde(default)]
    pub status: RolloutTrafficStatus,
}

/// Counts of a Service between two moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.ServiceTrafficStatus")]
pub struct ServiceTrafficStatus {
    /// From when on requests are counted here: the moment that was asked for, or an earlier one.
    pub since: Option<Time>,
    /// Until when.
    pub until: Option<Time>,
    #[serde(flatten)]
    pub totals: Totals,
    /// Requests by method and outcome.
    pub requests_by_outcome: Vec<Count>,
    /// The same by the version of the pod, which is its pod-template-hash.
    pub versions: Vec<VersionTraffic>,
    /// The same by pod.
    pub pods: Vec<PodTraffic>,
}

/// Counts of a rollout, over all Services that select its pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.RolloutTrafficStatus")]
pub struct RolloutTrafficStatus {
    /// From when on requests are counted here: the start of the rollout, or an earlier moment.
    pub since: Option<Time>,
    /// Until when.
    pub until: Option<Time>,
    /// The pod-template-hash that is rolled out.
    pub version: String,
    /// The revision that is rolled out.
    pub revision: i64,
    /// Names of the Services whose requests are counted.
    pub services: Vec<String>,
    #[serde(flatten)]
    pub totals: Totals,
    /// The same by the version of the pod.
    pub versions: Vec<VersionTraffic>,
    /// Pods that were drained.
    pub drained: Vec<Drained>,
}

/// Numbers that every view has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.Totals")]
pub struct Totals {
    /// Requests that are over.
    pub requests: u64,
    /// Those that had no answer, half an answer, or a server's error.
    pub failed: u64,
    /// Those that another pod was asked for again.
    pub retries: u64,
    /// How long requests took; none where none was timed.
    pub latency: Option<Latency>,
    /// Bytes of bodies and opaque connections that clients sent.
    pub bytes_from_clients: u64,
    /// Bytes of bodies and opaque connections that clients were sent.
    pub bytes_to_clients: u64,
    /// Connections by class.
    pub connections: Vec<Connections>,
}

/// How long requests took, from their head to the end of their answer, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.Latency")]
pub struct Latency {
    /// Half took no longer.
    pub p50_microseconds: u64,
    /// 9 of 10 took no longer.
    pub p90_microseconds: u64,
    /// 99 of 100 took no longer.
    pub p99_microseconds: u64,
    /// The average.
    pub mean_microseconds: u64,
}

/// Connections of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.Connections")]
pub struct Connections {
    /// http1, http2, opaque, upgraded, events or grpc-stream.
    pub class: String,
    /// How many were opened.
    pub opened: u64,
    /// How many of them are closed.
    pub closed: u64,
}

/// Requests with the same method class and outcome.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.Count")]
pub struct Count {
    /// read or write.
    pub method: String,
    /// 1xx, 2xx, 3xx, 4xx, 5xx, no-answer, broken-off or client-left.
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// Counts of one version's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.VersionTraffic")]
pub struct VersionTraffic {
    /// A pod-template-hash; empty for requests that no pod got.
    pub version: String,
    /// How many pods of it had traffic.
    pub pods: u64,
    #[serde(flatten)]
    pub totals: Totals,
}

/// Counts of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.PodTraffic")]
pub struct PodTraffic {
    /// The pod's name.
    pub name: String,
    /// Its pod-template-hash.
    pub version: String,
    #[serde(flatten)]
    pub totals: Totals,
    /// How it was drained, once it is.
    pub drain: Option<Drained>,
}

/// How a pod was drained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "dev.segue.traffic.v1.Drained")]
pub struct Drained {
    /// The pod's name.
    pub pod: String,
    /// Its pod-template-hash.
    pub version: String,
    /// From its withdrawal to the end of its last work, or to its own end.
    pub milliseconds: u64,
    /// Requests that were open when the pod was gone.
    pub requests_left: u32,
    /// Long connections that were open when the pod was gone.
    pub long_connections_left: u32,
}

/// What a `ServiceTraffic` says of one Service, from counts of that Service alone.
#[must_use]
pub fn service_status(period: &Period) -> ServiceTrafficStatus {
    let all = total(&period.series);
    ServiceTrafficStatus {
        since: Some(Time(period.since)),
        until: Some(Time(period.until)),
        requests_by_outcome: by_outcome(&all),
        totals: Totals::of(&all),
        versions: versions(&period.series),
        pods: pods(&period.series),
    }
}

/// What a `RolloutTraffic` says, from counts of the Services that select the rollout's pods, by these names.
#[must_use]
pub fn rollout_status(period: &Period, version: &str, revision: i64, services: Vec<String>) -> RolloutTrafficStatus {
    let mut drained: Vec<Drained> = period.series.iter().filter_map(drained).collect();
    drained.sort_by(|one, other| one.pod.cmp(&other.pod));
    drained.dedup_by(|one, other| one.pod == other.pod);
    RolloutTrafficStatus {
        since: Some(Time(period.since)),
        until: Some(Time(period.until)),
        version: version.to_owned(),
        revision,
        services,
        totals: Totals::of(&total(&period.series)),
        versions: versions(&period.series),
        drained,
    }
}

impl Totals {
    fn of(counts: &Counts) -> Self {
        let requests = |holds: fn(super::Outcome) -> bool| {
            let of_outcome = |(cell, _): &(Cell, u64)| matches!(cell, Cell::Requests(_, outcome) if holds(*outcome));
            counts.iter().filter(of_outcome).map(|(_, number)| number).sum()
        };
        let connections = ConnectionClass::all().map(|class| Connections {
            class: class.word().to_owned(),
            opened: counts.get(Cell::Opened(class)),
            closed: counts.get(Cell::Closed(class)),
        });
        Self {
            requests: requests(|_| true),
            failed: requests(super::Outcome::is_failure),
            retries: counts.get(Cell::Retries),
            latency: Latency::of(counts),
            bytes_from_clients: counts.get(Cell::BytesFromClients),
            bytes_to_clients: counts.get(Cell::BytesToClients),
            connections: connections.filter(|class| class.opened + class.closed > 0).collect(),
        }
    }
}

impl Latency {
    fn of(counts: &Counts) -> Option<Self> {
        let timed: u64 =
            counts.iter().filter(|(cell, _)| matches!(cell, Cell::Latency(_))).map(|(_, number)| number).sum();
        let share = |share| Some(counts.latency(share)?.as_micros() as u64);
        Some(Self {
            p50_microseconds: share(0.5)?,
            p90_microseconds: share(0.9)?,
            p99_microseconds: share(0.99)?,
            mean_microseconds: counts.get(Cell::LatencySum).checked_div(timed)?,
        })
    }
}

fn total(series: &[Series]) -> Counts {
    sums(series, |_| ()).remove(&()).unwrap_or_default()
}

fn by_outcome(counts: &Counts) -> Vec<Count> {
    let all = METHODS.into_iter().flat_map(|method| OUTCOMES.map(|outcome| (method, outcome)));
    let counted = all.map(|(method, outcome)| Count {
        method: method.word().to_owned(),
        outcome: outcome.word().to_owned(),
        count: counts.get(Cell::Requests(method, outcome)),
    });
    counted.filter(|count| count.count > 0).collect()
}

fn versions(series: &[Series]) -> Vec<VersionTraffic> {
    let by_version = sums(series, |key| key.version.as_str());
    let with_traffic = by_version.into_iter().filter(|(_, counts)| !counts.is_empty());
    let of_version = |(version, counts): (&str, Counts)| {
        let pods: BTreeSet<&str> = series
            .iter()
            .filter(|one| one.key.version == version && !one.key.pod.is_empty() && !one.counts.is_empty())
            .map(|one| one.key.pod.as_str())
            .collect();
        VersionTraffic { version: version.to_owned(), pods: pods.len() as u64, totals: Totals::of(&counts) }
    };
    // What no pod got is a version of its own only if it is requests; connections are among the totals.
    with_traffic.map(of_version).filter(|it| !it.version.is_empty() || it.totals.requests > 0).collect()
}

fn pods(series: &[Series]) -> Vec<PodTraffic> {
    let of_pods = || series.iter().filter(|one| !one.key.pod.is_empty());
    let by_pod = sums(of_pods(), |key| (key.pod.as_str(), key.version.as_str()));
    let of_pod = |((name, version), counts): ((&str, &str), Counts)| PodTraffic {
        name: name.to_owned(),
        version: version.to_owned(),
        totals: Totals::of(&counts),
        drain: of_pods().filter(|one| one.key.pod == name).find_map(drained),
    };
    by_pod.into_iter().map(of_pod).collect()
}

fn drained(series: &Series) -> Option<Drained> {
    let Drain { milliseconds, requests, long } = series.drain?;
    Some(Drained {
        pod: series.key.pod.clone(),
        version: series.key.version.clone(),
        milliseconds,
        requests_left: requests,
        long_connections_left: long,
    })
}
