//! Who calls from the tailnet, by the daemon's word. It is asked for each request, and its answer holds for a second at most:
//! whoever loses a capability loses it on open connections too.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use decide::callers::Whois;
use tokio::time::Instant;

use super::LocalApi;

/// How long an answer holds.
const HOLDS_FOR: Duration = Duration::from_secs(1);
/// Answers that are kept before those that hold no more are dropped.
const MOST_KEPT: usize = 1024;

/// What the daemon said last of whom.
#[derive(Debug)]
pub struct Callers {
    daemon: LocalApi,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Grows whenever everything is forgotten.
    generation: u64,
    answers: HashMap<IpAddr, (Instant, Option<Whois>)>,
}

impl Callers {
    #[must_use]
    pub fn of(daemon: LocalApi) -> Self {
        Self { daemon, known: Mutex::default() }
    }

    /// None for an address that the daemon does not know, and while it can't be asked.
    pub async fn who(&self, client: SocketAddr) -> Option<Whois> {
        let ip = client.ip().to_canonical();
        let generation = {
            let known = self.known();
            match known.answers.get(&ip) {
                Some((asked, answer)) if asked.elapsed() < HOLDS_FOR => return answer.clone(),
                Some(_) | None => known.generation,
            }
        };
        let asked = Instant::now();
        let answer = match self.daemon.whois(SocketAddr::new(ip, client.port())).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("nobody knows who calls from {ip}: {}", crate::chain(&error));
                return None;
            }
        };
        let mut known = self.known();
        // What was said before a change of the network may be over.
        if known.generation == generation {
            if known.answers.len() >= MOST_KEPT {
                known.answers.retain(|_, (asked, _)| asked.elapsed() < HOLDS_FOR);
            }
            known.answers.insert(ip, (asked, answer.clone()));
        }
        answer
    }

    /// Forgets everything whenever the daemon tells of a change, for as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        self.daemon.listen(|| self.forget()).await;
    }

    fn forget(&self) {
        let mut known = self.known();
        known.generation += 1;
        known.answers.clear();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
