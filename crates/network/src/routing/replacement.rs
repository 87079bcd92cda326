//! Replacing the proxy while routing goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How long a proxy may take to start and to be told everything. It needs a fraction of a second.
const LONGEST: Duration = Duration::from_secs(30);

/// The proxy was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no new proxy took over for {} seconds; the present one goes on; see data-plane.log", LONGEST.as_secs())]
pub struct NotReplaced;

/// Asks for the proxy's replacement. Copies ask the same.
#[derive(Clone, Debug)]
pub struct Replacement {
    wanted: Arc<Notify>,
    done: watch::Sender<u64>,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { wanted: Arc::default(), done: watch::Sender::new(0) }
    }
}

impl Replacement {
    /// Has the proxy replaced by a new one, which takes every connection from then on; the old one finishes its own.
    ///
    /// # Errors
    /// When no new one has taken over in time.
    pub async fn replace(&self) -> Result<(), NotReplaced> {
        let mut done = self.done.subscribe();
        self.wanted.notify_one();
        timeout(LONGEST, done.changed()).await.map(drop).map_err(|_| NotReplaced)
    }

    pub(super) async fn is_wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn is_done(&self) {
        self.done.send_modify(|done| *done += 1);
    }
}
