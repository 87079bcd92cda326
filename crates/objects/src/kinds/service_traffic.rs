//! ServiceTraffic: what happened to the requests of a Service. Computed when it is asked for.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{integer, text};
use crate::kind::{Column, Kind, PLAIN};
use crate::table::{self, column, wide};
use crate::traffic::ServiceTraffic;

pub(super) const GROUP: &str = "traffic.segue.dev";

pub(super) const KIND: Kind = Kind {
    group: GROUP,
    kind: "ServiceTraffic",
    plural: "servicetraffic",
    singular: "servicetraffic",
    short_names: &["svctraffic"],
    type_name: "dev.segue.traffic.v1.ServiceTraffic",
    add_types: add_type::<ServiceTraffic>,
    is_computed: true,
    columns: COLUMNS,
    row: |object, now| {
        let mut cells = vec![table::name(object)];
        cells.extend(totals(object, now));
        cells
    },
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Requests", "integer", "Requests that are over."),
    column("Failed", "integer", "Those that had no answer, half an answer, or a server's error."),
    column("Retries", "integer", "Those that another pod was asked for again."),
    column("P50", "string", "Half of them took no longer."),
    column("P99", "string", "99 of 100 took no longer."),
    column("Since", "string", "How long ago counting began."),
    wide("Versions", "string", "Requests by version of the pods."),
];

/// What the tables of both kinds of traffic have in common.
pub(super) fn totals(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |pointer| integer(object, pointer).unwrap_or_default();
    vec![
        json!(number("/status/requests")),
        json!(number("/status/failed")),
        json!(number("/status/retries")),
        json!(milliseconds(object, "/status/latency/p50Microseconds")),
        json!(milliseconds(object, "/status/latency/p99Microseconds")),
        json!(table::since(text(object, "/status/since"), now)),
        table::or_none(&by_version(object)),
    ]
}

fn milliseconds(object: &Value, pointer: &str) -> String {
    match integer(object, pointer) {
        Some(micros) => format!("{:.1}ms", micros as f64 / 1000.0),
        None => "<none>".to_owned(),
    }
}

fn by_version(object: &Value) -> String {
    let versions = crate::json::items(object, "/status/versions").iter();
    let shown = versions.map(|version| {
        let name = match text(version, "/version") {
            "" => "-",
            name => name,
        };
        format!("{name}={}", integer(version, "/requests").unwrap_or_default())
    });
    shown.collect::<Vec<_>>().join(",")
}
