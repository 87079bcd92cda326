//! Lease: who of several holds something now, as leader elections write it.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::add_type;
use crate::json::text;
use crate::kind::{Kind, PLAIN, Scope};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_not_negative};

pub(super) const KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    type_name: "io.k8s.api.coordination.v1.Lease",
    add_types: add_type::<Lease>,
    validate,
    columns: &[table::NAME, column("Holder", "string", "Who holds it."), table::AGE],
    row: |object, now| vec![table::name(object), json!(text(object, "/spec/holderIdentity")), table::age(object, now)],
    ..PLAIN
};

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    let duration = spec.field("leaseDurationSeconds");
    if duration.number().is_some_and(|seconds| seconds <= 0) {
        causes.push(duration.invalid("must be greater than 0"));
    }
    check_not_negative(&spec.field("leaseTransitions"), &mut causes);
    causes
}
