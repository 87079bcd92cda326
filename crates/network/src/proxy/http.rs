//! HTTP/1.1 through the proxy: each request is picked an endpoint of its own, on a connection that is kept apart
//! from the client's. So a client's connection lives on whatever happens to pods.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::attempts::{Attempts, NotTaken};
use super::balancer::{Balancer, InFlight, Work};
use super::bodies::{Borrowed, ReplyBody, RequestBody};
use super::headers::{Origin, Refusal, asks_for_upgrade, switching_to_client, to_client, to_pod};
use super::upstream::{Connection, Repeatable};
use super::workers::WorkerNumber;

/// How often a request that a pod broke off before its answer is sent again.
const MOST_REPEATS: u32 = 3;

/// A client's connection.
pub(crate) struct Client {
    pub(crate) balancer: Arc<Balancer>,
    /// The thread that serves it.
    pub(crate) worker: WorkerNumber,
    /// The Service's address that it came in at.
    pub(crate) at: std::net::SocketAddr,
    pub(crate) origin: Origin,
}

/// Serves a client's connection until it ends, or until the answer to its last request is sent once `leaving` is true.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    client: Client,
    mut leaving: watch::Receiver<bool>,
) {
    let client = Arc::new(client);
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(answer(&client, request).await) }
    });
    let mut builder = Builder::new();
    builder.auto_date_header(false).header_read_timeout(None);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = is_leaving(&mut leaving) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!("a client's connection ended: {error}");
    }
}

async fn is_leaving(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

/// Why a request has no pod's answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error("the pod broke the connection off before it answered: {source}")]
    BrokenOff {
        #[source]
        source: hyper::Error,
    },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the pod switched protocols without being asked to")]
    UnaskedSwitch,
}

async fn answer(client: &Client, request: Request<Incoming>) -> Response<ReplyBody> {
    match forward(client, request).await {
        Ok(response) => response,
        Err(failure) => failure.to_response(client),
    }
}

async fn forward(client: &Client, mut request: Request<Incoming>) -> Result<Response<ReplyBody>, Failure> {
    let upgrade = asks_for_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    to_pod(&head.method, &mut head.uri, &mut head.headers, &client.origin)?;
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let body = if body.is_end_stream() { RequestBody::Empty } else { RequestBody::Streamed(body) };
    let (response, borrowed) = exchange(client, Request::from_parts(head, body)).await?;
    reply(response, borrowed, upgrade)
}

async fn exchange(
    client: &Client,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Borrowed), Failure> {
    let mut attempts = Attempts::new(&client.balancer, client.at);
    let mut repeats = 0;
    loop {
        let copy = copy_if_repeatable(&request);
        let repeatable = if copy.is_some() { Repeatable::Yes } else { Repeatable::No };
        let (mut connection, in_flight) = borrow(&mut attempts, client.worker, repeatable, repeats).await?;
        match connection.try_send_request(request).await {
            Ok(response) => return Ok((response, Borrowed { connection, worker: client.worker, in_flight })),
            // What hyper gives back was never sent.
            Err(mut error) => match error.take_message().or(copy) {
                Some(again) if repeats < MOST_REPEATS => request = again,
                Some(_) | None => return Err(Failure::BrokenOff { source: error.into_error() }),
            },
        }
        repeats += 1;
    }
}

/// A connection to an endpoint that may have the request now.
async fn borrow(
    attempts: &mut Attempts<'_>,
    worker: WorkerNumber,
    repeatable: Repeatable,
    repeats: u32,
) -> Result<(Connection, InFlight), NotTaken> {
    loop {
        let in_flight = attempts.next(Work::Request).await?;
        let upstream = &in_flight.upstream;
        // After a kept connection broke off, the others of that pool may be dead too.
        let idle = if repeats == 0 { upstream.take_idle(worker, repeatable) } else { None };
        let connection = match idle {
            Some(connection) => Ok(connection),
            None => upstream.connect_http().await,
        };
        match connection {
            // Connecting takes a moment: a pod that was withdrawn meanwhile gets nothing any more.
            Ok(connection) if upstream.pod.may_be_sent_to() => return Ok((connection, in_flight)),
            Ok(_) => {}
            Err(error) => attempts.failed(upstream.address, error),
        }
    }
}

fn copy_if_repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_empty = matches!(request.body(), RequestBody::Empty);
    let is_idempotent = request.method().is_idempotent();
    if !is_empty || !is_idempotent {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn reply(
    mut response: Response<Incoming>,
    borrowed: Borrowed,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<ReplyBody>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = upgrade.ok_or(Failure::UnaskedSwitch)?;
        let pod = hyper::upgrade::on(&mut response);
        let Borrowed { in_flight, .. } = borrowed;
        tokio::spawn(join(client, pod, in_flight));
        switching_to_client(response.headers_mut());
        return Ok(response.map(|_| ReplyBody::Own(None)));
    }
    to_client(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    Ok(response.map(|body| ReplyBody::streamed(body, borrowed)))
}

/// Passes bytes both ways once both sides have switched protocols.
async fn join(client: OnUpgrade, pod: OnUpgrade, mut in_flight: InFlight) {
    in_flight.become_long();
    match tokio::try_join!(client, pod) {
        Ok((client, pod)) => {
            if let Err(error) = pass_both_ways(client, pod).await {
                tracing::trace!("an upgraded connection ended: {error}");
            }
        }
        Err(error) => tracing::debug!("an upgrade failed: {error}"),
    }
}

async fn pass_both_ways(client: Upgraded, pod: Upgraded) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(pod)).await.map(drop)
}

impl Failure {
    fn to_response(&self, client: &Client) -> Response<ReplyBody> {
        let service = client.balancer.service(client.at);
        let service = service.as_deref().unwrap_or("that was here");
        let mut response = Response::new(ReplyBody::sentence(format!("Service {service}: {self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotTaken(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::BrokenOff { .. } | Self::UnaskedSwitch => StatusCode::BAD_GATEWAY,
            Self::Refused(Refusal::SeveralHosts) => StatusCode::BAD_REQUEST,
            Self::Refused(Refusal::Connect) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}
