//! ServiceAccount: a name that pods run under, and that tokens are given out for.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::add_type;
use crate::kind::{Kind, PLAIN, Subresource};
use crate::table;

pub(super) const KIND: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    answers_with_deleted: true,
    type_name: "io.k8s.api.core.v1.ServiceAccount",
    add_types: add_type::<ServiceAccount>,
    columns: &[table::NAME, table::AGE],
    row: |object, now| vec![table::name(object), table::age(object, now)],
    ..PLAIN
};
