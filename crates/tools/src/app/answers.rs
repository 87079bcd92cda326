//! What the application says to each request.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::messages::{events, websocket};
use super::settings::{Readiness, Settings};
use crate::grpc;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request body is held in memory, and the application must stay small.
const ECHO_BYTES: usize = 1 << 20;

/// A slow answer is never slower.
const SLOWEST: Duration = Duration::from_secs(600);

const GRPC_OK: HeaderValue = HeaderValue::from_static("0");
const GRPC_INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");

const PATHS: &str = "try /, /echo, /slow?ms=N, /events, /ws, /healthz or /ready\n";

pub(super) struct State {
    pub(super) settings: Settings,
    started: Instant,
    draining: watch::Sender<bool>,
    requests: AtomicU64,
    in_flight: AtomicU64,
}

impl State {
    pub(super) fn new(settings: Settings, started: Instant) -> State {
        State {
            settings,
            started,
            draining: watch::Sender::new(false),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Finishes what is in flight.
    pub(super) async fn drain(&self, connections: GracefulShutdown) {
        self.draining.send_replace(true);
        connections.shutdown().await;
        // WebSockets are no longer among the connections; they listen to this.
        self.draining.closed().await;
    }

    fn readiness(&self) -> StatusCode {
        match self.settings.readiness {
            _ if *self.draining.borrow() => StatusCode::SERVICE_UNAVAILABLE,
            Readiness::After(delay) if self.started.elapsed() >= delay => StatusCode::OK,
            Readiness::After(_) | Readiness::Never => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn health(&self) -> StatusCode {
        match self.settings.unhealthy_after {
            Some(after) if self.started.elapsed() >= after => StatusCode::SERVICE_UNAVAILABLE,
            Some(_) | None => StatusCode::OK,
        }
    }
}

pub(super) async fn answer(state: &State, request: Request<Incoming>) -> Response<Body> {
    state.in_flight.fetch_add(1, Ordering::Relaxed);
    let settings = &state.settings;
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => text(StatusCode::OK, greeting(settings, request.uri().query())),
        (&Method::GET, "/healthz") => named(state.health()),
        (&Method::GET, "/ready") => named(state.readiness()),
        (&Method::GET, "/slow") => slow(settings, request.uri().query()).await,
        (&Method::GET, "/events") => events(state),
        (&Method::GET, "/ws") => websocket(state, request),
        (&Method::POST, "/echo") => echo(request).await,
        (&Method::POST, grpc::ECHO) => grpc_echo(request).await,
        (&Method::POST, grpc::HEALTH) => grpc_health(state),
        _ => text(StatusCode::NOT_FOUND, PATHS),
    };
    state.in_flight.fetch_sub(1, Ordering::Relaxed);
    state.requests.fetch_add(1, Ordering::Relaxed);
    sign(&mut response, settings);
    response
}

pub(super) fn metrics(state: &State, request: &Request<Incoming>) -> Response<Body> {
    let mut response = match request.uri().path() {
        "/metrics" => text(StatusCode::OK, counts(state)),
        _ => text(StatusCode::NOT_FOUND, "try /metrics\n"),
    };
    sign(&mut response, &state.settings);
    response
}

fn counts(state: &State) -> String {
    let version = &state.settings.version;
    format!(
        "# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n\
         http_requests_total{{version=\"{version}\"}} {}\n\
         # HELP http_requests_in_flight Requests not yet answered.\n# TYPE http_requests_in_flight gauge\n\
         http_requests_in_flight{{version=\"{version}\"}} {}\n",
        state.requests.load(Ordering::Relaxed),
        state.in_flight.load(Ordering::Relaxed),
    )
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn greeting(settings: &Settings, query: Option<&str>) -> String {
    let nonce = parameter(query, "nonce").unwrap_or_default();
    format!("version {}\npod {}\nnonce {nonce}\n", settings.version, settings.pod)
}

fn named(status: StatusCode) -> Response<Body> {
    text(status, format!("{status}\n"))
}

async fn slow(settings: &Settings, query: Option<&str>) -> Response<Body> {
    let Some(delay) = delay(query) else {
        return text(StatusCode::BAD_REQUEST, "/slow?ms=N wants a number of milliseconds\n");
    };
    sleep(delay).await;
    text(StatusCode::OK, greeting(settings, query))
}

/// Gives the body back, as late as `?ms=N` asks for.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    sleep(delay(request.uri().query()).unwrap_or_default()).await;
    match Limited::new(request.into_body(), ECHO_BYTES).collect().await {
        Ok(body) => text(StatusCode::OK, body.to_bytes()),
        Err(error) => text(StatusCode::PAYLOAD_TOO_LARGE, format!("{error}\n")),
    }
}

/// Gives the message back: one of any type, since it is not looked into.
async fn grpc_echo(request: Request<Incoming>) -> Response<Body> {
    let body = Limited::new(request.into_body(), ECHO_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let status = grpc::message(&body).map_or(GRPC_INVALID_ARGUMENT, |_| GRPC_OK);
    grpc_answer(body, status)
}

/// Whether all of it is well and ready, whatever service is asked for.
fn grpc_health(state: &State) -> Response<Body> {
    const SERVING: u8 = 1;
    const NOT_SERVING: u8 = 2;
    let is_well = [state.health(), state.readiness()].iter().all(StatusCode::is_success);
    let status = if is_well { SERVING } else { NOT_SERVING };
    // `HealthCheckResponse { ServingStatus status = 1; }`
    grpc_answer(grpc::framed(&[0x08, status]), GRPC_OK)
}

fn grpc_answer(body: Bytes, status: HeaderValue) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(grpc::STATUS, status)]);
    let mut response = Response::new(Full::new(body).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
    response
}

fn delay(query: Option<&str>) -> Option<Duration> {
    let millis = parameter(query, "ms")?.parse().ok()?;
    Some(Duration::from_millis(millis).min(SLOWEST))
}

fn parameter<'query>(query: Option<&'query str>, name: &str) -> Option<&'query str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn sign(response: &mut Response<Body>, settings: &Settings) {
    for (name, value) in [("x-app-version", &settings.version), ("x-app-pod", &settings.pod)] {
        let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("unprintable"));
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}
