//! What the application says to each request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep};

use super::settings::{Readiness, Settings};

/// A request body is held in memory, and the application must stay small.
const ECHO_BYTES: usize = 1 << 20;

/// A slow answer is never slower.
const SLOWEST: Duration = Duration::from_secs(600);

pub(super) struct State {
    pub(super) settings: Settings,
    started: Instant,
    draining: AtomicBool,
    requests: AtomicU64,
    in_flight: AtomicU64,
}

impl State {
    pub(super) fn new(settings: Settings, started: Instant) -> State {
        State {
            settings,
            started,
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn readiness(&self) -> StatusCode {
        match self.settings.readiness {
            _ if self.draining.load(Ordering::Relaxed) => StatusCode::SERVICE_UNAVAILABLE,
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

pub(super) async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    state.in_flight.fetch_add(1, Ordering::Relaxed);
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => (StatusCode::OK, greeting(&state.settings, request.uri().query())),
        (&Method::GET, "/healthz") => named(state.health()),
        (&Method::GET, "/ready") => named(state.readiness()),
        (&Method::GET, "/slow") => slow(&state.settings, request.uri().query()).await,
        (&Method::POST, "/echo") => echo(request).await,
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"try /, /echo, /slow?ms=N, /healthz or /ready\n")),
    };
    state.in_flight.fetch_sub(1, Ordering::Relaxed);
    state.requests.fetch_add(1, Ordering::Relaxed);
    signed(&state.settings, status, body)
}

pub(super) fn metrics(state: &State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return signed(&state.settings, StatusCode::NOT_FOUND, Bytes::from_static(b"try /metrics\n"));
    }
    let version = &state.settings.version;
    let text = format!(
        "# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n\
         http_requests_total{{version=\"{version}\"}} {}\n\
         # HELP http_requests_in_flight Requests not yet answered.\n# TYPE http_requests_in_flight gauge\n\
         http_requests_in_flight{{version=\"{version}\"}} {}\n",
        state.requests.load(Ordering::Relaxed),
        state.in_flight.load(Ordering::Relaxed),
    );
    signed(&state.settings, StatusCode::OK, Bytes::from(text))
}

fn greeting(settings: &Settings, query: Option<&str>) -> Bytes {
    let nonce = parameter(query, "nonce").unwrap_or_default();
    Bytes::from(format!("version {}\npod {}\nnonce {nonce}\n", settings.version, settings.pod))
}

fn named(status: StatusCode) -> (StatusCode, Bytes) {
    (status, Bytes::from(format!("{status}\n")))
}

async fn slow(settings: &Settings, query: Option<&str>) -> (StatusCode, Bytes) {
    let millis = parameter(query, "ms").and_then(|millis| millis.parse().ok());
    let Some(millis) = millis else {
        return (StatusCode::BAD_REQUEST, Bytes::from_static(b"/slow?ms=N wants a number of milliseconds\n"));
    };
    sleep(Duration::from_millis(millis).min(SLOWEST)).await;
    (StatusCode::OK, greeting(settings, query))
}

async fn echo(request: Request<Incoming>) -> (StatusCode, Bytes) {
    match Limited::new(request.into_body(), ECHO_BYTES).collect().await {
        Ok(body) => (StatusCode::OK, body.to_bytes()),
        Err(error) => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::from(format!("{error}\n"))),
    }
}

fn parameter<'query>(query: Option<&'query str>, name: &str) -> Option<&'query str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn signed(settings: &Settings, status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    for (name, value) in [("x-app-version", &settings.version), ("x-app-pod", &settings.pod)] {
        let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("unprintable"));
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}
