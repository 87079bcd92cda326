//! IngressClass: a name for who serves Ingresses.

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::json;

use super::add_type;
use crate::json::text;
use crate::kind::{Kind, PLAIN, Scope};
use crate::metadata::{self, dns_subdomain_faults};
use crate::table::{self, column, or_none};
use crate::validation::{At, Cause};

/// Longest name of a controller.
const LONGEST_CONTROLLER: usize = 250;

pub(super) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    scope: Scope::Cluster,
    type_name: "io.k8s.api.networking.v1.IngressClass",
    add_types: add_type::<IngressClass>,
    counts_generations: true,
    validate,
    validate_update: |new, old| {
        let mut causes = metadata::validate_update(new, old);
        let controller = At::root(new).field("spec").field("controller");
        if controller.text() != text(old, "/spec/controller") {
            causes.push(controller.invalid("field is immutable"));
        }
        causes
    },
    columns: &[
        table::NAME,
        column("Controller", "string", "Who serves Ingresses of this class."),
        column("Parameters", "string", "What it is configured by."),
        table::AGE,
    ],
    row: |object, now| {
        let parameters = match (text(object, "/spec/parameters/kind"), text(object, "/spec/parameters/apiGroup")) {
            ("", _) => String::new(),
            (kind, "") => format!("{kind}/{}", text(object, "/spec/parameters/name")),
            (kind, group) => format!("{kind}.{group}/{}", text(object, "/spec/parameters/name")),
        };
        vec![
            table::name(object),
            json!(text(object, "/spec/controller")),
            or_none(&parameters),
            table::age(object, now),
        ]
    },
    ..PLAIN
};

fn validate(object: &serde_json::Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Cluster, dns_subdomain_faults);
    let controller = At::root(object).field("spec").field("controller");
    match controller.text().split_once('/') {
        _ if controller.is_empty() => causes.push(controller.required("")),
        _ if controller.text().len() > LONGEST_CONTROLLER => causes.push(controller.too_long(LONGEST_CONTROLLER)),
        Some((domain, path)) if !path.is_empty() => {
            causes.extend(controller.invalid_for(dns_subdomain_faults(domain)));
        }
        _ => causes.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")")),
    }
    causes
}
