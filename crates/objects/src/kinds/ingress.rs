//! Ingress: which requests from outside, by host and path, go to which Service.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{child, items, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata::{self, dns_label_faults, dns_subdomain_faults, port_name_faults};
use crate::table::{self, column, or_none, some_of};
use crate::validation::{At, Cause};

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

/// What a path may not contain, since servers disagree on what it means, and what it may not end with.
const AMBIGUOUS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const AMBIGUOUS_ENDS: [&str; 2] = ["/..", "/."];

/// Hosts that a table shows.
const MOST_HOSTS: usize = 3;

pub(super) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    subresources: &[Subresource::Status],
    type_name: "io.k8s.api.networking.v1.Ingress",
    add_types: add_type::<Ingress>,
    counts_generations: true,
    default: |object| {
        child(child(object, "status"), "loadBalancer");
    },
    prepare_create: |object| set(object, "status", json!({"loadBalancer": {}})),
    prepare_update: |new, old| set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({}))),
    validate,
    columns: COLUMNS,
    row,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Class", "string", "Who serves it."),
    column("Hosts", "string", "The hosts that it is about."),
    column("Address", "string", "Where it is reached."),
    column("Ports", "string", "The ports at which it is reached."),
    table::AGE,
];

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let addresses = items(object, "/status/loadBalancer/ingress").iter();
    let addresses: Vec<&str> = addresses
        .map(|point| match text(point, "/ip") {
            "" => text(point, "/hostname"),
            ip => ip,
        })
        .collect();
    let ports = if items(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        table::name(object),
        or_none(text(object, "/spec/ingressClassName")),
        json!(hosts(object)),
        json!(addresses.join(",")),
        json!(ports),
        table::age(object, now),
    ]
}

fn hosts(object: &Value) -> String {
    let hosts: Vec<String> = items(object, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "/host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    some_of(&hosts, MOST_HOSTS, "*")
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    let (backend, rules, class) = (spec.field("defaultBackend"), spec.field("rules"), spec.field("ingressClassName"));
    if !backend.is_given() && rules.items().next().is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        causes.push(spec.invalid_as(&Value::Null, detail));
    }
    if backend.is_given() {
        check_backend(&backend, &mut causes);
    }
    for tls in spec.field("tls").items() {
        check_tls(&tls, &mut causes);
    }
    for rule in rules.items() {
        check_rule(&rule, &mut causes);
    }
    if class.is_given() {
        causes.extend(class.invalid_for(dns_subdomain_faults(class.text())));
    }
    causes
}

fn check_tls(tls: &At<'_>, causes: &mut Vec<Cause>) {
    for host in tls.field("hosts").items() {
        causes.extend(host.invalid_for(host_faults(host.text())));
    }
    let secret = tls.field("secretName");
    if !secret.is_empty() {
        causes.extend(secret.invalid_for(dns_subdomain_faults(secret.text())));
    }
}

fn check_rule(rule: &At<'_>, causes: &mut Vec<Cause>) {
    let host = rule.field("host");
    if host.text().parse::<IpAddr>().is_ok() {
        causes.push(host.invalid("must be a DNS name, not an IP address"));
    } else if !host.is_empty() {
        causes.extend(host.invalid_for(host_faults(host.text())));
    }
    let http = rule.field("http");
    if !http.is_given() {
        return;
    }
    let paths = http.field("paths");
    if paths.items().next().is_none() {
        causes.push(paths.required(""));
    }
    for path in paths.items() {
        check_path(&path, causes);
    }
}

fn host_faults(host: &str) -> Vec<String> {
    match host.strip_prefix("*.") {
        Some(rest) if !rest.contains('*') => dns_subdomain_faults(rest),
        _ => dns_subdomain_faults(host),
    }
}

fn check_path(rule: &At<'_>, causes: &mut Vec<Cause>) {
    let (path, kind) = (rule.field("path"), rule.field("pathType"));
    match kind.text() {
        "" if !kind.is_given() => {
            causes.push(kind.required("pathType must be specified"));
            return;
        }
        "Exact" | "Prefix" => {
            if !path.text().starts_with('/') {
                causes.push(path.invalid_as(&json!(path.text()), "must be an absolute path"));
            }
            for part in AMBIGUOUS.into_iter().filter(|part| path.text().contains(part)) {
                causes.push(path.invalid(&format!("must not contain '{part}'")));
            }
            for end in AMBIGUOUS_ENDS.into_iter().filter(|end| path.text().ends_with(end)) {
                causes.push(path.invalid(&format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.text().starts_with('/') {
                causes.push(path.invalid("must be an absolute path"));
            }
        }
        _ => causes.push(kind.not_supported(&PATH_TYPES)),
    }
    check_backend(&rule.field("backend"), causes);
}

fn check_backend(backend: &At<'_>, causes: &mut Vec<Cause>) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    match (service.is_given(), resource.is_given()) {
        (true, true) => {
            causes.push(backend.invalid_as(&json!(""), "cannot set both resource and service backends"));
        }
        (true, false) => check_service(&service, causes),
        (false, true) => {
            for name in ["kind", "name"].into_iter().filter(|name| resource.field(name).is_empty()) {
                causes.push(resource.field(name).required(""));
            }
        }
        (false, false) => causes.push(backend.invalid_as(&json!(""), "resource or service backend is required")),
    }
}

fn check_service(service: &At<'_>, causes: &mut Vec<Cause>) {
    let (name, port) = (service.field("name"), service.field("port"));
    if name.is_empty() {
        causes.push(name.required(""));
    } else {
        causes.extend(name.invalid_for(dns_label_faults(name.text())));
    }
    let (port_name, number) = (port.field("name"), port.field("number"));
    match (port_name.text(), number.number().unwrap_or(0)) {
        ("", 0) => causes.push(service.required("port name or number is required")),
        ("", chosen) if !(1..=65_535).contains(&chosen) => {
            causes.push(number.invalid("must be between 1 and 65535, inclusive"));
        }
        ("", _) => {}
        (chosen, 0) => causes.extend(port_name.invalid_for(port_name_faults(chosen))),
        _ => causes.push(service.invalid_as(&json!(""), "cannot set both port name & port number")),
    }
}
