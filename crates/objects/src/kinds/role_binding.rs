//! RoleBinding and ClusterRoleBinding: who may do what a role says.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use serde_json::{Value, json};

use super::add_type;
use super::role::GROUP;
use crate::json::{self, text};
use crate::kind::{Column, Kind, PLAIN, Scope};
use crate::metadata::{self, dns_subdomain_faults, path_segment_faults};
use crate::table::{self, column, wide};
use crate::validation::{At, Cause};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Role", "string", "What its subjects may do."),
    table::AGE,
    wide("Users", "string", "Users it is about."),
    wide("Groups", "string", "Groups it is about."),
    wide("ServiceAccounts", "string", "ServiceAccounts it is about."),
];

pub(super) const KIND: Kind = Kind {
    group: GROUP,
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    type_name: "io.k8s.api.rbac.v1.RoleBinding",
    add_types: add_type::<RoleBinding>,
    default,
    validate: |object| validate(object, Scope::Namespaced, &["ClusterRole", "Role"]),
    validate_update,
    columns: COLUMNS,
    row,
    ..PLAIN
};

pub(super) const CLUSTER_KIND: Kind = Kind {
    group: GROUP,
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    scope: Scope::Cluster,
    type_name: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    add_types: add_type::<ClusterRoleBinding>,
    default,
    validate: |object| validate(object, Scope::Cluster, &["ClusterRole"]),
    validate_update,
    columns: COLUMNS,
    row,
    ..PLAIN
};

fn default(object: &mut Value) {
    json::fill(json::child(object, "roleRef"), "apiGroup", GROUP);
    for subject in object["subjects"].as_array_mut().into_iter().flatten() {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            json::fill(subject, "apiGroup", GROUP);
        }
    }
}

fn validate(object: &Value, scope: Scope, roles: &[&str]) -> Vec<Cause> {
    let mut causes = metadata::validate(object, scope, path_segment_faults);
    let role = At::root(object).field("roleRef");
    if role.field("apiGroup").text() != GROUP {
        causes.push(role.field("apiGroup").not_supported(&[GROUP]));
    }
    if !roles.contains(&role.field("kind").text()) {
        causes.push(role.field("kind").not_supported(roles));
    }
    match role.field("name") {
        name if name.is_empty() => causes.push(name.required("")),
        name => causes.extend(name.invalid_for(path_segment_faults(name.text()))),
    }
    for subject in At::root(object).field("subjects").items() {
        check_subject(&subject, scope, &mut causes);
    }
    causes
}

fn check_subject(subject: &At<'_>, scope: Scope, causes: &mut Vec<Cause>) {
    let [kind, group, name, namespace] = ["kind", "apiGroup", "name", "namespace"].map(|field| subject.field(field));
    if name.is_empty() {
        causes.push(name.required(""));
    }
    match kind.text() {
        "ServiceAccount" => {
            causes.extend(name.invalid_for(dns_subdomain_faults(name.text())).filter(|_| !name.is_empty()));
            if !group.is_empty() {
                causes.push(group.not_supported(&[""]));
            }
            if namespace.is_empty() && scope == Scope::Cluster {
                causes.push(namespace.required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                causes.push(group.not_supported(&[GROUP]));
            }
        }
        _ => causes.push(kind.not_supported(&["Group", "ServiceAccount", "User"])),
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    if new["roleRef"] != old["roleRef"] {
        causes.push(At::root(new).field("roleRef").invalid("cannot change roleRef"));
    }
    causes
}

fn row(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let subjects = || object["subjects"].as_array().into_iter().flatten();
    let of = |kind: &str| {
        let names =
            subjects().filter(|subject| subject["kind"] == kind).map(|subject| match text(subject, "/namespace") {
                "" => text(subject, "/name").to_owned(),
                namespace => format!("{namespace}/{}", text(subject, "/name")),
            });
        json!(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        table::name(object),
        json!(format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"))),
        table::age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
