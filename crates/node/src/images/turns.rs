//! Work that several callers want at once is done by the first; the others wait and find it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A lock for each name that somebody holds or waits for.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_name: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

/// The right to work on a name, until dropped.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Turns {
    pub(crate) async fn wait(&self, name: &str) -> Turn {
        self.lock_of(name).lock_owned().await
    }

    /// As [`Turns::wait`], for threads that may block.
    pub(crate) fn wait_blocking(&self, name: &str) -> Turn {
        self.lock_of(name).blocking_lock_owned()
    }

    fn lock_of(&self, name: &str) -> Arc<AsyncMutex<()>> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, lock| lock.strong_count() > 0);
        match by_name.get(name).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::new(AsyncMutex::new(()));
                by_name.insert(name.to_owned(), Arc::downgrade(&lock));
                lock
            }
        }
    }
}
