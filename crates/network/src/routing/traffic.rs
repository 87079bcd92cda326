//! Traffic as others ask for it while routing goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use objects::traffic::{Period, SeriesKey};
use tokio::sync::watch;

use super::ledger::{Ledger, Told};

/// What the data plane has counted. Copies show the same.
#[derive(Clone, Debug)]
pub struct Traffic {
    ledger: Arc<Mutex<Ledger>>,
    changes: watch::Sender<u64>,
}

impl Default for Traffic {
    fn default() -> Self {
        // Another engine's numbers must not be taken for this one's.
        let first = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        Self { ledger: Arc::default(), changes: watch::Sender::new(first) }
    }
}

impl Traffic {
    /// What was counted since a moment, of the series that are wanted. The moment from which counting really began is
    /// in the answer: it may be earlier, since older counts are kept by the minute.
    #[must_use]
    pub fn since(&self, moment: Option<Timestamp>, holds: &dyn Fn(&SeriesKey) -> bool) -> Period {
        self.ledger().since(moment, holds)
    }

    /// A number that grows whenever something was counted, at most once a second for each proxy.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn enter(&self, told: Told) {
        if self.ledger().enter(told, Timestamp::now()) {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
