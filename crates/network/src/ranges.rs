//! Address ranges, as `--pod-cidr` and `--service-cidr` give them. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of IPv4 addresses, e.g. `10.44.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: Ipv4Addr,
    /// Bits that all its addresses share, 0 to 32.
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("{text:?} is no range of IPv4 addresses such as 10.44.0.0/16")]
    NotARange { text: String },
    #[error("{text:?} is not the first address of its range; {range} is")]
    NotTheFirst { text: String, range: Range },
}

impl Range {
    /// The range of `length` shared bits that begins with `first`, or has it within.
    #[must_use]
    pub fn around(first: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { first: Ipv4Addr::from(u32::from(first) & mask(length)), length }
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let shared = mask(self.length.min(other.length));
        u32::from(self.first) & shared == u32::from(other.first) & shared
    }

    /// The address this far after the first.
    #[must_use]
    pub fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first).saturating_add(offset))
    }

    /// Whether it is all addresses, as default routes have it.
    #[must_use]
    pub fn is_everything(self) -> bool {
        self.length == 0
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let not_a_range = || RangeError::NotARange { text: text.to_owned() };
        let (first, length) = text.split_once('/').ok_or_else(not_a_range)?;
        let first: Ipv4Addr = first.parse().map_err(|_| not_a_range())?;
        let length = length.parse().ok().filter(|length| *length <= 32).ok_or_else(not_a_range)?;
        let range = Self::around(first, length);
        if range.first == first { Ok(range) } else { Err(RangeError::NotTheFirst { text: text.to_owned(), range }) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.first, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["10.44.0.0/16", "0.0.0.0/0", "192.168.1.7/32"] {
            assert_eq!(range(text).to_string(), text);
        }
        for text in ["", "10.44.0.0", "10.44.0.0/33", "10.44.0.0/-1", "fd00::/8", "10.44/16"] {
            assert!(matches!(text.parse::<Range>(), Err(RangeError::NotARange { .. })), "{text}");
        }
        let error = "10.44.3.0/16".parse::<Range>().unwrap_err();
        assert_eq!(error.to_string(), "\"10.44.3.0/16\" is not the first address of its range; 10.44.0.0/16 is");
    }

    #[test]
    fn ranges_overlap_when_one_is_inside_the_other() {
        for (one, other, expected) in [
            ("10.44.0.0/16", "10.44.0.0/16", true),
            ("10.44.0.0/16", "10.44.7.0/24", true),
            ("10.0.0.0/8", "10.44.0.0/16", true),
            ("0.0.0.0/0", "10.44.0.0/16", true),
            ("10.44.0.0/16", "10.45.0.0/16", false),
            ("10.44.0.0/32", "10.44.0.1/32", false),
        ] {
            assert_eq!(range(one).overlaps(range(other)), expected, "{one} {other}");
            assert_eq!(range(other).overlaps(range(one)), expected, "{other} {one}");
        }
    }
}
