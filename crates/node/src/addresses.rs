//! Which address does a pod get? The next free one after the last that was given, so that an address rests as long
//! as possible before it comes back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{AddrParseError, Ipv4Addr};
use std::str::FromStr;

/// The first addresses of a range stay free: the network's own, and one for a gateway that others may expect there.
const RESERVED: u32 = 2;

/// A range of IPv4 addresses, e.g. `10.44.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRange {
    network: Ipv4Addr,
    prefix: u8,
}

/// What is no range for pods.
#[derive(Debug, thiserror::Error)]
pub enum PodRangeError {
    #[error("{0:?} is no range: write it as 10.44.0.0/16")]
    NoPrefix(String),
    #[error("{0:?} is no IPv4 address")]
    Address(String, #[source] AddrParseError),
    #[error("/{0} is no prefix for pods: it must be 8 to 28")]
    Prefix(String),
    #[error("{address}/{prefix} has bits set behind its prefix; did you mean {network}/{prefix}?")]
    HostBits { address: Ipv4Addr, network: Ipv4Addr, prefix: u8 },
}

/// All addresses of the range are in use.
#[derive(Debug, thiserror::Error)]
#[error("no address is left in {0}: it is too small for this many pods")]
pub struct Exhausted(PodRange);

/// Which pod has which address.
#[derive(Debug)]
pub struct Addresses {
    range: PodRange,
    by_pod: BTreeMap<String, Ipv4Addr>,
    last: u32,
}

impl PodRange {
    /// The range's own address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// How many leading bits all addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// The offsets that pods may have.
    fn offsets(&self) -> std::ops::Range<u32> {
        RESERVED..!self.mask()
    }
}

impl fmt::Display for PodRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for PodRange {
    type Err = PodRangeError;

    fn from_str(text: &str) -> Result<Self, PodRangeError> {
        let (address, prefix) = text.split_once('/').ok_or_else(|| PodRangeError::NoPrefix(text.to_owned()))?;
        let address: Ipv4Addr = address.parse().map_err(|source| PodRangeError::Address(address.to_owned(), source))?;
        let allowed = prefix.parse::<u8>().ok().filter(|prefix| (8..=28).contains(prefix));
        let prefix = allowed.ok_or_else(|| PodRangeError::Prefix(prefix.to_owned()))?;
        let whole = Self { network: address, prefix };
        let network = Ipv4Addr::from(u32::from(address) & whole.mask());
        if network != address {
            return Err(PodRangeError::HostBits { address, network, prefix });
        }
        Ok(whole)
    }
}

impl Addresses {
    /// All addresses are free but those that pods were found with.
    #[must_use]
    pub fn new(range: PodRange, found: impl IntoIterator<Item = (String, Ipv4Addr)>) -> Self {
        let by_pod: BTreeMap<String, Ipv4Addr> = found.into_iter().collect();
        let offset = |address: &Ipv4Addr| u32::from(*address) & !range.mask();
        let highest = by_pod.values().filter(|address| range.contains(**address)).map(offset).max();
        Self { range, last: highest.unwrap_or(RESERVED - 1), by_pod }
    }

    /// The pod's address; it keeps the one it has.
    ///
    /// # Errors
    /// When every address is some pod's.
    pub fn give(&mut self, uid: &str) -> Result<Ipv4Addr, Exhausted> {
        if let Some(address) = self.by_pod.get(uid) {
            return Ok(*address);
        }
        let network = u32::from(self.range.network);
        let offsets = self.range.offsets();
        let after_last = (self.last + 1).max(offsets.start)..offsets.end;
        let before = offsets.start..(self.last + 1).clamp(offsets.start, offsets.end);
        let is_free = |offset: &u32| !self.by_pod.values().any(|used| u32::from(*used) == network + offset);
        let offset = after_last.chain(before).find(is_free).ok_or(Exhausted(self.range))?;
        let address = Ipv4Addr::from(network + offset);
        self.last = offset;
        self.by_pod.insert(uid.to_owned(), address);
        Ok(address)
    }

    /// The pod is gone and its address free.
    pub fn take_back(&mut self, uid: &str) {
        self.by_pod.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: &str) -> Addresses {
        Addresses::new(range.parse().unwrap(), [])
    }

    #[test]
    fn an_address_comes_back_only_after_all_others() {
        let mut addresses = addresses("10.0.0.0/28");
        let first = addresses.give("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
        addresses.take_back("a");
        let given: Vec<Ipv4Addr> = (0..13).map(|pod| addresses.give(&format!("p{pod}")).unwrap()).collect();
        assert_eq!(given.first(), Some(&Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(given.last(), Some(&first));
        assert!(addresses.give("one too many").is_err());
        addresses.take_back("p5");
        assert_eq!(addresses.give("one more").unwrap(), given[5]);
    }

    #[test]
    fn a_pod_keeps_its_address() {
        let mut addresses = addresses("10.44.0.0/16");
        let address = addresses.give("a").unwrap();
        addresses.give("b").unwrap();
        assert_eq!(addresses.give("a").unwrap(), address);
    }

    #[test]
    fn addresses_of_found_pods_are_in_use() {
        let found = [("old".to_owned(), Ipv4Addr::new(10, 0, 0, 9))];
        let mut addresses = Addresses::new("10.0.0.0/28".parse().unwrap(), found);
        assert_eq!(addresses.give("new").unwrap(), Ipv4Addr::new(10, 0, 0, 10));
        assert_eq!(addresses.give("old").unwrap(), Ipv4Addr::new(10, 0, 0, 9));
    }

    #[test]
    fn ranges_are_checked() {
        let range: PodRange = "10.44.0.0/16".parse().unwrap();
        assert!(range.contains(Ipv4Addr::new(10, 44, 200, 1)));
        assert!(!range.contains(Ipv4Addr::new(10, 45, 0, 1)));
        for wrong in ["10.44.0.0", "10.44.0.1/16", "10.44.0/16", "10.44.0.0/33", "10.44.0.0/31", "10.44.0.0/x"] {
            assert!(wrong.parse::<PodRange>().is_err(), "{wrong}");
        }
    }
}
