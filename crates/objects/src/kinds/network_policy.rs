//! NetworkPolicy: which pods may be reached by whom, and whom they may reach.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{add_type, label_selector};
use crate::json::{child, fill, items, items_mut, set};
use crate::kind::{Kind, PLAIN, Scope};
use crate::metadata::{self, dns_subdomain_faults, port_name_faults};
use crate::ranges::Cidr;
use crate::table::{self, column};
use crate::validation::{At, Cause, check_one_of, check_range};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const POLICY_TYPES: [&str; 2] = ["Ingress", "Egress"];

pub(super) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    type_name: "io.k8s.api.networking.v1.NetworkPolicy",
    add_types: add_type::<NetworkPolicy>,
    counts_generations: true,
    default,
    validate,
    columns: &[table::NAME, column("Pod-Selector", "string", "The labels of the pods that it is about."), table::AGE],
    row: |object, now| {
        let selector = label_selector::cell(object.pointer("/spec/podSelector"));
        vec![table::name(object), selector, table::age(object, now)]
    },
    ..PLAIN
};

fn default(object: &mut Value) {
    let has_egress = !items(object, "/spec/egress").is_empty();
    let is_about_nothing = items(object, "/spec/policyTypes").is_empty();
    let spec = child(object, "spec");
    child(spec, "podSelector");
    if is_about_nothing {
        set(spec, "policyTypes", if has_egress { json!(POLICY_TYPES) } else { json!(["Ingress"]) });
    }
    for direction in ["ingress", "egress"] {
        for port in items_mut(spec, direction).flat_map(|rule| items_mut(rule, "ports")) {
            fill(port, "protocol", "TCP");
        }
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, dns_subdomain_faults);
    let spec = At::root(object).field("spec");
    label_selector::check(&spec.field("podSelector"), &mut causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.field(direction).items() {
            rule.field("ports").items().for_each(|port| check_port(&port, &mut causes));
            rule.field(peers).items().for_each(|peer| check_peer(&peer, &mut causes));
        }
    }
    let types = spec.field("policyTypes");
    if types.items().count() > POLICY_TYPES.len() {
        causes.push(types.invalid("may not specify more than two policyTypes"));
    } else {
        types.items().for_each(|one| check_one_of(&one, &POLICY_TYPES, &mut causes));
    }
    causes
}

fn check_port(at: &At<'_>, causes: &mut Vec<Cause>) {
    let (protocol, port, end) = (at.field("protocol"), at.field("port"), at.field("endPort"));
    check_one_of(&protocol, &PROTOCOLS, causes);
    match port.number() {
        Some(number) => {
            check_range(&port, 1, 65_535, causes);
            if end.number().is_some_and(|end| end < number) {
                causes.push(end.invalid_as(port.value, "must be greater than or equal to `port`"));
            }
            check_range(&end, 1, 65_535, causes);
        }
        None => {
            if end.is_given() {
                let without = if port.is_given() { "non-numeric" } else { "not specified" };
                causes.push(end.invalid(&format!("may not be specified when `port` is {without}")));
            }
            if port.is_given() {
                causes.extend(port.invalid_for(port_name_faults(port.text())));
            }
        }
    }
}

fn check_peer(peer: &At<'_>, causes: &mut Vec<Cause>) {
    let (pods, namespaces, block) = (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    label_selector::check(&pods, causes);
    label_selector::check(&namespaces, causes);
    if block.is_given() {
        check_block(&block, causes);
    }
    match (pods.is_given() || namespaces.is_given(), block.is_given()) {
        (true, true) => causes.push(peer.forbidden("may not specify both ipBlock and another peer")),
        (false, false) => causes.push(peer.required("must specify a peer")),
        (true, false) | (false, true) => {}
    }
}

fn check_block(block: &At<'_>, causes: &mut Vec<Cause>) {
    let cidr = block.field("cidr");
    if cidr.is_empty() {
        causes.push(cidr.required(""));
        return;
    }
    let Some(whole) = checked_cidr(&cidr, causes) else { return };
    for except in block.field("except").items() {
        if checked_cidr(&except, causes).is_some_and(|except| !whole.is_more_than(except)) {
            causes.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

fn checked_cidr(at: &At<'_>, causes: &mut Vec<Cause>) -> Option<Cidr> {
    let cidr = at.text().parse();
    if cidr.is_err() {
        causes.push(at.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
    }
    cidr.ok()
}
