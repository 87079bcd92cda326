//! Service: one address for the pods that a selector finds. Allocating addresses is the API server's business.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::add_type;
use super::endpoint_slice::check_special_address;
use crate::json::{child, fill, integer, items, items_mut, remove, set, text};
use crate::kind::{Column, Kind, PLAIN, Scope, Subresource};
use crate::metadata::{self, dns_label_faults, dns_subdomain_faults, port_name_faults};
use crate::names;
use crate::quantity;
use crate::table::{self, column, labels, or_none, wide};
use crate::validation::{At, Cause, check_one_of, check_range, is_cookie_name};

/// How long a client stays with its pod when nothing else is said.
const AFFINITY_SECONDS: i64 = 10_800;
const LONGEST_AFFINITY_SECONDS: i64 = 86_400;

/// Ports that a Service of type NodePort may ask for.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

pub(super) const KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    answers_with_deleted: true,
    type_name: "io.k8s.api.core.v1.Service",
    add_types: add_type::<Service>,
    default,
    prepare_create: |object| set(object, "status", json!({"loadBalancer": {}})),
    prepare_update,
    validate,
    validate_update,
    columns: COLUMNS,
    row,
    field_labels: |object| {
        let of = |pointer: &str| text(object, pointer).to_owned();
        vec![("spec.clusterIP", of("/spec/clusterIP")), ("spec.type", of("/spec/type"))]
    },
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Type", "string", "How the Service is reached."),
    column("Cluster-IP", "string", "Its address within the cluster."),
    column("External-IP", "string", "Its addresses for the world."),
    column("Port(s)", "string", "Its ports."),
    table::AGE,
    wide("Selector", "string", "The labels by which its pods are found."),
];

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "sessionAffinity", "None");
    if text(spec, "/sessionAffinity") == "ClientIP" {
        fill(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
    } else {
        remove(spec, "sessionAffinityConfig");
    }
    fill(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        fill(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            fill(port, "targetPort", number);
        }
    }
    if text(spec, "/type") != "ExternalName" {
        default_addresses(spec);
    }
    child(child(object, "status"), "loadBalancer");
}

fn default_addresses(spec: &mut Value) {
    match (text(spec, "/clusterIP").to_owned(), items(spec, "/clusterIPs").first().cloned()) {
        (address, None) if !address.is_empty() => set(spec, "clusterIPs", json!([address])),
        (address, Some(first)) if address.is_empty() => set(spec, "clusterIP", first),
        _ => {}
    }
    fill(spec, "ipFamilies", json!(["IPv4"]));
    fill(spec, "ipFamilyPolicy", "SingleStack");
    fill(spec, "internalTrafficPolicy", "Cluster");
    let kind = text(spec, "/type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", "Cluster");
    } else {
        remove(spec, "externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    } else {
        remove(spec, "allocateLoadBalancerNodePorts");
    }
}

/// What was allocated stays, unless the new form has no use for it.
fn prepare_update(new: &mut Value, old: &Value) {
    set(new, "status", old.get("status").cloned().unwrap_or_else(|| json!({"loadBalancer": {}})));
    let spec = child(new, "spec");
    if text(spec, "/type") == "ExternalName" {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            remove(spec, name);
        }
        return;
    }
    if text(spec, "/clusterIP").is_empty() && text(old, "/spec/type") != "ExternalName" {
        for name in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.pointer(&format!("/spec/{name}")) {
                set(spec, name, value.clone());
            }
        }
    }
    let address = text(spec, "/clusterIP").to_owned();
    if !address.is_empty()
        && address != text(old, "/spec/clusterIP")
        && items(spec, "/clusterIPs") == items(old, "/spec/clusterIPs")
    {
        set(spec, "clusterIPs", json!([address]));
    }
    if matches!(text(spec, "/type"), "NodePort" | "LoadBalancer") {
        keep_node_ports(spec, old);
    } else {
        items_mut(spec, "ports").for_each(|port| drop(remove(port, "nodePort")));
    }
}

fn keep_node_ports(spec: &mut Value, old: &Value) {
    let identity = |port: &Value| (integer(port, "/port"), text(port, "/protocol").to_owned());
    for port in items_mut(spec, "ports") {
        let known = items(old, "/spec/ports").iter().find(|other| identity(other) == identity(port));
        if let Some(number) = known.and_then(|known| known.get("nodePort")) {
            fill(port, "nodePort", number.clone());
        }
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, dns_label_faults);
    let spec = At::root(object).field("spec");
    let kind = spec.field("type");
    check_one_of(&kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], &mut causes);
    check_addresses(&spec, &mut causes);
    check_ports(&spec, &mut causes);
    metadata::check_labels(&spec.field("selector"), &mut causes);
    check_one_of(&spec.field("sessionAffinity"), &["ClientIP", "None"], &mut causes);
    let affinity = spec.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds");
    check_range(&affinity, 1, LONGEST_AFFINITY_SECONDS, &mut causes);
    check_one_of(&spec.field("externalTrafficPolicy"), &["Cluster", "Local"], &mut causes);
    check_one_of(&spec.field("internalTrafficPolicy"), &["Cluster", "Local"], &mut causes);
    check_traffic_annotations(object, &mut causes);
    causes
}

/// What Segue's own annotations say of the Service's traffic.
fn check_traffic_annotations(object: &Value, causes: &mut Vec<Cause>) {
    let root = At::root(object);
    let annotations = root.field("metadata").field("annotations");
    for (key, value) in annotations.entries() {
        let said = value.text();
        match key {
            names::PROXY_PROTOCOL => check_one_of(&value, &["v1", "v2"], causes),
            names::MESH => check_one_of(&value, &["false", "true"], causes),
            names::MESH_POLICY => check_one_of(&value, &["local", "spread"], causes),
            names::STICKY_COOKIE if !is_cookie_name(said) => {
                causes.push(value.invalid("must be the name of a cookie: letters, digits and !#$%&'*+-.^_`|~"));
            }
            names::MAX_REQUEST_BODY if quantity::positive(said).is_none() => {
                causes.push(value.invalid("must be a number of bytes, 1 or more, such as \"512Ki\" or \"10Mi\""));
            }
            names::OPAQUE_PORTS => check_opaque_ports(&value, items(object, "/spec/ports"), causes),
            _ => {}
        }
    }
}

fn check_opaque_ports(list: &At<'_>, ports: &[Value], causes: &mut Vec<Cause>) {
    let is_there = |listed: &str| {
        ports.iter().any(|port| {
            text(port, "/name") == listed || integer(port, "/port").is_some_and(|number| number.to_string() == listed)
        })
    };
    for listed in list.text().split(',').map(str::trim).filter(|listed| !is_there(listed)) {
        causes.push(list.invalid(&format!("must list ports of this Service, by name or number: it has no {listed:?}")));
    }
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    let [spec, old] = [new, old].map(|object| At::root(object).field("spec"));
    let keeps_addresses = [&spec, &old].iter().all(|spec| spec.field("type").text() != "ExternalName");
    if keeps_addresses
        && old.field("clusterIP").is_given()
        && spec.field("clusterIP").value != old.field("clusterIP").value
    {
        let shown = spec.field("clusterIPs");
        let first = At { value: shown.value, path: format!("{}[0]", shown.path) };
        causes.push(first.invalid("may not change once set"));
    }
    causes
}

fn check_addresses(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let is_external_name = spec.field("type").text() == "ExternalName";
    let name = spec.field("externalName");
    if is_external_name && name.is_empty() {
        causes.push(name.required(""));
    } else if is_external_name {
        causes.extend(name.invalid_for(dns_subdomain_faults(name.text().trim_end_matches('.'))));
    }
    let addresses = spec.field("clusterIPs");
    for address in addresses.items() {
        if is_external_name {
            causes.push(addresses.forbidden("may not be set when `type` is 'ExternalName'"));
        } else if address.text() != "None" {
            check_ip(&address, causes);
        }
    }
    if spec.field("clusterIP").text() == "None" && matches!(spec.field("type").text(), "NodePort" | "LoadBalancer") {
        let fault = format!("may not be set to 'None' for {} services", spec.field("type").text());
        causes.push(spec.field("clusterIPs").items().next().unwrap_or(addresses).invalid(&fault));
    }
    for address in spec.field("externalIPs").items() {
        check_ip(&address, causes);
        check_special_address(&address, causes);
    }
}

fn check_ip(at: &At<'_>, causes: &mut Vec<Cause>) {
    if at.text().parse::<IpAddr>().is_err() {
        causes.push(at.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
}

fn check_ports(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let ports = spec.field("ports");
    let is_headless = spec.field("clusterIP").text() == "None";
    if ports.is_empty() && !is_headless && spec.field("type").text() != "ExternalName" {
        causes.push(ports.required(""));
    }
    let needs_names = ports.items().count() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        check_port_name(&port.field("name"), needs_names, &mut names, causes);
        check_port(&port, spec.field("type").text(), causes);
        if !numbers.insert((port.field("protocol").text(), port.field("port").number())) {
            causes.push(At { value: &duplicate_port(&port), path: port.path.clone() }.duplicate());
        }
    }
}

fn check_port_name<'a>(name: &At<'a>, is_needed: bool, names: &mut BTreeSet<&'a str>, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        if is_needed {
            causes.push(name.required(""));
        }
        return;
    }
    causes.extend(name.invalid_for(dns_label_faults(name.text())));
    if !names.insert(name.text()) {
        causes.push(name.duplicate());
    }
}

fn check_port(port: &At<'_>, kind: &str, causes: &mut Vec<Cause>) {
    check_number(&port.field("port"), causes);
    check_one_of(&port.field("protocol"), &["SCTP", "TCP", "UDP"], causes);
    let target = port.field("targetPort");
    match target.value.as_str() {
        Some(name) => causes.extend(target.invalid_for(port_name_faults(name))),
        None => check_number(&target, causes),
    }
    let node_port = port.field("nodePort");
    if node_port.number().is_some_and(|number| number != 0 && !is_node_port(number)) {
        let (first, last) = (NODE_PORTS.start(), NODE_PORTS.end());
        causes.push(
            node_port.invalid(&format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            )),
        );
    }
    if kind == "ClusterIP" && node_port.number().is_some_and(|number| number != 0) {
        causes.push(node_port.forbidden("may not be used when `type` is 'ClusterIP'"));
    }
    let protocol = port.field("appProtocol");
    if !protocol.is_empty() {
        causes.extend(protocol.invalid_for(metadata::qualified_name_faults(protocol.text())));
    }
}

fn is_node_port(number: i64) -> bool {
    u16::try_from(number).is_ok_and(|number| NODE_PORTS.contains(&number))
}

fn check_number(at: &At<'_>, causes: &mut Vec<Cause>) {
    if !at.number().is_some_and(|number| (1..=65_535).contains(&number)) {
        let shown = json!(at.number().unwrap_or(0));
        causes.push(at.invalid_as(&shown, "must be between 1 and 65535, inclusive"));
    }
}

/// A port as the real server shows it when it stands there twice.
fn duplicate_port(port: &At<'_>) -> Value {
    json!({
        "Name": "", "Protocol": port.field("protocol").text(), "AppProtocol": null,
        "Port": port.field("port").number(), "TargetPort": 0, "NodePort": 0,
    })
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let cluster_ip = match items(object, "/spec/clusterIPs").first() {
        Some(first) => first.as_str().unwrap_or_default(),
        None => text(object, "/spec/clusterIP"),
    };
    let ports: Vec<_> = items(object, "/spec/ports").iter().map(port_cell).collect();
    vec![
        table::name(object),
        json!(text(object, "/spec/type")),
        or_none(cluster_ip),
        json!(external_ip(object)),
        or_none(&ports.join(",")),
        table::age(object, now),
        labels(object, "/spec/selector"),
    ]
}

fn port_cell(port: &Value) -> String {
    let (number, protocol) = (integer(port, "/port").unwrap_or(0), text(port, "/protocol"));
    match integer(port, "/nodePort").unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn external_ip(object: &Value) -> String {
    let own = items(object, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let own: Vec<_> = own.map(str::to_owned).collect();
    match text(object, "/spec/type") {
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let balancers = items(object, "/status/loadBalancer/ingress").iter();
            let mut all: Vec<_> = balancers
                .map(|balancer| match text(balancer, "/ip") {
                    "" => text(balancer, "/hostname").to_owned(),
                    ip => ip.to_owned(),
                })
                .collect();
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ if own.is_empty() => "<none>".to_owned(),
        _ => own.join(","),
    }
}
