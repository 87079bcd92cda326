//! A queue of keys, each of them once: whoever adds a key that is waiting adds nothing, and a key that is added while
//! it is worked on is worked on again. Failures come back later and later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decide::Decision;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::Error;

/// A conflict is gone as soon as the newer object is read, so the first retry is quick.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A time that lies further ahead is looked at in between, so that a change of the wall clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// What is looked at: an object's namespace, empty for those without, and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// When to look at a key again, if nothing happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    WhenWoken,
    At(Timestamp),
    /// The object is gone: the key is forgotten.
    Gone,
}

/// The keys that wait, and when the others do.
#[derive(Default)]
pub(super) struct WorkQueue {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    running: BTreeSet<Key>,
    /// Added while they were running.
    again: BTreeSet<Key>,
    later: BTreeMap<Key, Instant>,
    failures: BTreeMap<Key, u32>,
    /// Every key whose object was there at the last look.
    known: BTreeSet<Key>,
}

impl WorkQueue {
    /// Has the key looked at soon.
    pub(super) fn wake(&self, key: Key) {
        self.state().add(key);
        self.woken.notify_one();
    }

    /// Has the key looked at, if there is such an object.
    pub(super) fn wake_if_known(&self, key: Key) {
        let mut state = self.state();
        if state.known.contains(&key) {
            state.add(key);
            drop(state);
            self.woken.notify_one();
        }
    }

    /// Has every known key of the namespace looked at.
    pub(super) fn wake_namespace(&self, namespace: Option<&str>) {
        self.wake_known(|key| Some(key.namespace.as_str()) == namespace);
    }

    /// Has every known key looked at for which `wanted` holds.
    pub(super) fn wake_known(&self, wanted: impl Fn(&Key) -> bool) {
        let mut state = self.state();
        let keys: Vec<_> = state.known.iter().filter(|key| wanted(key)).cloned().collect();
        keys.into_iter().for_each(|key| state.add(key));
        drop(state);
        self.woken.notify_one();
    }

    /// Works on keys for ever, `at_once` of them at a time. A panic counts as a failure of its key.
    pub(super) async fn work<F>(&self, at_once: usize, name: &str, reconcile: impl Fn(Key) -> F)
    where
        F: Future<Output = Result<Next, Error>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                key = self.next(), if running.len() < at_once => {
                    let looking = AssertUnwindSafe(reconcile(key.clone())).catch_unwind();
                    running.push(looking.map(|outcome| (key, outcome)));
                }
                Some((key, outcome)) = running.next() => match outcome {
                    Ok(Ok(next)) => self.finish(key, next),
                    Ok(Err(error)) => {
                        report(name, &key, &error);
                        self.retry(key);
                    }
                    Err(_) => {
                        warn!(controller = name, %key, "a look panicked; it is taken again");
                        self.retry(key);
                    }
                },
            }
        }
    }

    /// The next key to look at.
    async fn next(&self) -> Key {
        loop {
            let woken = self.woken.notified();
            let due = match self.state().take(Instant::now()) {
                Ok(key) => return key,
                Err(due) => due,
            };
            match due {
                Some(due) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(due) => {}
                },
                None => woken.await,
            }
        }
    }

    fn finish(&self, key: Key, next: Next) {
        let mut state = self.state();
        state.failures.remove(&key);
        state.running.remove(&key);
        match next {
            Next::WhenWoken => {}
            Next::At(time) => state.add_later(key.clone(), from_now(time)),
            Next::Gone => {
                state.known.remove(&key);
            }
        }
        state.add_again(key);
    }

    fn retry(&self, key: Key) {
        let mut state = self.state();
        state.running.remove(&key);
        let failures = state.failures.entry(key.clone()).or_default();
        *failures += 1;
        let delay = FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(16)).min(LAST_RETRY);
        state.add_later(key.clone(), delay);
        state.add_again(key);
    }

    /// Nothing here can panic half-way, so a poisoned lock guards a whole state.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: Key) {
        self.known.insert(key.clone());
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if !self.ready.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_again(&mut self, key: Key) {
        if self.again.remove(&key) {
            self.add(key);
        }
    }

    fn add_later(&mut self, key: Key, delay: Duration) {
        self.later.insert(key, Instant::now() + delay);
    }

    /// The first key that is ready, or when one is.
    fn take(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        let due: Vec<_> = self.later.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
        due.into_iter().for_each(|key| self.add(key));
        self.later.retain(|_, due| *due > now);
        let Some(key) = self.ready.pop_front() else { return Err(self.later.values().min().copied()) };
        self.later.remove(&key);
        self.running.insert(key.clone());
        Ok(key)
    }
}

impl Next {
    /// What a decision says about the next look.
    pub(super) fn after<S, W>(decision: &Decision<S, W>) -> Self {
        decision.look_again_at.map_or(Self::WhenWoken, Self::At)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

fn from_now(time: Timestamp) -> Duration {
    let left = time.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or(Duration::ZERO).min(LONGEST_SLEEP)
}

/// Conflicts are part of the plan: somebody was faster, and the next look sees what they did.
fn report(controller: &str, key: &Key, error: &Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if error.is_overtaken() {
        debug!(controller, %key, %error, cause, "overtaken; looking again");
    } else {
        warn!(controller, %key, %error, cause, "a look failed; it is taken again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(name: &str) -> Key {
        Key { namespace: "n".to_owned(), name: name.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_waits_is_not_queued_twice() {
        let queue = WorkQueue::default();
        queue.wake(key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert!(queue.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_woken_while_running_runs_again_afterwards() {
        let queue = WorkQueue::default();
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.wake(key("a"));
        assert!(queue.next().now_or_never().is_none());
        queue.finish(key("a"), Next::WhenWoken);
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_and_later() {
        let queue = WorkQueue::default();
        queue.wake(key("a"));
        let mut waited = Vec::new();
        for _ in 0..14 {
            let since = Instant::now();
            let key = queue.next().await;
            waited.push(since.elapsed().as_millis());
            queue.retry(key);
        }
        assert_eq!(waited[..5], [0, 20, 40, 80, 160]);
        assert_eq!(waited[13], LAST_RETRY.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn gone_keys_are_forgotten() {
        let queue = WorkQueue::default();
        for (name, next) in [("a", Next::Gone), ("b", Next::WhenWoken)] {
            queue.wake(key(name));
            let taken = queue.next().await;
            queue.finish(taken, next);
        }
        queue.wake_known(|_| true);
        assert_eq!(queue.next().await, key("b"));
        assert!(queue.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_of_its_key_only() {
        let queue = Arc::new(WorkQueue::default());
        let looks = Arc::new(AtomicUsize::new(0));
        queue.wake(key("a"));
        let counted = Arc::clone(&looks);
        let work = queue.work(1, "test", move |_| {
            let look = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(look > 1, "the first two looks fail");
                Ok(Next::WhenWoken)
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(10), work).await;
        assert_eq!(looks.load(Ordering::SeqCst), 3);
    }
}
