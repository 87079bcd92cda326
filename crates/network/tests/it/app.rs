//! An app to be reached through the proxy. It can end as abruptly as a process that exits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

type Body = BoxBody<Bytes, Infallible>;

pub(crate) struct App {
    runtime: Option<Runtime>,
    pub(crate) counts: Arc<Counts>,
}

#[derive(Default)]
pub(crate) struct Counts {
    /// Requests whose head arrived.
    pub(crate) begun: AtomicUsize,
    pub(crate) connections: AtomicUsize,
}

impl App {
    /// An app that answers with `name`.
    pub(crate) fn start(address: SocketAddr, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let counts = Arc::new(Counts::default());
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (name, counted) = (Arc::from(name), counts.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, name, counted).await;
        });
        Self { runtime: Some(runtime), counts }
    }

    pub(crate) fn begun(&self) -> usize {
        self.counts.begun.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have arrived.
    pub(crate) async fn has_begun(&self, requests: usize) {
        while self.begun() < requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Ends at once: every socket is closed, whatever is going on.
    pub(crate) fn exit(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(listener: TcpListener, name: Arc<str>, counts: Arc<Counts>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let (name, counts) = (name.clone(), counts.clone());
        let service = service_fn(move |request| {
            let (name, counts) = (name.clone(), counts.clone());
            async move {
                counts.begun.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(answer(&name, request).await)
            }
        });
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(name: &str, mut request: Request<Incoming>) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return connect(request);
    }
    match request.uri().path() {
        "/slow" => {
            let milliseconds = request.uri().query().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            text(name)
        }
        "/echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(full(body.to_bytes())),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        "/head" => text(&format!("{} {}\n{}", request.method(), request.uri(), written(request.headers()))),
        "/version" => text(&format!("{:?} to {name}", request.version())),
        "/trailers" => trailers(),
        "/endless" => endless(),
        "/events" => events("text/event-stream", |event| event.into()),
        "/calls" => events("application/grpc", |event| [&[0, 0, 0, 0, event.len() as u8], event.as_bytes()].concat()),
        "/close" => {
            let mut response = text(name);
            response.headers_mut().insert("connection", HeaderValue::from_static("close"));
            response
        }
        "/upgrade" => {
            let protocol = request.headers()["upgrade"].clone();
            echo(hyper::upgrade::on(&mut request));
            let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", protocol);
            response
        }
        _ => text(name),
    }
}

/// Leads to an echo, if that is where the client wants to go.
fn connect(mut request: Request<Incoming>) -> Response<Body> {
    let (target, host) = (request.uri().to_string(), request.headers().get("host").cloned());
    if target != "echo:7" || host.is_some_and(|host| host != "echo:7") {
        return status(StatusCode::FORBIDDEN);
    }
    echo(hyper::upgrade::on(&mut request));
    status(StatusCode::OK)
}

fn echo(upgrade: OnUpgrade) {
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    });
}

fn written(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect()
}

fn trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = stream::iter([Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)]).map(Ok);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    response
}

/// As much as the other side takes.
fn endless() -> Response<Body> {
    let chunks = stream::repeat_with(|| Ok(Frame::data(Bytes::from(vec![b'x'; 64 << 10]))));
    Response::new(BodyExt::boxed(StreamBody::new(chunks.map(|chunk: Result<_, Infallible>| {
        SENT.fetch_add(64 << 10, Ordering::SeqCst);
        chunk
    }))))
}

/// A numbered event every ten milliseconds, for ever.
fn events(kind: &'static str, written: fn(String) -> Vec<u8>) -> Response<Body> {
    let events = stream::unfold(0, move |number| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Some((Ok(Frame::data(Bytes::from(written(format!("data: {number}\n\n"))))), number + 1))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(events)));
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}

/// Bytes of endless answers that were taken.
pub(crate) static SENT: AtomicUsize = AtomicUsize::new(0);

fn text(text: &str) -> Response<Body> {
    Response::new(full(Bytes::from(text.to_owned())))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}
