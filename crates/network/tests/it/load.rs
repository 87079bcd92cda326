//! Requests through the Service, at a bounded rate: half over kept-alive connections, half over new ones, GET and
//! POST. Every answer's body is checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
/// 8 clients with a pause of 8 ms make 1,000 requests a second at most.
const PAUSE: Duration = Duration::from_millis(8);

pub(crate) struct Load {
    clients: JoinSet<Outcome>,
    is_over: Arc<AtomicBool>,
}

/// What happened to requests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answered: usize,
    pub(crate) by_app: BTreeMap<String, usize>,
    pub(crate) failed: Vec<String>,
}

impl Load {
    pub(crate) fn start(service: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(number, service, is_over.clone()));
        }
        Self { clients, is_over }
    }

    /// Lets requests in flight end, and tells what happened.
    pub(crate) async fn stop(self) -> Outcome {
        self.is_over.store(true, Ordering::SeqCst);
        let mut all = Outcome::default();
        for outcome in self.clients.join_all().await {
            all.answered += outcome.answered;
            all.failed.extend(outcome.failed);
            for (app, count) in outcome.by_app {
                *all.by_app.entry(app).or_default() += count;
            }
        }
        all
    }
}

async fn client(number: usize, service: SocketAddr, is_over: Arc<AtomicBool>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut kept: Option<Client> = None;
    let mut turn = 0;
    while !is_over.load(Ordering::SeqCst) {
        turn += 1;
        let mut client = match kept.take() {
            Some(client) => client,
            None => match Client::connect(service).await {
                Ok(client) => client,
                Err(error) => {
                    outcome.failed.push(format!("connect: {error}"));
                    continue;
                }
            },
        };
        let asked = match turn % 3 {
            0 => client.ask(Method::POST, "/echo", "some body").await,
            _ => client.ask(Method::GET, "/", "").await,
        };
        match asked {
            Ok((StatusCode::OK, body)) if turn % 3 == 0 && body == "some body" => outcome.answered += 1,
            Ok((StatusCode::OK, body)) if turn % 3 != 0 && body.starts_with("app") => {
                outcome.answered += 1;
                *outcome.by_app.entry(body).or_default() += 1;
            }
            Ok(other) => outcome.failed.push(format!("turn {turn}: {other:?}")),
            Err(error) => {
                outcome.failed.push(format!("client {number} turn {turn}: {error}"));
                continue;
            }
        }
        kept = Some(client).filter(|client| number.is_multiple_of(2) && !client.is_over);
        tokio::time::sleep(PAUSE).await;
    }
    outcome
}

/// A connection to the Service.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    /// Whether the last answer said that it is the last.
    is_over: bool,
}

impl Client {
    pub(crate) async fn connect(service: SocketAddr) -> std::io::Result<Self> {
        Self::over(TcpStream::connect(service).await?).await
    }

    pub(crate) async fn over(stream: TcpStream) -> std::io::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender, is_over: false })
    }

    pub(crate) async fn get(&mut self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, "").await.unwrap()
    }

    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Result<(StatusCode, String), hyper::Error> {
        self.sender.ready().await?;
        let request = Request::builder().method(method).uri(path).header("host", "demo");
        let response = self.sender.send_request(request.body(Full::from(body)).unwrap()).await?;
        let status = response.status();
        self.is_over = response.headers().get(CONNECTION).is_some_and(|said| said == "close");
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.to_vec()).unwrap()))
    }
}

/// One GET over a connection of its own.
pub(crate) async fn get(service: SocketAddr, path: &str) -> (StatusCode, String) {
    Client::connect(service).await.unwrap().get(path).await
}
