//! Latencies in buckets that are at most a sixteenth wide, so that every quantile is right to 6 %.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each power of two of microseconds is cut into this many buckets.
const STEPS: u64 = 16;

/// How often each latency was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The highest latency of a bucket in microseconds, and how many fell into it.
    buckets: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        *self.buckets.entry(upper_bound(micros)).or_default() += 1;
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &Histogram) {
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// How many latencies were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The latency that `per_mille` of 1000 did not exceed; `None` when nothing was recorded.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let rank = (self.count() * per_mille.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        self.buckets.iter().find_map(|(bound, count)| {
            seen += count;
            (seen >= rank).then(|| Duration::from_micros(*bound))
        })
    }
}

fn upper_bound(micros: u64) -> u64 {
    let width = ((micros | 1).ilog2() + 1).saturating_sub(STEPS.ilog2() + 1);
    ((micros >> width) << width) | ((1 << width) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_latencies_are_kept_exactly() {
        for micros in 0..32 {
            assert_eq!(upper_bound(micros), micros);
        }
    }

    #[test]
    fn a_bucket_is_at_most_a_sixteenth_wide() {
        for micros in [32, 33, 1_000, 12_345, 999_999, 60_000_000, u64::MAX] {
            let bound = upper_bound(micros);
            assert!(bound >= micros && bound - micros <= micros / STEPS, "{micros} -> {bound}");
        }
    }

    #[test]
    fn quantiles_count_from_below() {
        let mut seen = Histogram::default();
        assert_eq!(seen.quantile(500), None);
        for millis in 1..=100 {
            seen.record(Duration::from_millis(millis));
        }
        let millis = |per_mille| seen.quantile(per_mille).map(|latency| latency.as_millis());
        assert!((50..=53).contains(&millis(500).unwrap()), "{:?}", millis(500));
        assert!((99..=105).contains(&millis(990).unwrap()), "{:?}", millis(990));
        assert!((100..=106).contains(&millis(1000).unwrap()), "{:?}", millis(1000));
    }

    #[test]
    fn merging_adds_the_counts() {
        let mut left = Histogram::default();
        let mut right = Histogram::default();
        left.record(Duration::from_micros(5));
        right.record(Duration::from_micros(5));
        right.record(Duration::from_secs(1));
        left.merge(&right);
        assert_eq!(left.count(), 3);
    }
}
