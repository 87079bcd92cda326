//! EndpointSlice: the addresses behind a Service, and what each may be given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{fill, integer, items, items_mut, text};
use crate::kind::{Column, Kind, PLAIN, Scope};
use crate::metadata;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_one_of, check_range};

const MOST_ENDPOINTS: usize = 1000;
const MOST_PORTS: usize = 20_000;
const MOST_ADDRESSES: usize = 100;
const SHOWN: usize = 3;

pub(super) const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    type_name: "io.k8s.api.discovery.v1.EndpointSlice",
    add_types: add_type::<EndpointSlice>,
    counts_generations: true,
    default,
    validate,
    validate_update,
    columns: COLUMNS,
    row,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    table::NAME,
    column("AddressType", "string", "What the addresses are."),
    column("Ports", "string", "The ports of every endpoint."),
    column("Endpoints", "string", "Some of the addresses."),
    table::AGE,
];

/// Lists that the real server writes as null when they are empty, and the port's defaults.
fn default(object: &mut Value) {
    fill(object, "endpoints", Value::Null);
    fill(object, "ports", Value::Null);
    for endpoint in items_mut(object, "endpoints") {
        fill(endpoint, "conditions", json!({}));
    }
    for port in items_mut(object, "ports") {
        fill(port, "name", "");
        fill(port, "protocol", "TCP");
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let root = At::root(object);
    let address_type = root.field("addressType");
    if address_type.is_empty() {
        causes.push(address_type.required(""));
    } else {
        check_one_of(&address_type, &["FQDN", "IPv4", "IPv6"], &mut causes);
    }
    check_ports(&root.field("ports"), &mut causes);
    check_endpoints(&root.field("endpoints"), address_type.text(), &mut causes);
    causes
}

fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate_update(new, old);
    let address_type = At::root(new).field("addressType");
    if address_type.value != At::root(old).field("addressType").value {
        causes.push(address_type.invalid("field is immutable"));
    }
    causes
}

fn check_ports(ports: &At<'_>, causes: &mut Vec<Cause>) {
    if ports.items().count() > MOST_PORTS {
        causes.push(ports.too_many(MOST_PORTS));
    }
    let mut names = Vec::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.is_empty() {
            causes.extend(name.invalid_for(metadata::dns_label_faults(name.text())));
        }
        if names.contains(&name.text()) {
            causes.push(name.duplicate());
        }
        names.push(name.text());
        check_one_of(&port.field("protocol"), &["SCTP", "TCP", "UDP"], causes);
        check_range(&port.field("port"), 1, 65_535, causes);
    }
}

fn check_endpoints(endpoints: &At<'_>, address_type: &str, causes: &mut Vec<Cause>) {
    if endpoints.items().count() > MOST_ENDPOINTS {
        causes.push(endpoints.too_many(MOST_ENDPOINTS));
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.field("addresses");
        match addresses.items().count() {
            0 => causes.push(addresses.required("must contain at least 1 address")),
            count if count > MOST_ADDRESSES => causes.push(addresses.too_many(MOST_ADDRESSES)),
            _ => addresses.items().for_each(|address| check_address(&address, address_type, causes)),
        }
        let hostname = endpoint.field("hostname");
        if !hostname.is_empty() {
            causes.extend(hostname.invalid_for(metadata::dns_label_faults(hostname.text())));
        }
    }
}

fn check_address(address: &At<'_>, address_type: &str, causes: &mut Vec<Cause>) {
    let text = address.text();
    match address_type {
        "FQDN" => causes.extend(address.invalid_for(metadata::dns_subdomain_faults(text))),
        _ if text.parse::<IpAddr>().is_err() => {
            causes.push(address.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
        "IPv4" if text.parse::<Ipv4Addr>().is_err() => causes.push(address.invalid("must be an IPv4 address")),
        "IPv6" if text.parse::<Ipv6Addr>().is_err() => causes.push(address.invalid("must be an IPv6 address")),
        _ => check_special_address(address, causes),
    }
}

/// Addresses that lead to the machine itself, or to many.
pub(super) fn check_special_address(address: &At<'_>, causes: &mut Vec<Cause>) {
    let Ok(ip) = address.text().parse::<IpAddr>() else { return };
    if ip.is_unspecified() {
        causes.push(address.invalid(&format!("may not be unspecified ({ip})")));
    } else if ip.is_loopback() {
        causes.push(address.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    } else if is_link_local(ip) {
        causes.push(address.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    } else if ip.is_multicast() {
        causes.push(address.invalid("may not be in the multicast range"));
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let port = |port: &Value| match (integer(port, "/port"), text(port, "/name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    };
    let ports: Vec<_> = items(object, "/ports").iter().map(port).collect();
    let addresses = items(object, "/endpoints").iter().flat_map(|endpoint| items(endpoint, "/addresses"));
    let addresses: Vec<_> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    vec![
        table::name(object),
        json!(text(object, "/addressType")),
        json!(table::some_of(&ports, SHOWN, "<unset>")),
        json!(table::some_of(&addresses, SHOWN, "<unset>")),
        table::age(object, now),
    ]
}
