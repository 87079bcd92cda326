//! Sets of addresses, small enough to be sent and fast enough to be asked about each connection.

use std::net::Ipv4Addr;

use objects::ranges::Range;
use serde::{Deserialize, Serialize};

/// A set of IPv4 addresses: ranges, each from its first to its last address, in order, with a gap between each two. So
/// equal sets are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressSet(Vec<(Ipv4Addr, Ipv4Addr)>);

impl AddressSet {
    /// Every address.
    #[must_use]
    pub fn everything() -> Self {
        Self(vec![(Ipv4Addr::new(0, 0, 0, 0), Ipv4Addr::BROADCAST)])
    }

    /// Every address that is in one of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// Every address that is here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in self.numbers() {
            // What comes before `next` is decided; beyond the last address there is no next one.
            let mut next = Some(first);
            for (from, to) in other.numbers().filter(|(from, to)| *to >= first && *from <= last) {
                if let Some(next) = next.filter(|next| *next < from) {
                    left.push((next.into(), (from - 1).into()));
                }
                next = to.checked_add(1);
            }
            if let Some(next) = next.filter(|next| *next <= last) {
                left.push((next.into(), last.into()));
            }
        }
        Self(left)
    }

    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).is_some_and(|index| address <= self.0[index].1)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == [(Ipv4Addr::new(0, 0, 0, 0), Ipv4Addr::BROADCAST)]
    }

    /// Its ranges in order, each by its first and last address.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = (Ipv4Addr, Ipv4Addr)> {
        self.0.iter().copied()
    }

    fn numbers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.0.iter().map(|(first, last)| (u32::from(*first), u32::from(*last)))
    }
}

impl FromIterator<(Ipv4Addr, Ipv4Addr)> for AddressSet {
    /// Of ranges in any order that may overlap; one that ends before it begins has no address.
    fn from_iter<I: IntoIterator<Item = (Ipv4Addr, Ipv4Addr)>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut apart: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match apart.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end).saturating_add(1) => *end = last.max(*end),
                Some(_) | None => apart.push((first, last)),
            }
        }
        Self(apart)
    }
}

impl FromIterator<Ipv4Addr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Ipv4Addr>>(addresses: I) -> Self {
        addresses.into_iter().map(|address| (address, address)).collect()
    }
}

impl FromIterator<Range> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        ranges.into_iter().map(|range| (range.first(), range.address(range.last_offset()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[&str]) -> AddressSet {
        ranges.iter().map(|range| range.parse::<Range>().unwrap()).collect()
    }

    fn shown(set: &AddressSet) -> Vec<String> {
        set.ranges().map(|(first, last)| format!("{first}-{last}")).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let table: [(&[&str], &[&str]); 5] = [
            (&[], &[]),
            (&["10.0.1.0/24", "10.0.0.0/24"], &["10.0.0.0-10.0.1.255"]),
            (&["10.0.0.0/24", "10.0.2.0/24"], &["10.0.0.0-10.0.0.255", "10.0.2.0-10.0.2.255"]),
            (&["10.0.0.0/8", "10.44.0.0/16"], &["10.0.0.0-10.255.255.255"]),
            (&["0.0.0.0/1", "128.0.0.0/1", "255.255.255.255/32"], &["0.0.0.0-255.255.255.255"]),
        ];
        for (ranges, expected) in table {
            assert_eq!(shown(&set(ranges)), expected, "{ranges:?}");
        }
        assert!(set(&["0.0.0.0/0"]).is_everything());
        assert_eq!(set(&["0.0.0.0/0"]), AddressSet::everything());
    }

    #[test]
    fn what_is_taken_out_leaves_a_gap() {
        let block = set(&["10.0.0.0/24"]);
        let table: [(&[&str], &[&str]); 6] = [
            (&[], &["10.0.0.0-10.0.0.255"]),
            (&["10.0.0.0/26"], &["10.0.0.64-10.0.0.255"]),
            (&["10.0.0.192/26"], &["10.0.0.0-10.0.0.191"]),
            (&["10.0.0.7/32", "10.0.0.128/25"], &["10.0.0.0-10.0.0.6", "10.0.0.8-10.0.0.127"]),
            (&["10.0.0.0/8"], &[]),
            (&["10.0.1.0/24"], &["10.0.0.0-10.0.0.255"]),
        ];
        for (out, expected) in table {
            assert_eq!(shown(&block.without(&set(out))), expected, "{out:?}");
        }
        let whole = AddressSet::everything().without(&set(&["255.255.255.255/32", "0.0.0.0/32"]));
        assert_eq!(shown(&whole), ["0.0.0.1-255.255.255.254"]);
    }

    #[test]
    fn a_set_is_sent_as_it_is() {
        let sent = serde_json::to_string(&set(&["10.0.0.0/31"])).unwrap();
        assert_eq!(sent, r#"[["10.0.0.0","10.0.0.1"]]"#);
        assert_eq!(serde_json::from_str::<AddressSet>(&sent).unwrap(), set(&["10.0.0.0/31"]));
    }

    /// Ranges among few addresses, at one end of all of them or the other.
    fn some_ranges() -> impl Strategy<Value = Vec<(Ipv4Addr, Ipv4Addr)>> {
        let address = prop_oneof![0..24_u32, u32::MAX - 24..=u32::MAX].prop_map(Ipv4Addr::from);
        vec((address.clone(), address), 0..5)
    }

    fn addresses() -> impl Iterator<Item = Ipv4Addr> {
        (0..26).chain(u32::MAX - 26..=u32::MAX).map(Ipv4Addr::from)
    }

    fn naive(ranges: &[(Ipv4Addr, Ipv4Addr)]) -> BTreeSet<Ipv4Addr> {
        let is_in = |address: &Ipv4Addr| ranges.iter().any(|(first, last)| first <= address && address <= last);
        addresses().filter(is_in).collect()
    }

    fn held(set: &AddressSet) -> BTreeSet<Ipv4Addr> {
        addresses().filter(|address| set.contains(*address)).collect()
    }

    proptest! {
        #[test]
        fn sets_do_what_sets_do(one in some_ranges(), other in some_ranges()) {
            let (a, b): (AddressSet, AddressSet) = (one.iter().copied().collect(), other.iter().copied().collect());
            prop_assert_eq!(held(&a), naive(&one));
            prop_assert_eq!(held(&a.union(&b)), &naive(&one) | &naive(&other));
            prop_assert_eq!(held(&a.without(&b)), &naive(&one) - &naive(&other));
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.without(&b).union(&b), a.union(&b));
        }
    }
}
