//! HTTP through the proxy: each request is picked an endpoint of its own, on a connection that is kept apart from the
//! client's. So a client's connection lives on whatever happens to pods.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use objects::traffic::{ConnectionClass, Outcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::access_log;
use super::attempts::NotTaken;
use super::balancer::{Balancer, InFlight};
use super::bodies::{Borrowed, ReplyBody, Stream};
use super::caller::Caller;
use super::connection::{Leaving, has_come};
use super::counts::{Logged, Series, Tally};
use super::exchange::{NoAnswer, Question, exchange};
use super::headers::{
    Origin, Refusal, asks_for_upgrade, say_client, switching_to_client, to_client, to_http2, to_pod,
    tunnelling_to_client, user,
};
use super::lent::{Connection, PodSpeaks};
use super::lingering::Lingering;
use super::metered::Metered;
use super::paced::{self, Answering, Paced};
use super::passage;
use super::request_body::{RequestBody, TooLong};
use super::sticky;
use super::upstream::PASSAGE_WINDOW;
use super::websocket;
use super::workers::WorkerNumber;
use crate::config::Speaks;

/// A client's connection.
pub(crate) struct Client {
    pub(crate) balancer: Arc<Balancer>,
    /// The thread that serves it.
    pub(crate) worker: WorkerNumber,
    pub(crate) caller: Caller,
    pub(crate) origin: Origin,
    pub(crate) entry: Entry,
    pub(crate) answering: Answering,
    /// Kept by whatever outlives the connection's HTTP.
    pub(crate) leaving: watch::Receiver<Leaving>,
}

/// How a connection came in.
pub(crate) enum Entry {
    /// To one port of one Service.
    Service(Target),
    /// To all Services that have Ingresses, with counts of what is for none of them.
    Ingress(Arc<Series>),
}

/// One port of one Service.
#[derive(Clone)]
pub(crate) struct Target {
    /// One of its addresses.
    pub(crate) at: std::net::SocketAddr,
    /// How its pods are spoken to for this client.
    pub(crate) pods_speak: PodSpeaks,
    /// Counts of what no pod had a part in.
    pub(crate) series: Arc<Series>,
    /// The cookie by which clients come back to the same pod.
    pub(crate) sticky_cookie: Option<Arc<str>>,
}

/// Requests of one client at one time over one HTTP/2 connection.
const MOST_STREAMS: u32 = 250;
/// What a client may send of one stream, and of one connection, before a pod has taken it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// All headers of a request, and how many there may be is limited by hyper to 100 in HTTP/1.
const LONGEST_HEAD: u32 = 64 << 10;
/// What is read of a client at once in HTTP/1.1, and so the longest head.
const LONGEST_HTTP1_HEAD: usize = 128 << 10;

/// What bytes come and go on.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for S {}

/// Serves a client's HTTP/1.1 connection until it ends, or until its last answer is sent while the proxy leaves.
pub(crate) async fn serve_http1(io: impl Io, client: Client, mut leaving: watch::Receiver<Leaving>) {
    let _open = client.entry.series().open(ConnectionClass::Http1);
    let io = Paced::new(io, client.answering.clone());
    let mut builder = http1::Builder::new();
    // Whatever takes too long is ended below; this would end idle connections too.
    builder.auto_date_header(false).header_read_timeout(None).max_buf_size(LONGEST_HTTP1_HEAD);
    let served = builder.serve_connection(TokioIo::new(io), answers(client, Version::HTTP_11));
    let mut connection = pin!(served.with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = has_come(&mut leaving, Leaving::Now) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    note_end(ended);
}

/// The same for an HTTP/2 connection and the answers to all its requests.
pub(crate) async fn serve_http2(io: impl Io, client: Client, mut leaving: watch::Receiver<Leaving>) {
    let _open = client.entry.series().open(ConnectionClass::Http2);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).auto_date_header(false).max_concurrent_streams(MOST_STREAMS);
    let window = if client.caller.is_machine() { PASSAGE_WINDOW } else { CONNECTION_WINDOW };
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(window);
    builder.max_header_list_size(LONGEST_HEAD);
    let answers = answers(client, Version::HTTP_2);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Lingering::new(io)), answers));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = has_come(&mut leaving, Leaving::AfterTheNextAnswer) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    note_end(ended);
}

fn answers(
    client: Client,
    version: Version,
) -> impl Service<
    Request<Incoming>,
    Response = Response<ReplyBody>,
    Error = Infallible,
    Future: Future<Output = Result<Response<ReplyBody>, Infallible>> + Send + 'static,
> {
    let client = Arc::new(client);
    service_fn(move |request| {
        let (client, answered) = (client.clone(), client.answering.begin());
        // On the heap while there is a request: hyper keeps room for it in every connection, idle ones too.
        Box::pin(async move {
            let mut response = answer(&client, request).await.map(|body| body.holding(answered));
            *response.version_mut() = version;
            if version == Version::HTTP_11
                && client.balancer.is_leaving()
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    })
}

fn note_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!("a client's connection ended: {error}");
    }
}

/// Why a request has no pod's answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error(transparent)]
    NoTarget(#[from] NoTarget),
    #[error("the pod switched protocols without being asked to")]
    UnaskedSwitch,
    #[error("it comes from a machine that is no longer of the mesh")]
    NoMachine,
}

/// Why a request from outside is for no Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NoTarget {
    #[error("the request names no host")]
    Hostless,
    #[error("no rule is about this host and path")]
    Unmatched,
    #[error("Service {service} is not there or has no such port")]
    Gone { service: String },
    #[error("an Ingress takes no CONNECT")]
    Tunnel,
}

async fn answer(client: &Client, request: Request<Incoming>) -> Response<ReplyBody> {
    let is_grpc = is_grpc(request.headers());
    let target = client.target(&request);
    let series = target.as_ref().map_or(client.entry.series(), |target| &target.series);
    let mut tally = Tally::new(series.clone(), request.method(), client.logged(series, &request));
    let answered = match &target {
        Ok(target) => ask(client, target, request, &mut tally).await,
        Err(no_target) => Err(no_target.clone().into()),
    };
    let failure = match answered {
        Ok(answered) => return reply(answered, client, tally),
        Err(failure) => failure,
    };
    tally.answered(failure.status());
    tally.end_as(failure.outcome());
    let mut response =
        if is_grpc { failure.to_grpc() } else { failure.to_response(&client.name_of(target.as_deref().ok())) };
    if client.caller.is_machine() && failure.is_not_taken() {
        response.headers_mut().insert(passage::NOT_TAKEN, HeaderValue::from_static("1"));
    }
    response
}

/// A pod's answer, and what it occupies.
struct Answered {
    response: Response<Incoming>,
    connection: Connection,
    in_flight: InFlight,
    /// The client's side, if the connection is given to another protocol.
    upgrade: Option<OnUpgrade>,
}

async fn ask(
    client: &Client,
    target: &Target,
    mut request: Request<Incoming>,
    tally: &mut Tally,
) -> Result<Answered, Failure> {
    let is_tunnel = request.method() == Method::CONNECT;
    let upgrades = !is_tunnel && asks_for_upgrade(request.headers());
    let upgrade = (is_tunnel || upgrades).then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    if let Caller::Machine(machine) = client.caller {
        if !client.balancer.is_machine(machine) {
            return Err(Failure::NoMachine);
        }
        if client.origin.behind(&head.headers).is_some_and(|ip| client.balancer.is_private(ip)) {
            say_client(&mut head.headers, machine);
        }
    }
    to_pod(&head.method, &mut head.uri, &mut head.headers, &client.origin)?;
    // An upgrade is possible in HTTP/1.1 only.
    let speaks = if upgrades { PodSpeaks::Http1 } else { target.pods_speak };
    let body = RequestBody::new(body, || client.balancer.max_request_body(target.at))?;
    match speaks {
        PodSpeaks::Http1 => to_http1(&mut head.headers, &body),
        PodSpeaks::Http2 => to_http2(&head.method, &mut head.uri, &mut head.headers)?,
    }
    let sticky = target.sticky_cookie.as_deref();
    let asked_for = sticky.and_then(|name| sticky::asked_for(&head.headers, name));
    let question = Question { method: head.method, uri: head.uri, headers: head.headers, body };
    let (mut response, connection, in_flight) =
        exchange(client, target.at, asked_for, speaks, &question, tally).await?;
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switches && !upgrades {
        return Err(Failure::UnaskedSwitch);
    }
    let upgrade = upgrade.filter(|_| switches || is_tunnel && response.status().is_success());
    let token = in_flight.upstream.token;
    if let Some(name) = sticky.filter(|_| asked_for != Some(token))
        && let Some(cookie) = sticky::cookie(name, token, client.origin.scheme())
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(Answered { response, connection, in_flight, upgrade })
}

/// HTTP/2 needs no length; in HTTP/1.1 a body without one is chunked, or there is none for a GET.
fn to_http1(headers: &mut HeaderMap, body: &RequestBody) {
    let is_streamed = matches!(body, RequestBody::Streamed(_));
    if is_streamed && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn reply(answered: Answered, client: &Client, mut tally: Tally) -> Response<ReplyBody> {
    let Answered { mut response, connection, in_flight, upgrade } = answered;
    if client.caller.is_machine() {
        response.headers_mut().remove(passage::NOT_TAKEN);
    }
    tally.answered(response.status());
    if let Some(upgrade) = upgrade {
        let still = client.answering.begin();
        let pod = hyper::upgrade::on(&mut response);
        let protocol = Upgrade::of(response.headers());
        tokio::spawn(join(upgrade, pod, protocol, in_flight, (client.leaving.clone(), still)));
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => switching_to_client(response.headers_mut()),
            _ => tunnelling_to_client(response.headers_mut()),
        }
        tally.complete();
        return response.map(|_| ReplyBody::empty());
    }
    to_client(response.headers_mut());
    response.extensions_mut().clear();
    let stream = Stream::of(response.headers());
    if let Stream::Grpc { .. } = stream {
        tally.answered_grpc(response.headers());
    }
    let borrowed = Borrowed { connection, worker: client.worker, in_flight, tally };
    response.map(|body| ReplyBody::streamed(body, borrowed, stream))
}

/// What a connection was upgraded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    WebSocket,
    Other,
}

impl Upgrade {
    fn of(headers: &HeaderMap) -> Self {
        let is_websocket =
            headers.get(header::UPGRADE).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if is_websocket { Self::WebSocket } else { Self::Other }
    }
}

/// Passes bytes both ways once both sides have switched protocols.
///
/// While `_open` lives, the proxy does not end, and what the client sends is no head of a request.
async fn join(
    client: OnUpgrade,
    pod: OnUpgrade,
    upgrade: Upgrade,
    mut in_flight: InFlight,
    _open: (watch::Receiver<Leaving>, paced::Answered),
) {
    in_flight.become_long(ConnectionClass::Upgraded);
    let series = in_flight.series.clone();
    match tokio::try_join!(client, pod) {
        Ok((client, pod)) => {
            if let Err(error) =
                pass_both_ways(Metered::new(TokioIo::new(client), series), pod, upgrade, in_flight.is_over()).await
            {
                tracing::trace!("an upgraded connection ended: {error}");
            }
        }
        Err(error) => tracing::debug!("an upgrade failed: {error}"),
    }
}

async fn pass_both_ways(
    mut client: Metered<TokioIo<Upgraded>>,
    pod: Upgraded,
    upgrade: Upgrade,
    over: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut pod = TokioIo::new(pod);
    match upgrade {
        Upgrade::WebSocket => websocket::pass_both_ways(client, pod, over).await,
        Upgrade::Other => tokio::select! {
            passed = tokio::io::copy_bidirectional(&mut client, &mut pod) => passed.map(drop),
            () = over => Ok(()),
        },
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

impl Client {
    /// Where a request goes.
    fn target(&self, request: &Request<Incoming>) -> Result<Cow<'_, Target>, NoTarget> {
        if let Entry::Service(target) = &self.entry {
            return Ok(Cow::Borrowed(target));
        }
        if request.method() == Method::CONNECT {
            return Err(NoTarget::Tunnel);
        }
        let host = host_of(request).ok_or(NoTarget::Hostless)?;
        let backend = self.balancer.route(host, request.uri().path()).ok_or(NoTarget::Unmatched)?;
        let no_service = || NoTarget::Gone { service: backend.service.clone() };
        let at = backend.at.ok_or_else(no_service)?;
        let series = self.balancer.counts_at(at).ok_or_else(no_service)?;
        // A browser speaks HTTP/2 because it was offered; that says nothing about the app.
        let pods_speak = match self.balancer.speaks(at) {
            Speaks::Http2 => PodSpeaks::Http2,
            Speaks::Http1 => PodSpeaks::Http1,
            Speaks::FindOut | Speaks::Opaque if is_grpc(request.headers()) => PodSpeaks::Http2,
            Speaks::FindOut | Speaks::Opaque => PodSpeaks::Http1,
        };
        Ok(Cow::Owned(Target { at, pods_speak, series, sticky_cookie: self.balancer.sticky_cookie(at) }))
    }

    /// Whom a request that is in a pod's form comes from.
    pub(super) fn caller_of(&self, headers: &HeaderMap) -> Caller {
        match (self.origin.behind(headers), self.caller) {
            (None, caller) => caller,
            (Some(client), Caller::Machine(machine)) => Caller::through(machine, client),
            (Some(client), Caller::ThisMachine(_) | Caller::Elsewhere(_)) => Caller::Elsewhere(client),
        }
    }

    /// What an answer of the proxy's own is about.
    fn name_of(&self, target: Option<&Target>) -> String {
        let service = target.and_then(|target| self.balancer.service(target.at));
        service.map_or_else(|| "Ingress".to_owned(), |service| format!("Service {service}"))
    }

    fn logged(&self, series: &Series, request: &Request<Incoming>) -> Option<Logged> {
        let key = &series.key;
        let protocol = if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
        let make = || {
            let service = format!("{}/{}", key.namespace, key.service);
            let head = (request.method(), request.uri(), request.headers());
            let caller = self.origin.behind(request.headers());
            let user = caller.and_then(|_| user(request.headers()));
            let caller = caller.unwrap_or_else(|| self.caller.ip());
            access_log::Entry::new((caller, user), (&service, key.port), protocol, head)
        };
        let entry = self.balancer.access_log().entry(make)?;
        Some(Logged { balancer: self.balancer.clone(), entry, status: None, bytes_to_client: 0 })
    }
}

impl Entry {
    fn series(&self) -> &Arc<Series> {
        match self {
            Self::Service(target) => &target.series,
            Self::Ingress(series) => series,
        }
    }
}

/// The host that a request is for, without a port.
fn host_of(request: &Request<Incoming>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    match host.strip_prefix('[') {
        Some(_) => host.split_inclusive(']').next(),
        None => host.split(':').next(),
    }
}

impl Failure {
    /// Whether nothing of the request was processed, and another machine may have a pod for it.
    fn is_not_taken(&self) -> bool {
        let is_none =
            |not_taken: &NotTaken| matches!(not_taken, NotTaken::NothingReady | NotTaken::NothingAccepts { .. });
        matches!(self, Self::NoMachine) || matches!(self, Self::NoAnswer(NoAnswer::NotTaken(it)) if is_none(it))
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::NoAnswer(NoAnswer::NotTaken(NotTaken::Forbidden)) => Outcome::ClientError,
            Self::NoAnswer(NoAnswer::TooLong(_)) | Self::TooLong(_) => Outcome::ClientError,
            Self::NoAnswer(_) | Self::UnaskedSwitch | Self::NoTarget(NoTarget::Gone { .. }) => Outcome::NoAnswer,
            Self::Refused(_) | Self::NoTarget(_) | Self::NoMachine => Outcome::ClientError,
        }
    }

    fn to_response(&self, about: &str) -> Response<ReplyBody> {
        let mut response = Response::new(ReplyBody::sentence(format!("{about}: {self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// As gRPC clients expect it: a status in the head, under 200 (gRPC over HTTP/2, "Responses", Trailers-Only).
    fn to_grpc(&self) -> Response<ReplyBody> {
        const INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");
        const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");
        const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
        let code = match self.status() {
            StatusCode::FORBIDDEN => PERMISSION_DENIED,
            status if status.is_client_error() => INVALID_ARGUMENT,
            _ => UNAVAILABLE,
        };
        let mut response = Response::new(ReplyBody::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", code);
        if let Ok(message) = HeaderValue::from_str(&self.to_string()) {
            headers.insert("grpc-message", message);
        }
        response
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoAnswer(NoAnswer::NotTaken(NotTaken::Forbidden)) | Self::NoMachine => StatusCode::FORBIDDEN,
            Self::NoAnswer(NoAnswer::NotTaken(_) | NoAnswer::PassedOnInVain)
            | Self::NoTarget(NoTarget::Gone { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoTarget(NoTarget::Unmatched) => StatusCode::NOT_FOUND,
            Self::NoTarget(NoTarget::Hostless) => StatusCode::BAD_REQUEST,
            Self::NoAnswer(NoAnswer::TooLong(_)) | Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoAnswer(NoAnswer::BrokenOff { .. }) | Self::UnaskedSwitch => StatusCode::BAD_GATEWAY,
            Self::Refused(Refusal::SeveralHosts | Refusal::Host | Refusal::Connect) => StatusCode::BAD_REQUEST,
            Self::NoTarget(NoTarget::Tunnel) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}
