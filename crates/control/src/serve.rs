//! The API's two entrances: TLS connections from outside, and calls from within the engine.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderName, ORIGIN};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use objects::status::Failure;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::apiserver::{ApiServer, Body, Caller, failure};
use crate::audit::AuditLog;
use crate::in_flight::{InFlight, Place};

/// The largest body that is read: Kubernetes' own limit for a request.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

const HTTP2: &[u8] = b"h2";

/// By which browsers say where a request comes from (Fetch Metadata Request Headers, W3C).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// Connections from outside at a time; the rest of the descriptors is for everything else that the engine does.
const CONNECTIONS: usize = 4_096;

/// How long a connection may go without a request of somebody who is known.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(20);

/// An idle connection is asked so often whether there still is somebody.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a client may take for its TLS handshake or its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Says who connects, where that is known of the connection and not of what a caller shows.
pub trait Callers: Send + Sync + 'static {
    /// User and groups of whoever is at an address; None for nobody.
    fn who(&self, client: SocketAddr) -> BoxFuture<'_, Option<(String, Vec<String>)>>;
}

/// How callers are known.
#[derive(Clone)]
pub enum Known {
    /// By a client certificate or a token.
    ByWhatTheyShow,
    /// By their address alone, anew for each request.
    ByAddress(Arc<dyn Callers>),
}

/// Serves TLS connections until the future is dropped.
pub async fn serve(
    api: ApiServer,
    listener: TcpListener,
    tls: ServerConfig,
    audit: Option<Arc<AuditLog>>,
    known: Known,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let in_flight = InFlight::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Whoever comes when there are too many waits in the kernel.
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, client)) => {
                let (api, audit, in_flight) = (api.clone(), audit.clone(), in_flight.clone());
                let entrance = Entrance { api, audit, in_flight, client, known: known.clone() };
                let serving = serve_connection(entrance, acceptor.clone(), connection);
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: connections that end give some back.
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection to the API");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Where a client's requests come in.
#[derive(Clone)]
struct Entrance {
    api: ApiServer,
    audit: Option<Arc<AuditLog>>,
    in_flight: InFlight,
    client: SocketAddr,
    known: Known,
}

async fn serve_connection(entrance: Entrance, acceptor: TlsAcceptor, connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let stream = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(connection)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::trace!(%error, "a TLS handshake with the API failed"),
        Err(_) => return tracing::trace!("a TLS handshake with the API took too long"),
    };
    // Otherwise the protocol would be found out from the first bytes, for which nobody has to hurry.
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    let shown =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| of_certificate(leaf));
    let is_known = Arc::new(AtomicBool::new(false));
    let came_to_be_known = Arc::clone(&is_known);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (entrance, shown, is_known) = (entrance.clone(), shown.clone(), Arc::clone(&came_to_be_known));
        async move {
            let caller = entrance.caller(shown, request.headers()).await;
            if matches!(caller, Caller::Known { .. }) {
                is_known.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(entrance.answer_whole(caller, request).await)
        }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let mut server = if is_http2 { server.http2_only() } else { server.http1_only() };
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL);
    let mut serving = pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // Places are few: whoever has not asked anything as somebody by then is hung up on.
    let ended = match tokio::time::timeout(STRANGER_TIMEOUT, &mut serving).await {
        Ok(ended) => ended,
        Err(_) if is_known.load(Ordering::Relaxed) => serving.await,
        Err(_) => return tracing::trace!("a stranger's connection to the API was closed"),
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection to the API ended");
    }
}

impl Entrance {
    async fn caller(&self, shown: Option<Caller>, headers: &HeaderMap) -> Caller {
        match &self.known {
            // A page in somebody's browser calls from that address too.
            Known::ByAddress(_) if is_from_a_page(headers) => Caller::Refused,
            Known::ByAddress(callers) => match callers.who(self.client).await {
                Some((user, groups)) => Caller::Known { user, groups },
                None => Caller::Refused,
            },
            Known::ByWhatTheyShow => shown.unwrap_or_else(|| of_token(headers, &self.api)),
        }
    }

    /// What changes something goes on when its client hangs up: it is done and written down, or neither.
    async fn answer_whole(self, caller: Caller, request: Request<hyper::body::Incoming>) -> Response<Body> {
        if request.method().is_safe() {
            return self.answer(&caller, request).await;
        }
        match tokio::spawn(async move { self.answer(&caller, request).await }).await {
            Ok(answered) => answered,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn answer(&self, caller: &Caller, request: Request<hyper::body::Incoming>) -> Response<Body> {
        let noted = self.audit.as_ref().and_then(|audit| audit.note(&request, caller, self.client));
        let answered = match self.in_flight.admit(&request) {
            // It is held until the answer is sent.
            Ok(place) => answer(&self.api, caller, request).await.map(|body| held(body, place)),
            Err(refused) => failure(&refused),
        };
        if let (Some(audit), Some(noted)) = (&self.audit, noted) {
            audit.write(noted, answered.status());
        }
        answered
    }
}

/// Whether a browser asks for a page that it shows; programs say neither.
fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "none")
}

/// Who a verified client certificate says the caller is.
fn of_certificate(certificate: &[u8]) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    Some(Caller::Known { user, groups })
}

fn of_token(headers: &HeaderMap, api: &ApiServer) -> Caller {
    let Some(authorization) = headers.get(AUTHORIZATION) else { return Caller::Anonymous };
    let (scheme, token) = authorization.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    let token = Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"));
    token.and_then(|token| api.caller_of(token)).unwrap_or(Caller::Refused)
}

fn held(body: Body, place: Place) -> Body {
    body.map_err(move |error| {
        let _held = &place;
        error
    })
    .boxed_unsync()
}

async fn answer<B>(api: &ApiServer, caller: &Caller, request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    if let Err(refused) = api.check_stranger(caller, &head.method, &head.uri) {
        return failure(&refused);
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect());
    let Ok(read) = read.await else {
        let sentence = format!("the body of the request did not come within {} s", BODY_TIMEOUT.as_secs());
        return failure(&Failure::timeout(sentence, 0));
    };
    match read {
        Ok(body) => api.answer(caller, Request::from_parts(head, body.to_bytes())).await,
        Err(error) if error.is::<LengthLimitError>() => failure(&Failure::request_entity_too_large(BODY_BYTES_MAX)),
        Err(error) => failure(&Failure::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// A client of this API within the process, with the engine's own rights.
#[must_use]
pub fn client(api: &ApiServer) -> kube::Client {
    kube::Client::new(InProcess { api: api.clone() }, "default")
}

#[derive(Clone)]
struct InProcess {
    api: ApiServer,
}

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let api = self.api.clone();
        Box::pin(async move { Ok(answer(&api, &Caller::engine(), request).await) })
    }
}
