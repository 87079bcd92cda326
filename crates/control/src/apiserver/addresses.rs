//! Which cluster address a Service has. An address is taken before the Service is written, and given back when it isn't.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use objects::kind::Kind;
use objects::ranges::Range;
use objects::status::Failure;
use objects::validation::Cause;
use serde_json::{Value, json};

use super::ApiServer;
use crate::store::Store;

/// Offset of the DNS server's address in the service range; never given to a Service.
const DNS_OFFSET: u32 = 10;

/// The cluster addresses that are in use.
pub(super) struct ClusterAddresses {
    range: Range,
    taken: Mutex<Taken>,
}

struct Taken {
    /// Each address with the uid of its Service, so that a change that is tried again finds the one it took.
    addresses: BTreeMap<Ipv4Addr, String>,
    /// Where in the range the last address was found: the search goes on after it, so that one is not reused soon.
    last: u32,
}

/// The address of a Service range that DNS answers at.
#[must_use]
pub fn dns_address(services: Range) -> Ipv4Addr {
    services.address(DNS_OFFSET)
}

impl ClusterAddresses {
    pub(super) fn new(range: Range, store: &Store) -> Self {
        let services = store.list("services", None);
        let owned = |value: &Value| Some((cluster_ip(value)?, uid(value).to_owned()));
        let addresses: BTreeMap<Ipv4Addr, String> =
            services.objects.iter().filter_map(|service| owned(&service.value)).collect();
        let last = addresses.keys().filter_map(|address| range.offset_of(*address)).max().unwrap_or(0);
        Self { range, taken: Mutex::new(Taken { addresses, last }) }
    }

    fn take_next(&self, uid: &str) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mine, _)) = taken.addresses.iter().find(|(_, owner)| *owner == uid) {
            return Some(*mine);
        }
        let end = self.range.last_offset();
        let found = (taken.last + 1..end).chain(1..=taken.last).find(|offset| self.is_free(&taken, *offset))?;
        let address = self.range.address(found);
        taken.addresses.insert(address, uid.to_owned());
        taken.last = found;
        Some(address)
    }

    fn take(&self, wanted: Ipv4Addr, uid: &str) -> Result<(), String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = self.range.offset_of(wanted).filter(|offset| (1..self.range.last_offset()).contains(offset));
        let Some(offset) = offset else {
            return Err(format!(
                "failed to allocate IP {wanted}: the provided IP is not in the valid range {}",
                self.range
            ));
        };
        let mine = taken.addresses.get(&wanted).is_some_and(|owner| owner == uid);
        if !mine && !self.is_free(&taken, offset) {
            return Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"));
        }
        taken.addresses.insert(wanted, uid.to_owned());
        Ok(())
    }

    fn is_free(&self, taken: &Taken, offset: u32) -> bool {
        offset != DNS_OFFSET && !taken.addresses.contains_key(&self.range.address(offset))
    }

    fn give_back(&self, address: Ipv4Addr, uid: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.addresses.get(&address).is_some_and(|owner| owner == uid) {
            taken.addresses.remove(&address);
        }
    }
}

impl ApiServer {
    /// Gives a Service that needs them its cluster address and node ports; the old state's address is kept.
    pub(super) fn allocate_addresses(
        &self,
        kind: &Kind,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Failure> {
        self.allocate_node_ports(kind, value)?;
        if !needs_address(kind, value) || old.is_some_and(|old| cluster_ip(old).is_some()) {
            return Ok(());
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let uid = uid(value).to_owned();
        let address = match value["spec"]["clusterIP"].as_str().filter(|text| !text.is_empty()) {
            Some("None") => return Ok(()),
            None => self.addresses.take_next(&uid).ok_or_else(|| {
                Failure::internal(
                    "no cluster address is left for a Service; delete some or start with a larger --service-cidr",
                )
            })?,
            Some(wanted) => {
                // Validation, which comes later, has the words for a text that is no address.
                let Ok(address) = wanted.parse() else { return Ok(()) };
                self.addresses.take(address, &uid).map_err(|message| {
                    let field = "spec.clusterIPs".to_owned();
                    let message = format!("Invalid value: [\"{wanted}\"]: {message}");
                    Failure::invalid_object(kind, &name, vec![Cause { reason: "FieldValueInvalid", field, message }])
                })?;
                address
            }
        };
        value["spec"]["clusterIP"] = Value::String(address.to_string());
        value["spec"]["clusterIPs"] = json!([address.to_string()]);
        Ok(())
    }

    /// Gives back the address of a Service that is gone, or was never written.
    pub(super) fn release_addresses(&self, kind: &Kind, value: &Value) {
        self.release_node_ports(kind, value);
        if kind.kind == "Service"
            && let Some(address) = cluster_ip(value)
        {
            self.addresses.give_back(address, uid(value));
        }
    }
}

fn needs_address(kind: &Kind, value: &Value) -> bool {
    kind.kind == "Service" && kind.group.is_empty() && value["spec"]["type"] != "ExternalName"
}

fn cluster_ip(service: &Value) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str()?.parse().ok()
}

fn uid(service: &Value) -> &str {
    service["metadata"]["uid"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_until_they_come_back() {
        let range: Range = "10.0.0.0/28".parse().unwrap();
        let addresses = ClusterAddresses { range, taken: Mutex::new(Taken { last: 0, addresses: BTreeMap::new() }) };
        let given: Vec<Ipv4Addr> = (0..).map_while(|service: u32| addresses.take_next(&service.to_string())).collect();
        assert_eq!(given.len(), 13, "16 less the first, the last and the DNS server's");
        assert!(!given.contains(&dns_address(range)));
        assert_eq!(addresses.take_next("4"), Some(given[4]), "a change that is tried again keeps its address");
        assert!(addresses.take(given[4], "another").is_err());
        addresses.give_back(given[4], "4");
        assert!(addresses.take(given[4], "another").is_ok());
        for outside in ["192.168.0.1", "10.0.0.0", "10.0.0.15"] {
            assert!(addresses.take(outside.parse().unwrap(), "x").is_err(), "{outside}");
        }
    }
}
