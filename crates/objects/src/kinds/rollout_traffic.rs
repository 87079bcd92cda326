//! RolloutTraffic: what happened to requests during a Deployment's last rollout. Computed when it is asked for.

use serde_json::json;

use super::add_type;
use super::service_traffic::{GROUP, totals};
use crate::json::{integer, text};
use crate::kind::{Column, Kind, PLAIN};
use crate::table::{self, column, wide};
use crate::traffic::RolloutTraffic;

pub(super) const KIND: Kind = Kind {
    group: GROUP,
    kind: "RolloutTraffic",
    plural: "rollouttraffic",
    singular: "rollouttraffic",
    type_name: "dev.segue.traffic.v1.RolloutTraffic",
    add_types: add_type::<RolloutTraffic>,
    is_computed: true,
    columns: COLUMNS,
    row: |object, now| {
        let revision = integer(object, "/status/revision").unwrap_or_default();
        let mut cells = vec![table::name(object), json!(revision), json!(text(object, "/status/version"))];
        cells.extend(totals(object, now));
        cells
    },
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Revision", "integer", "The revision that is rolled out."),
    column("Version", "string", "Its pod-template-hash."),
    column("Requests", "integer", "Requests that are over."),
    column("Failed", "integer", "Those that had no answer, half an answer, or a server's error."),
    column("Retries", "integer", "Those that another pod was asked for again."),
    column("P50", "string", "Half of them took no longer."),
    column("P99", "string", "99 of 100 took no longer."),
    column("Since", "string", "How long ago the rollout began."),
    wide("Versions", "string", "Requests by version of the pods."),
];
