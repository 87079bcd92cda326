//! Every judgement that Segue makes, as plain functions: a snapshot and `now` in, a value out.
//! No clock, no I/O, no randomness, no locks; the same input gives the same answer.

pub mod availability;
pub mod balancing;
pub mod callers;
pub mod disruption;
pub mod draining;
pub mod endpoints;
pub mod eviction;
pub mod exposure;
pub mod garbage;
pub mod image_garbage;
pub mod images;
pub mod ingress;
pub mod mesh;
pub mod namespace;
pub mod network_policy;
pub mod node_pressure;
pub mod object;
pub mod owners;
pub mod placement;
pub mod pod_lifecycle;
pub mod probes;
pub mod protocol;
pub mod rbac;
pub mod replicas;
pub mod retries;
pub mod rollout;
pub mod safe_to_stop;
pub mod service_account;
pub mod sysctls;
pub mod target;

use jiff::Timestamp;

/// What to do next, and when nothing is to be done, what is awaited.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<S, W> {
    /// Steps to apply, in this order.
    pub steps: Vec<S>,
    /// Every reason for not going further, each with a sentence that users read.
    pub waiting_on: Vec<W>,
    /// When the answer may change without any event.
    pub look_again_at: Option<Timestamp>,
}
