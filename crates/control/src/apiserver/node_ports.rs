//! Which ports of the machine lead to a Service of type NodePort or LoadBalancer. Taken before the Service is written,
//! and given back when it has no use for them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use objects::kind::Kind;
use objects::kinds::NODE_PORTS;
use objects::status::Failure;
use objects::validation::Cause;
use serde_json::{Value, json};

use super::ApiServer;
use crate::store::Store;

/// The ports that are in use.
pub(super) struct NodePorts(Mutex<Taken>);

struct Taken {
    /// Each port with the uid of its Service: a change that is tried again finds the ones it took.
    ports: BTreeMap<u16, String>,
    /// The search goes on after the last one found, so that a port is not reused soon.
    last: u16,
}

impl NodePorts {
    pub(super) fn new(store: &Store) -> Self {
        let services = store.list("services", None).objects;
        let owned = |service: &Value| {
            let uid = uid(service).to_owned();
            node_ports(service).into_iter().map(move |port| (port, uid.clone())).collect::<Vec<_>>()
        };
        let ports: BTreeMap<u16, String> = services.iter().flat_map(|service| owned(&service.value)).collect();
        let last = ports.keys().max().copied().unwrap_or(*NODE_PORTS.end());
        Self(Mutex::new(Taken { ports, last }))
    }

    /// A port for `uid` that is none of those its Service has already.
    fn take_next(&self, uid: &str, has: &BTreeSet<u16>) -> Option<u16> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = taken.ports.iter().find(|(port, owner)| *owner == uid && !has.contains(port));
        if let Some((port, _)) = spare {
            return Some(*port);
        }
        let (first, end) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let last = taken.last;
        let found = (last.saturating_add(1)..=end)
            .chain(first..=last)
            .find(|port| !taken.ports.contains_key(port) && !has.contains(port))?;
        taken.ports.insert(found, uid.to_owned());
        taken.last = found;
        Some(found)
    }

    /// Whether `uid` may have this port.
    fn take(&self, port: u16, uid: &str) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.ports.entry(port).or_insert_with(|| uid.to_owned()) == uid
    }

    fn keep_only(&self, uid: &str, has: &BTreeSet<u16>) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.ports.retain(|port, owner| owner != uid || has.contains(port));
    }
}

impl ApiServer {
    /// Gives each port of a Service that needs one its node port.
    pub(super) fn allocate_node_ports(&self, kind: &Kind, value: &mut Value) -> Result<(), Failure> {
        if !is_service(kind) {
            return Ok(());
        }
        let needs = needs_node_ports(value);
        let (uid, mut has) = (uid(value).to_owned(), node_ports(value));
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let ports = value["spec"]["ports"].as_array_mut().into_iter().flatten();
        let mut seen = BTreeSet::new();
        for (index, port) in ports.enumerate() {
            match port["nodePort"].as_i64().unwrap_or(0) {
                0 if !needs => {}
                0 => {
                    let taken = self.node_ports.take_next(&uid, &has);
                    let taken = taken
                        .ok_or_else(|| Failure::internal("no node port is left; delete Services that have some"))?;
                    has.insert(taken);
                    port["nodePort"] = json!(taken);
                }
                // Validation, which comes later, has the words for a port outside the range.
                wanted => match u16::try_from(wanted).ok().filter(|port| NODE_PORTS.contains(port)) {
                    Some(wanted)
                        if !seen.insert((wanted, port["protocol"].clone().to_string()))
                            || !self.node_ports.take(wanted, &uid) =>
                    {
                        let field = format!("spec.ports[{index}].nodePort");
                        let message = format!("Invalid value: {wanted}: provided port is already allocated");
                        let cause = Cause { reason: "FieldValueInvalid", field, message };
                        return Err(Failure::invalid_object(kind, &name, vec![cause]));
                    }
                    Some(_) | None => {}
                },
            }
        }
        Ok(())
    }

    /// After a Service was written: gives back what it no longer has.
    pub(super) fn release_unused_node_ports(&self, kind: &Kind, written: &Value) {
        if is_service(kind) {
            self.node_ports.keep_only(uid(written), &node_ports(written));
        }
    }

    /// Gives back the ports of a Service that is gone, or was never written.
    pub(super) fn release_node_ports(&self, kind: &Kind, value: &Value) {
        if is_service(kind) {
            self.node_ports.keep_only(uid(value), &BTreeSet::new());
        }
    }
}

fn is_service(kind: &Kind) -> bool {
    kind.kind == "Service" && kind.group.is_empty()
}

fn needs_node_ports(service: &Value) -> bool {
    match service["spec"]["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        Some(_) | None => false,
    }
}

fn node_ports(service: &Value) -> BTreeSet<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|port| u16::try_from(port["nodePort"].as_u64()?).ok()).filter(|port| *port > 0).collect()
}

fn uid(service: &Value) -> &str {
    service["metadata"]["uid"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none_taken() -> NodePorts {
        NodePorts(Mutex::new(Taken { ports: BTreeMap::new(), last: *NODE_PORTS.end() }))
    }

    #[test]
    fn ports_are_given_once_until_they_come_back() {
        let ports = none_taken();
        assert_eq!(ports.take_next("one", &BTreeSet::new()), Some(30_000));
        assert_eq!(ports.take_next("one", &BTreeSet::new()), Some(30_000), "a change that is tried again");
        assert_eq!(ports.take_next("one", &[30_000].into()), Some(30_001));
        assert_eq!(ports.take_next("other", &BTreeSet::new()), Some(30_002));
        assert!(ports.take(30_001, "one") && !ports.take(30_001, "other"));
        ports.keep_only("one", &[30_000].into());
        assert!(ports.take(30_001, "other") && !ports.take(30_000, "other"));
        assert_eq!(ports.take_next("third", &BTreeSet::new()), Some(30_003), "none is reused soon");
        assert_eq!(ports.take_next("fourth", &[30_004].into()), Some(30_005), "nor one that was asked for beside it");
    }

    #[test]
    fn the_search_goes_round_and_ends() {
        let ports = none_taken();
        let mut has = BTreeSet::new();
        while let Some(port) = ports.take_next("greedy", &has) {
            has.insert(port);
        }
        assert_eq!(has.len(), NODE_PORTS.len());
        ports.keep_only("greedy", &[30_000].into());
        assert_eq!(ports.take_next("modest", &BTreeSet::new()), Some(30_001));
    }
}
