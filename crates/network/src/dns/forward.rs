//! Asking the host's resolvers for names that are not ours: once for all who ask the same at one time, and not again
//! while their answer holds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::answer::Via;
use super::cache::{Cache, Key};
use super::layout::Layout;
use super::resolver;

/// Queries that wait for resolvers at one time, each with a socket and at most 64 KiB.
const MOST_FORWARDED: usize = 256;

/// Queries to resolvers, and what they answered.
pub(super) struct Forwarder {
    state: Mutex<State>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// What is being asked. One that has ended without an answer is closed.
    asked: HashMap<Key, watch::Receiver<Option<Answer>>>,
}

type Answer = Arc<[u8]>;

impl Forwarder {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), permits: Arc::new(Semaphore::new(MOST_FORWARDED)) }
    }

    /// The first answer that a resolver gives or has given; None when none does, or too many queries wait.
    pub(super) async fn ask(self: &Arc<Self>, resolvers: &[SocketAddr], query: &[u8], via: Via) -> Option<Vec<u8>> {
        let permit = self.permits.clone().try_acquire_owned().ok();
        let answer = match Key::of(resolvers, query, via) {
            Some(key) => {
                if let Some(kept) = self.state().cache.find(&key, Instant::now()) {
                    return Some(addressed(kept, query));
                }
                self.ask_together(key, query, permit?).await?
            }
            None => {
                let _permit = permit?;
                resolver::ask(resolvers, query, via).await?
            }
        };
        Some(addressed(answer, query))
    }

    async fn ask_together(self: &Arc<Self>, key: Key, query: &[u8], permit: OwnedSemaphorePermit) -> Option<Vec<u8>> {
        let mut waiting = Some(permit);
        let mut answer = {
            let mut state = self.state();
            let asked = state.asked.get(&key).filter(|asked| asked.has_changed().is_ok()).cloned();
            asked.unwrap_or_else(|| {
                let (answered, answer) = watch::channel(None);
                state.asked.insert(key.clone(), answer.clone());
                // A client that goes away takes nothing from the others, so the query is nobody's own.
                tokio::spawn(self.clone().ask_for_all(key, query.to_vec(), answered, waiting.take()));
                answer
            })
        };
        let answer = answer.wait_for(Option::is_some).await.ok()?;
        answer.as_deref().map(<[u8]>::to_vec)
    }

    async fn ask_for_all(
        self: Arc<Self>,
        key: Key,
        query: Vec<u8>,
        answered: watch::Sender<Option<Answer>>,
        _permit: Option<OwnedSemaphorePermit>,
    ) {
        let answer = resolver::ask(&key.resolvers, &query, key.via).await;
        let mut state = self.state();
        state.asked.remove(&key);
        if let Some(answer) = answer {
            state.cache.keep(key, &answer, Instant::now());
            answered.send_replace(Some(answer.into()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer as its client's own: with the number of its query, and the name as it was written there.
fn addressed(mut answer: Vec<u8>, query: &[u8]) -> Vec<u8> {
    answer[..2].copy_from_slice(&query[..2]);
    if let (Some(to), Some(from)) = (Layout::of(&answer), Layout::of(query))
        && to.question == from.question
    {
        answer[to.question].copy_from_slice(&query[from.question]);
    }
    answer
}
