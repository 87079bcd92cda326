//! The agent's own clock: it starts at the wall clock's time and never jumps, so deadlines are counted on it.

use jiff::Timestamp;
use tokio::time::Instant;

/// Counts from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    beginning: Timestamp,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { beginning: Timestamp::now(), started: Instant::now() }
    }

    /// The time that deadlines are counted from.
    pub(crate) fn now(&self) -> Timestamp {
        self.beginning.checked_add(self.started.elapsed()).unwrap_or(Timestamp::MAX)
    }

    /// When this time comes.
    pub(crate) fn instant(&self, time: Timestamp) -> Instant {
        let wait = time.duration_since(self.now());
        Instant::now() + std::time::Duration::try_from(wait).unwrap_or_default()
    }
}
