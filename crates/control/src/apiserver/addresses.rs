//! Which cluster address a Service has. An address is taken before the Service is written, and given back when it isn't.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use objects::kind::Kind;
use objects::status::Failure;
use objects::validation::Cause;
use serde_json::{Value, json};

use super::ApiServer;
use crate::store::Store;

/// Offset of the DNS server's address in the service range; never given to a Service.
const DNS_OFFSET: u32 = 10;

/// An IPv4 range, as `address/prefix length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    length: u32,
}

/// Why a text is no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.45.0.0/16 with a prefix of 8 to 28")]
pub struct RangeError(String);

/// The cluster addresses that are in use.
pub(super) struct ClusterAddresses {
    range: AddressRange,
    taken: Mutex<Taken>,
}

struct Taken {
    /// Each address with the uid of its Service, so that a change that is tried again finds the one it took.
    addresses: BTreeMap<u32, String>,
    /// The address given out last: the search goes on after it, so that one is not reused soon.
    last: u32,
}

impl std::str::FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u32 = prefix.parse().ok().filter(|prefix| (8..=28).contains(prefix)).ok_or_else(wrong)?;
        let length = 1 << (32 - prefix);
        let first = u32::from(address);
        if first % length == 0 { Ok(Self { first, length }) } else { Err(wrong()) }
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.first), 32 - self.length.ilog2())
    }
}

impl AddressRange {
    /// The address at an offset from the range's first.
    #[must_use]
    pub fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + offset % self.length)
    }

    /// The address that DNS answers at.
    #[must_use]
    pub fn dns(&self) -> Ipv4Addr {
        self.at(DNS_OFFSET)
    }

    fn holds(&self, address: u32) -> bool {
        address > self.first && address < self.first + self.length - 1
    }
}

impl ClusterAddresses {
    pub(super) fn new(range: AddressRange, store: &Store) -> Self {
        let services = store.list("services", None);
        let owned = |value: &Value| Some((cluster_ip(value)?, uid(value).to_owned()));
        let addresses: BTreeMap<u32, String> =
            services.objects.iter().filter_map(|service| owned(&service.value)).collect();
        let last = addresses.last_key_value().map_or(range.first, |(last, _)| *last);
        Self { range, taken: Mutex::new(Taken { addresses, last }) }
    }

    fn take_next(&self, uid: &str) -> Option<Ipv4Addr> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mine, _)) = taken.addresses.iter().find(|(_, owner)| *owner == uid) {
            return Some(Ipv4Addr::from(*mine));
        }
        let start = taken.last.wrapping_sub(self.range.first);
        let found = (1..=self.range.length)
            .map(|step| self.range.first + (start + step) % self.range.length)
            .find(|address| self.is_free(&taken, *address))?;
        taken.addresses.insert(found, uid.to_owned());
        taken.last = found;
        Some(Ipv4Addr::from(found))
    }

    fn take(&self, wanted: Ipv4Addr, uid: &str) -> Result<(), String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let address = u32::from(wanted);
        if !self.range.holds(address) {
            return Err(format!(
                "failed to allocate IP {wanted}: the provided IP is not in the valid range {}",
                self.range
            ));
        }
        let mine = taken.addresses.get(&address).is_some_and(|owner| owner == uid);
        if !mine && !self.is_free(&taken, address) {
            return Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"));
        }
        taken.addresses.insert(address, uid.to_owned());
        Ok(())
    }

    fn is_free(&self, taken: &Taken, address: u32) -> bool {
        self.range.holds(address) && address != self.range.first + DNS_OFFSET && !taken.addresses.contains_key(&address)
    }

    fn give_back(&self, address: u32, uid: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.addresses.get(&address).is_some_and(|owner| owner == uid) {
            taken.addresses.remove(&address);
        }
    }
}

impl ApiServer {
    /// Gives a Service that needs one its cluster address; the old state's address is kept.
    pub(super) fn allocate_addresses(
        &self,
        kind: &Kind,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Failure> {
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

fn cluster_ip(service: &Value) -> Option<u32> {
    service["spec"]["clusterIP"].as_str()?.parse::<Ipv4Addr>().ok().map(u32::from)
}

fn uid(service: &Value) -> &str {
    service["metadata"]["uid"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written_alike() {
        for text in ["10.45.0.0/16", "192.168.8.0/24"] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), text);
        }
        for text in ["", "10.45.0.0", "10.45.0.1/16", "10.45.0.0/33", "::/64", "10.45.0.0/x"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_given_once_until_they_come_back() {
        let range: AddressRange = "10.0.0.0/28".parse().unwrap();
        let addresses =
            ClusterAddresses { range, taken: Mutex::new(Taken { last: range.first, addresses: BTreeMap::new() }) };
        let given: Vec<Ipv4Addr> = (0..).map_while(|service| addresses.take_next(&service.to_string())).collect();
        assert_eq!(given.len(), 13, "16 less the first, the last and the DNS server's");
        assert!(!given.contains(&range.dns()));
        assert_eq!(addresses.take_next("4"), Some(given[4]), "a change that is tried again keeps its address");
        assert!(addresses.take(given[4], "another").is_err());
        addresses.give_back(u32::from(given[4]), "4");
        assert!(addresses.take(given[4], "another").is_ok());
        assert!(addresses.take("192.168.0.1".parse().unwrap(), "x").is_err());
    }
}
