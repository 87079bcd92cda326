//! How long to wait before trying again what failed: 10 s, doubled each time up to 5 minutes, forgotten after 10.

use jiff::{SignedDuration, Timestamp};

/// The wait after the first failure; Kubernetes' number.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait; Kubernetes' number.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// After this long without a new failure the next one counts as the first; Kubernetes' number.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// How attempts at one thing are slowed down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    last: Option<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    at: Timestamp,
    /// How long the next attempt waits, counted from the failure of this one.
    wait: SignedDuration,
}

impl BackOff {
    /// When to try again what failed at `failed_at`; the first failure of a thing is tried again at once.
    #[must_use]
    pub fn retry_at(&self, failed_at: Timestamp) -> Timestamp {
        match self.last {
            Some(last) if !last.is_forgotten(failed_at) => later(failed_at, last.wait),
            Some(_) | None => failed_at,
        }
    }

    /// The same after one more attempt.
    #[must_use]
    pub fn attempted(&self, now: Timestamp) -> Self {
        let wait = match self.last {
            Some(last) if !last.is_forgotten(now) => (last.wait + last.wait).min(LONGEST),
            Some(_) | None => FIRST,
        };
        Self { last: Some(Attempt { at: now, wait }) }
    }
}

impl Attempt {
    fn is_forgotten(self, now: Timestamp) -> bool {
        now.duration_since(self.at) > FORGOTTEN_AFTER
    }
}

/// `time` plus `wait`, or the end of time.
pub(super) fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let mut back_off = BackOff::default();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let retry_at = back_off.retry_at(now);
            waits.push(retry_at.duration_since(now).as_secs());
            now = retry_at;
            back_off = back_off.attempted(now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_are_a_new_beginning() {
        let start = Timestamp::UNIX_EPOCH;
        let back_off = BackOff::default().attempted(start).attempted(start);
        let soon = later(start, SignedDuration::from_secs(600));
        assert_eq!(back_off.retry_at(soon), later(soon, SignedDuration::from_secs(20)));
        let later_on = later(start, SignedDuration::from_secs(601));
        assert_eq!(back_off.retry_at(later_on), later_on);
    }
}
