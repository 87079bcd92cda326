//! How many requests of one Service's port may be repeated: a part of those that came, so that an app which fails
//! everything gets a little more traffic than before and not several times as much.

use std::sync::atomic::{AtomicU32, Ordering};

use decide::retries::Budget;

/// What a repeat costs, when each request earns one: a fifth of the requests may be repeated.
const PRICE: u32 = 5;
/// Repeats that a port has at first, and saves up for a burst at most.
const FIRST: u32 = 20 * PRICE;
const MOST: u32 = 200 * PRICE;

#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(FIRST))
    }
}

impl RetryBudget {
    /// For a request that came. Two at once may count as one.
    pub(crate) fn earn(&self) {
        let saved = self.0.load(Ordering::Relaxed);
        if saved < MOST {
            let _ = self.0.compare_exchange_weak(saved, saved + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// For a repeat.
    pub(crate) fn spend(&self) -> Budget {
        let spent = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(PRICE));
        if spent.is_ok() { Budget::Left } else { Budget::Spent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_repeated() {
        let budget = RetryBudget::default();
        while budget.spend() == Budget::Left {}
        for _ in 0..100 {
            budget.earn();
        }
        let repeats = (0..100).filter(|_| budget.spend() == Budget::Left).count();
        assert_eq!(repeats, 20);
    }
}
