//! Every kind that is served. A new kind is one file and one line in this list.

use schemars::{JsonSchema, SchemaGenerator};

use crate::kind::Kind;

mod config_map;
mod deployment;
mod endpoint_slice;
mod event;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod lease;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod pod_disruption_budget;
mod replica_set;
mod reviews;
mod role;
mod role_binding;
mod rollout_traffic;
mod secret;
mod service;
mod service_account;
mod service_traffic;

mod label_selector;
mod pod_spec;
mod pod_template;
mod tolerations;

pub use service::NODE_PORTS;

static ALL: [Kind; 28] = [
    config_map::KIND,
    deployment::KIND,
    endpoint_slice::KIND,
    event::KIND,
    horizontal_pod_autoscaler::KIND,
    ingress::KIND,
    ingress_class::KIND,
    lease::KIND,
    namespace::KIND,
    network_policy::KIND,
    node::KIND,
    pod::KIND,
    pod_disruption_budget::KIND,
    replica_set::KIND,
    reviews::ACCESS,
    reviews::SELF_ACCESS,
    reviews::SELF_RULES,
    reviews::WHO_AM_I,
    reviews::TOKEN,
    role::CLUSTER_KIND,
    role::KIND,
    role_binding::CLUSTER_KIND,
    role_binding::KIND,
    rollout_traffic::KIND,
    secret::KIND,
    service::KIND,
    service_account::KIND,
    service_traffic::KIND,
];

/// Every kind that is served, in no order that means anything.
#[must_use]
pub fn all() -> &'static [Kind] {
    &ALL
}

/// The kind behind a resource's plural name.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind of this CamelCase name.
#[must_use]
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter().find(|found| found.group == group && found.version == version && found.kind == kind)
}

/// For [`Kind::add_types`].
fn add_type<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

#[cfg(test)]
mod tests;
