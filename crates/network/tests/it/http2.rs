//! What HTTP/2, and gRPC over it, looks like through the proxy.

use std::net::SocketAddr;

use bytes::Bytes;
use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::config::Speaks;
use tokio::net::TcpStream;

use crate::app::App;
use crate::load::get;
use crate::plane::Plane;

/// One connection, cheap to clone, over which requests go side by side.
#[derive(Clone)]
struct Client(SendRequest<Full<Bytes>>);

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
    trailers: HeaderMap,
}

impl Client {
    async fn connect(service: SocketAddr) -> Self {
        let stream = TcpStream::connect(service).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn ask(&mut self, method: Method, path: &str, body: &'static str) -> Answer {
        let request = Request::builder().method(method).uri(format!("http://demo{path}")).header("te", "trailers");
        let request =
            if path.starts_with("/grpc") { request.header("content-type", "application/grpc") } else { request };
        let response = self.0.send_request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let (head, body) = Response::into_parts(response);
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, body, trailers }
    }

    async fn get(&mut self, path: &str) -> String {
        self.ask(Method::GET, path, "").await.body
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_side_by_side_over_one_connection_to_the_pod() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let mut client = Client::connect(plane.service()).await;
    assert_eq!(client.get("/version").await, "HTTP/2.0 to app-2");
    assert_eq!(client.ask(Method::POST, "/echo", "some body").await.body, "some body");
    let slow = (0..50).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { client.get("/slow?300").await })
    });
    for answer in futures::future::join_all(slow).await {
        assert_eq!(answer.unwrap(), "app-2");
    }
    assert_eq!(app.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_declares_is_spoken_to_its_pods() {
    for (declared, expected) in [(Speaks::Http1, "HTTP/1.1 to app-2"), (Speaks::Http2, "HTTP/2.0 to app-2")] {
        let mut plane = Plane::start().await;
        let _app = App::start(plane.pod(2), "app-2");
        plane.route_speaking(declared, &[(2, Ready)]).await;
        assert_eq!(Client::connect(plane.service()).await.get("/version").await, expected);
        assert_eq!(get(plane.service(), "/version").await.1, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_and_a_grpc_call_without_a_pod_gets_a_grpc_status() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route_speaking(Speaks::Http2, &[(2, Ready)]).await;
    let mut client = Client::connect(plane.service()).await;
    let answer = client.ask(Method::GET, "/trailers", "").await;
    assert_eq!((answer.body.as_str(), answer.trailers["x-sum"].to_str().unwrap()), ("body", "42"));
    drop(app);
    let answer = client.ask(Method::POST, "/grpc", "").await;
    assert_eq!((answer.status, answer.headers["grpc-status"].to_str().unwrap()), (StatusCode::OK, "14"));
    // It depends on when the pod's end is noticed whether it broke off or did not accept a connection.
    assert!(answer.headers["grpc-message"].to_str().unwrap().contains("pod"), "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_connection_lives_on_while_its_pods_are_replaced() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    let _other = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Ready)]).await;
    let mut client = Client::connect(plane.service()).await;
    assert_eq!(client.get("/").await, "app-2");
    let mut slow = client.clone();
    let slow = tokio::spawn(async move { slow.get("/slow?500").await });
    app.has_begun(2).await;
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    assert_eq!(client.get("/").await, "app-3");
    assert_eq!(slow.await.unwrap(), "app-2", "what was begun is finished by the pod that has it");
    plane.drained_to(2, 0, 0).await;
    app.exit();
    assert_eq!(client.get("/").await, "app-3");
}
