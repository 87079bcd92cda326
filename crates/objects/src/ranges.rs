//! Address ranges: those that pods and Services are given addresses of, and those that routes lead to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of IPv4 addresses, e.g. `10.44.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
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
    #[error("{range} has too many addresses to give out, or too few: its length must be 8 to 28")]
    Size { range: Range },
}

impl Range {
    /// The range of `length` shared bits that begins with `first`, or has it within.
    #[must_use]
    pub fn around(first: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { first: Ipv4Addr::from(u32::from(first) & mask(length)), length }
    }

    /// The range, if it has a size that addresses can be given out of.
    ///
    /// # Errors
    /// When it is larger than a /8 or smaller than a /28.
    pub fn to_give_out(self) -> Result<Self, RangeError> {
        if (8..=28).contains(&self.length) { Ok(self) } else { Err(RangeError::Size { range: self }) }
    }

    /// The range's first address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// How many bits all its addresses share.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The offset of the range's last address from its first.
    #[must_use]
    pub fn last_offset(self) -> u32 {
        !mask(self.length)
    }

    /// How far an address is from the first; none for one of another range.
    #[must_use]
    pub fn offset_of(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(u32::from(self.first))?;
        (offset <= self.last_offset()).then_some(offset)
    }

    /// Whether an address is one of its own.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.overlaps(Self::around(address, 32))
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

/// A range of addresses as users write it, of either family; the address before the slash may be any of the range's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of addresses such as 10.9.8.0/24 or 2001:db8::/64")]
pub struct CidrError {
    pub text: String,
}

impl Cidr {
    /// The range, if it is of IPv4.
    #[must_use]
    pub fn range(self) -> Option<Range> {
        match self.address {
            IpAddr::V4(address) => Some(Range::around(address, self.length)),
            IpAddr::V6(_) => None,
        }
    }

    /// Whether all of another range is in it, and more besides.
    #[must_use]
    pub fn is_more_than(self, other: Self) -> bool {
        let shared = match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (u32::from(one) ^ u32::from(other)).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (u128::from(one) ^ u128::from(other)).leading_zeros(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        self.length < other.length && shared >= u32::from(self.length)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError { text: text.to_owned() };
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|length| is_number && *length <= most).ok_or_else(error)?;
        Ok(Self { address, length })
    }
}

impl TryFrom<String> for Range {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
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
        let written = serde_json::to_string(&range("10.44.0.0/16")).unwrap();
        assert_eq!(written, "\"10.44.0.0/16\"");
        assert_eq!(serde_json::from_str::<Range>(&written).unwrap(), range("10.44.0.0/16"));
        let error = "10.44.3.0/16".parse::<Range>().unwrap_err();
        assert_eq!(error.to_string(), "\"10.44.3.0/16\" is not the first address of its range; 10.44.0.0/16 is");
    }

    #[test]
    fn ranges_of_either_family_are_read_as_users_write_them() {
        let cidr = |text: &str| text.parse::<Cidr>();
        assert_eq!(cidr("10.44.3.9/16").unwrap().range(), Some(range("10.44.0.0/16")));
        assert_eq!(cidr("2001:db8::/64").unwrap().range(), None);
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/33", "010.0.0.0/8", "::/129", "x/8"] {
            assert!(cidr(text).is_err(), "{text}");
        }
        for (outer, inner, expected) in [
            ("10.0.0.0/8", "10.44.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("10.44.0.0/16", "10.0.0.0/8", false),
            ("10.44.0.0/16", "10.45.0.0/24", false),
            ("0.0.0.0/0", "1.2.3.4/32", true),
            ("0.0.0.0/0", "::/1", false),
            ("2001:db8::/32", "2001:db8:1::/48", true),
        ] {
            assert_eq!(cidr(outer).unwrap().is_more_than(cidr(inner).unwrap()), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn addresses_are_counted_from_the_first() {
        let pods = range("10.44.0.0/16");
        assert_eq!(pods.last_offset(), 65_535);
        assert_eq!(pods.offset_of(pods.address(258)), Some(258));
        assert_eq!(pods.offset_of(Ipv4Addr::new(10, 45, 0, 0)), None);
        assert_eq!(pods.offset_of(Ipv4Addr::new(10, 43, 255, 255)), None);
    }

    #[test]
    fn addresses_are_given_out_of_ranges_of_sensible_size() {
        assert!(range("10.0.0.0/8").to_give_out().is_ok());
        for text in ["0.0.0.0/0", "10.44.0.0/29"] {
            assert!(matches!(range(text).to_give_out(), Err(RangeError::Size { .. })), "{text}");
        }
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
