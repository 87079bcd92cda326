//! Finding an endpoint that takes a piece of work: another one after a failure, a later one when there is none now.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::balancer::{Balancer, InFlight, NoPick, Work};
use super::caller::Caller;
use super::neighbour::Presence;
use super::passage::is_refusal;
use super::upstream::Upstream;

/// How long a request or connection waits for an endpoint that takes it.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The pause before endpoints that refused a connection are tried again; no event tells when they listen again.
const PAUSE: Duration = Duration::from_millis(50);

/// The attempts for one piece of work.
pub(crate) struct Attempts<'a> {
    balancer: &'a Balancer,
    at: SocketAddr,
    caller: Caller,
    /// Set at the first failure, so that work that succeeds at once never reads the clock.
    deadline: Option<Instant>,
    tried: Vec<SocketAddr>,
    /// The token of the endpoint that is tried until it fails.
    first: Option<u64>,
    last_failure: Option<io::Error>,
}

/// Nothing took the work in time, or nothing ever will.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("no pod of the Service was ready for {} seconds", LONGEST_WAIT.as_secs())]
    NothingReady,
    #[error("no pod of the Service accepted a connection for {} seconds: {source}", LONGEST_WAIT.as_secs())]
    NothingAccepts {
        #[source]
        source: io::Error,
    },
    #[error("no NetworkPolicy lets this client reach a pod of the Service that is ready")]
    Forbidden,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(balancer: &'a Balancer, at: SocketAddr, caller: Caller, first: Option<u64>) -> Self {
        Self { balancer, at, caller, deadline: None, tried: Vec::new(), first, last_failure: None }
    }

    /// The endpoint to try next, with the work counted.
    pub(crate) async fn next(&mut self, work: Work) -> Result<InFlight, NotTaken> {
        if let Some(picked) = self.first.and_then(|token| self.balancer.pick_again(self.at, self.caller, token, work)) {
            return Ok(picked);
        }
        match self.balancer.pick(self.at, self.caller, work, &self.tried) {
            Ok(picked) => Ok(picked),
            // The other machine may find another one meanwhile.
            Err(NoPick::NothingReady | NoPick::AllTried) if self.caller.is_machine() => Err(self.give_up()),
            // On the heap: every request would have room for it.
            Err(_) => Box::pin(self.wait_for_an_endpoint(work)).await,
        }
    }

    /// What comes of connecting to an endpoint: nothing, when that is another machine which turns out not to answer.
    pub(crate) async fn connected<T>(
        &self,
        upstream: &Arc<Upstream>,
        connecting: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        if !upstream.is_elsewhere() {
            return connecting.await;
        }
        tokio::select! {
            connected = connecting => connected,
            () = upstream.is(Presence::Silent) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Notes that an endpoint does not accept connections.
    pub(crate) fn failed(&mut self, upstream: &Arc<Upstream>, error: io::Error) {
        tracing::debug!("{} does not accept a connection: {error}", upstream.address);
        if !is_refusal(&error) {
            upstream.set_aside();
        }
        self.first = None;
        self.tried.push(upstream.address);
        self.last_failure = Some(error);
    }

    /// Prefers another endpoint next time.
    pub(crate) fn avoid(&mut self, upstream: &Upstream) {
        self.first = None;
        self.tried.push(upstream.address);
    }

    async fn wait_for_an_endpoint(&mut self, work: Work) -> Result<InFlight, NotTaken> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + LONGEST_WAIT);
        // Subscribed before the pick that finds nothing: a configuration in between is not missed.
        let mut changes = self.balancer.changes();
        loop {
            let retry_at = match self.balancer.pick(self.at, self.caller, work, &self.tried) {
                Ok(picked) => return Ok(picked),
                Err(NoPick::Forbidden) => return Err(NotTaken::Forbidden),
                Err(NoPick::NothingReady) => deadline,
                Err(NoPick::AllTried) => deadline.min(Instant::now() + PAUSE),
            };
            if Instant::now() >= deadline {
                return Err(self.give_up());
            }
            let _ = tokio::time::timeout_at(retry_at, changes.changed()).await;
            self.tried.clear();
        }
    }

    fn give_up(&mut self) -> NotTaken {
        match self.last_failure.take() {
            Some(source) => NotTaken::NothingAccepts { source },
            None => NotTaken::NothingReady,
        }
    }
}

/// A new connection to an endpoint that takes `work`, tried until one accepts.
pub(crate) async fn connect(
    balancer: &Balancer,
    at: SocketAddr,
    caller: Caller,
    work: Work,
) -> Result<(TcpStream, InFlight), NotTaken> {
    let mut attempts = Attempts::new(balancer, at, caller, None);
    loop {
        let in_flight = attempts.next(work).await?;
        let upstream = &in_flight.upstream;
        match Box::pin(attempts.connected(upstream, upstream.connect(caller.ip()))).await {
            Ok(stream) if in_flight.upstream.pod.may_be_sent_to() => return Ok((stream, in_flight)),
            Ok(_) => {}
            Err(error) => attempts.failed(&in_flight.upstream, error),
        }
    }
}
