//! Which address does a pod get? The next free one after the last that was given, so that an address rests as long
//! as possible before it comes back.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use objects::ranges::Range;

/// The first addresses of a range stay free: the network's own, and one for a gateway that others may expect there.
const RESERVED: u32 = 2;

/// All addresses of the range are in use.
#[derive(Debug, thiserror::Error)]
#[error("no address is left in {0}: it is too small for this many pods")]
pub struct Exhausted(Range);

/// Which pod has which address.
#[derive(Debug)]
pub struct Addresses {
    range: Range,
    by_pod: BTreeMap<String, Ipv4Addr>,
    last: u32,
}

impl Addresses {
    /// All addresses are free but those that pods were found with.
    #[must_use]
    pub fn new(range: Range, found: impl IntoIterator<Item = (String, Ipv4Addr)>) -> Self {
        let by_pod: BTreeMap<String, Ipv4Addr> = found.into_iter().collect();
        let highest = by_pod.values().filter_map(|address| range.offset_of(*address)).max();
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
        let offsets = RESERVED..self.range.last_offset();
        let after_last = (self.last + 1).max(offsets.start)..offsets.end;
        let before = offsets.start..(self.last + 1).clamp(offsets.start, offsets.end);
        let is_free = |offset: &u32| !self.by_pod.values().any(|used| *used == self.range.address(*offset));
        let offset = after_last.chain(before).find(is_free).ok_or(Exhausted(self.range))?;
        let address = self.range.address(offset);
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
}
