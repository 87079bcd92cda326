//! Role and ClusterRole: what may be done. Nobody may do anything because of one; bindings give it to somebody.

use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use serde_json::{Value, json};

use super::add_type;
use crate::json::text;
use crate::kind::{Column, Kind, PLAIN, Scope};
use crate::metadata::{self, path_segment_faults};
use crate::table::{self, column};
use crate::validation::{At, Cause};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

const COLUMNS: &[Column] = &[table::NAME, column("Created At", "date", "When it was made.")];

pub(super) const KIND: Kind = Kind {
    group: GROUP,
    kind: "Role",
    plural: "roles",
    singular: "role",
    type_name: "io.k8s.api.rbac.v1.Role",
    add_types: add_type::<Role>,
    validate: |object| {
        let mut causes = metadata::validate(object, Scope::Namespaced, path_segment_faults);
        check_rules(object, Scope::Namespaced, &mut causes);
        causes
    },
    columns: COLUMNS,
    row,
    ..PLAIN
};

pub(super) const CLUSTER_KIND: Kind = Kind {
    group: GROUP,
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    scope: Scope::Cluster,
    type_name: "io.k8s.api.rbac.v1.ClusterRole",
    add_types: add_type::<ClusterRole>,
    validate: |object| {
        let mut causes = metadata::validate(object, Scope::Cluster, path_segment_faults);
        check_rules(object, Scope::Cluster, &mut causes);
        let selectors = At::root(object).field("aggregationRule").field("clusterRoleSelectors");
        if object["aggregationRule"].is_object() && selectors.is_empty() {
            causes.push(selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"));
        }
        causes
    },
    columns: COLUMNS,
    row,
    ..PLAIN
};

fn row(object: &Value, _: jiff::Timestamp) -> Vec<Value> {
    vec![table::name(object), json!(text(object, "/metadata/creationTimestamp"))]
}

fn check_rules(object: &Value, scope: Scope, causes: &mut Vec<Cause>) {
    for rule in At::root(object).field("rules").items() {
        if rule.field("verbs").is_empty() {
            causes.push(rule.field("verbs").required("verbs must contain at least one value"));
        }
        let [paths, groups, resources, names] =
            ["nonResourceURLs", "apiGroups", "resources", "resourceNames"].map(|field| rule.field(field));
        if paths.is_empty() {
            if groups.is_empty() {
                causes.push(groups.required("resource rules must supply at least one api group"));
            }
            if resources.is_empty() {
                causes.push(resources.required("resource rules must supply at least one resource"));
            }
        } else if scope == Scope::Namespaced {
            causes.push(paths.invalid("namespaced rules cannot apply to non-resource URLs"));
        } else if !(groups.is_empty() && resources.is_empty() && names.is_empty()) {
            causes.push(paths.invalid("rules cannot apply to both regular resources and non-resource URLs"));
        }
    }
}
