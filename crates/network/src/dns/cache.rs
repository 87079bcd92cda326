//! What other resolvers have said, for as long as they allow. An answer is kept as it came, under the whole query but
//! its number, so that flags and EDNS need no thought. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Via;
use super::layout::{Layout, RecordAt, Section, is_cut_off, u32_at};

/// The longest that an answer is kept: resolvers that were set right are asked again within an hour.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The same for a name or record that does not exist, since people create what they have just missed.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(30);
/// Answers kept at most, each of at most `LARGEST`: 8 MiB.
const MOST_KEPT: usize = 4096;
const LARGEST: usize = 2048;

const NO_ERROR: u16 = 0;
const NO_SUCH_NAME: u16 = 3;
const SOA: u16 = 6;
const ANY: u16 = 255;

/// What makes two queries one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) resolvers: Vec<SocketAddr>,
    pub(super) via: Via,
    /// The query without its number, its name in lower case.
    query: Vec<u8>,
}

impl Key {
    /// None for a query whose answer is its client's own: one that is signed, or has an option such as a cookie.
    pub(super) fn of(resolvers: &[SocketAddr], query: &[u8], via: Via) -> Option<Self> {
        let layout = Layout::of(query)?;
        if layout.records.iter().any(|record| !record.is_edns() || !record.data.is_empty()) {
            return None;
        }
        let mut query = query.to_vec();
        query[layout.name()].make_ascii_lowercase();
        query.drain(..2);
        Some(Self { resolvers: resolvers.to_vec(), via, query })
    }
}

/// Answers that may be given again.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
}

#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    /// Where its TTLs are.
    ttls: Vec<usize>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// What was answered, with what is left of its TTLs.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        for at in &kept.ttls {
            let left = u32_at(&answer, *at)?.saturating_sub(age);
            answer[*at..*at + 4].copy_from_slice(&left.to_be_bytes());
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be. When there is no room, what would be forgotten first is.
    pub(super) fn keep(&mut self, key: Key, answer: &[u8], now: Instant) {
        let Some(layout) = Layout::of(answer).filter(|_| answer.len() <= LARGEST) else { return };
        let Some(lifetime) = lifetime(answer, &layout) else { return };
        if self.kept.len() >= MOST_KEPT {
            self.kept.retain(|_, kept| now < kept.until);
        }
        if self.kept.len() >= MOST_KEPT {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone());
            first.map(|key| self.kept.remove(&key));
        }
        let ttls = with_ttl(&layout).map(|record| record.ttl_at).collect();
        self.kept.insert(key, Kept { answer: answer.to_vec(), ttls, since: now, until: now + lifetime });
    }
}

/// How long an answer may be given again: the smallest TTL, and for one that says that there is nothing, what the zone
/// says of that (RFC 2308). None for a failure, a part of an answer, and a referral.
fn lifetime(answer: &[u8], layout: &Layout) -> Option<Duration> {
    let code = layout.response_code(answer);
    if !matches!(code, NO_ERROR | NO_SUCH_NAME) || is_cut_off(answer) {
        return None;
    }
    let asked = layout.asked(answer)?;
    let is_asked_for = |record: &RecordAt| record.section == Section::Answer && (record.kind == asked || asked == ANY);
    let is_positive = code == NO_ERROR && layout.records.iter().any(is_asked_for);
    let smallest = with_ttl(layout).filter_map(|record| u32_at(answer, record.ttl_at)).min();
    let (seconds, longest) = if is_positive {
        (smallest?, LONGEST)
    } else {
        (smallest?.min(negative_ttl(answer, layout)?), LONGEST_NEGATIVE)
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(longest))
}

/// The last field of the zone's SOA.
fn negative_ttl(answer: &[u8], layout: &Layout) -> Option<u32> {
    let soa = layout.records.iter().find(|record| record.section == Section::Authority && record.kind == SOA)?;
    u32_at(answer, soa.data.end.checked_sub(4)?)
}

fn with_ttl(layout: &Layout) -> impl Iterator<Item = &RecordAt> {
    layout.records.iter().filter(|record| !record.is_edns())
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
