//! One request and its answer: picked a pod, sent, and sent to another pod while that can do no harm.

use std::net::SocketAddr;
use std::sync::Arc;

use decide::retries::{Body, Broke, Budget, NoRepeat, Repeating, Unanswered, may_be_repeated};
use http::{HeaderMap, Method, Request, Response, Uri, request};
use hyper::body::Incoming;
use objects::traffic::Cell;

use super::attempts::{Attempts, NotTaken};
use super::balancer::{InFlight, Work};
use super::counts::{Series, Tally};
use super::http::Client;
use super::lent::{self, BoxError, Connection, PodSpeaks, Unanswered as Broken};
use super::neighbour::Presence;
use super::passage::NOT_TAKEN;
use super::request_body::{RequestBody, TooLong};
use super::upstream::{Repeatable, Upstream};
use super::workers::WorkerNumber;

/// A client's word that the request may be sent twice (the header of the IETF HTTPAPI working group's draft).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error("another machine had no pod for it either, and the request was not repeated, since {}", NoRepeat::BodyGone)]
    PassedOnInVain,
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(
        "the pod broke the connection off before it answered, and the request was not repeated, since {reason}: {source}"
    )]
    BrokenOff { reason: NoRepeat, source: BoxError },
}

/// A request in the form in which a pod gets it.
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
}

/// Sends a request for the Service's port at `at` until a pod answers, to the one of the token `first` if it can take it.
pub(crate) async fn exchange(
    client: &Client,
    at: SocketAddr,
    first: Option<u64>,
    speaks: PodSpeaks,
    question: &Question,
    tally: &mut Tally,
) -> Result<(Response<Incoming>, Connection, InFlight), NoAnswer> {
    let mut attempts = Attempts::new(&client.balancer, at, client.caller_of(&question.headers), first);
    let repeating = question.repeating();
    let mut repeats = 0;
    let mut broken_off: Option<BoxError> = None;
    loop {
        let borrowed = borrow(&mut attempts, client.worker, speaks, question, repeats).await;
        let (mut connection, age, in_flight) = match (borrowed, broken_off.take()) {
            // Some pod may have processed it: nobody is told that none did.
            (Err(_), Some(source)) if client.caller.is_machine() => {
                return Err(NoAnswer::BrokenOff { reason: NoRepeat::TooOften, source });
            }
            (borrowed, _) => borrowed?,
        };
        tally.belongs_to(&in_flight.series);
        let request = question.request(speaks, &in_flight.series);
        let sent = if in_flight.upstream.is_elsewhere() {
            Box::pin(send_elsewhere(&mut connection, request, question, &in_flight.upstream)).await
        } else {
            connection.send(request).await
        };
        match sent {
            Ok(response) if in_flight.upstream.is_elsewhere() && response.headers().contains_key(NOT_TAKEN) => {
                // Nothing was processed there. How long that may go on, the attempts know.
                attempts.avoid(&in_flight.upstream);
                match question.body.kept() {
                    Body::Kept => continue,
                    Body::Gone => return Err(NoAnswer::PassedOnInVain),
                }
            }
            Ok(response) => return Ok((response, connection, in_flight)),
            Err(_) if question.body.is_too_long() => return Err(TooLong.into()),
            Err(lent::Unanswered { broke, source }) => {
                if age == Age::New || speaks == PodSpeaks::Http2 || in_flight.upstream.is_elsewhere() {
                    attempts.avoid(&in_flight.upstream);
                }
                let body = question.body.kept();
                let mut unanswered = Unanswered { broke, repeating, body, repeats, budget: Budget::Left };
                // Only what may be repeated otherwise costs something.
                if may_be_repeated(&unanswered).is_ok() && broke == Broke::BeforeTheAnswer {
                    unanswered.budget = client.balancer.spend_retry(at);
                }
                if let Err(reason) = may_be_repeated(&unanswered) {
                    return Err(NoAnswer::BrokenOff { reason, source });
                }
                broken_off = Some(source).filter(|_| broke == Broke::BeforeTheAnswer);
            }
        }
        in_flight.series.add(Cell::Retries, 1);
        repeats += 1;
    }
}

/// Sends a request to another machine, and waits for the answer no longer than that machine answers at all. What can't be asked of
/// others is given up only when it has gone.
async fn send_elsewhere(
    connection: &mut Connection,
    request: Request<RequestBody>,
    question: &Question,
    upstream: &Upstream,
) -> Result<Response<Incoming>, Broken> {
    let too_far = match question.repeating() {
        Repeating::Harmless if !question.body.is_long() => Presence::Silent,
        Repeating::Harmless | Repeating::Harmful => Presence::Gone,
    };
    tokio::select! {
        answered = connection.send(request) => answered,
        () = upstream.is(too_far) => {
            Err(Broken { broke: Broke::BeforeTheAnswer, source: "the other machine does not answer any more".into() })
        }
    }
}

/// A pod that closes a connection which was kept open may be well all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    New,
    Kept,
}

/// A connection to an endpoint that may have the request now.
async fn borrow(
    attempts: &mut Attempts<'_>,
    worker: WorkerNumber,
    speaks: PodSpeaks,
    question: &Question,
    repeats: u32,
) -> Result<(Connection, Age, InFlight), NotTaken> {
    let repeatable = match question.repeating() {
        Repeating::Harmless => Repeatable::Yes,
        Repeating::Harmful => Repeatable::No,
    };
    loop {
        let in_flight = attempts.next(Work::Request).await?;
        let upstream = &in_flight.upstream;
        // After a kept connection broke off, the others of that pool may be dead too.
        // Another machine says before a new connection is used whether it has a pod: later is too late for a long body.
        let is_kept_used = repeats == 0 && !(upstream.is_elsewhere() && question.body.is_long());
        let open = if is_kept_used { upstream.take(worker, speaks, repeatable) } else { None };
        let connection = match open {
            Some(connection) => Ok((connection, Age::Kept)),
            // On the heap: a request that finds an open connection has no room for it.
            None => {
                let connected = attempts.connected(upstream, upstream.connect_http(worker, speaks));
                Box::pin(connected).await.map(|connection| (connection, Age::New))
            }
        };
        match connection {
            // Connecting takes a moment: a pod that was withdrawn meanwhile gets nothing any more.
            Ok((connection, age)) if upstream.pod.may_be_sent_to() => return Ok((connection, age, in_flight)),
            Ok(_) => {}
            Err(error) => attempts.failed(upstream, error),
        }
    }
}

impl Question {
    fn repeating(&self) -> Repeating {
        let is_harmless = self.method.is_idempotent() || self.headers.contains_key(IDEMPOTENCY_KEY);
        if is_harmless { Repeating::Harmless } else { Repeating::Harmful }
    }

    fn request(&self, speaks: PodSpeaks, series: &Arc<Series>) -> Request<RequestBody> {
        let (mut head, ()) = Request::new(()).into_parts();
        let request::Parts { method, uri, version, headers, .. } = &mut head;
        *method = self.method.clone();
        *uri = self.uri.clone();
        *version = speaks.version();
        *headers = self.headers.clone();
        Request::from_parts(head, self.body.again(series))
    }
}
