//! What HTTP/1.1 looks like through the proxy.

use std::sync::atomic::Ordering;
use std::time::Duration;

use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{App, SENT};
use crate::load::Client;
use crate::plane::Plane;

async fn plane_with_an_app() -> (Plane, App) {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    (plane, app)
}

/// Sends bytes as they are and reads until the other side closes.
async fn raw(plane: &Plane, request: &str) -> String {
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_over_new_and_kept_connections() {
    let (plane, app) = plane_with_an_app().await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    for _ in 0..10 {
        let answer = client.ask(Method::POST, "/echo", "some body").await.unwrap();
        assert_eq!(answer, (StatusCode::OK, "some body".to_owned()));
    }
    assert_eq!(app.connections(), 1, "the connection to the pod is kept too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_takes_no_connection_that_was_idle_for_long() {
    let (plane, app) = plane_with_an_app().await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    client.get("/").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.get("/").await;
    assert_eq!(app.connections(), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.ask(Method::POST, "/echo", "some body").await.unwrap();
    assert_eq!(app.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_learns_who_asks_and_nothing_of_the_clients_connection() {
    let (plane, _app) = plane_with_an_app().await;
    let response = raw(
        &plane,
        "GET /head?a=b HTTP/1.1\r\nHost: demo.example\r\nConnection: close, X-Private\r\nX-Private: 1\r\n\
         X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Other: 2\r\n\r\n",
    )
    .await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let mut lines: Vec<_> = body.lines().collect();
    lines.sort_unstable();
    let expected = [
        "GET /head?a=b",
        "forwarded: for=127.0.0.1;proto=http",
        "host: demo.example",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-other: 2",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_closes_its_connection_does_not_close_the_clients() {
    let (plane, app) = plane_with_an_app().await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.get("/close").await.1, "app-2");
    }
    assert_eq!(app.connections(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_is_served() {
    let (plane, _app) = plane_with_an_app().await;
    let response = raw(&plane, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\napp-2"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_head_keeps_its_length_and_has_no_body() {
    let (plane, _app) = plane_with_an_app().await;
    let response = raw(&plane, "HEAD / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await;
    assert!(response.contains("content-length: 5\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass() {
    let (plane, _app) = plane_with_an_app().await;
    let response =
        raw(&plane, "GET /trailers HTTP/1.1\r\nHost: demo\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n").await;
    assert!(response.contains("\r\n4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_is_told_to() {
    let (plane, _app) = plane_with_an_app().await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    let head =
        "POST /echo HTTP/1.1\r\nHost: demo\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("\r\n\r\nbody"), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_requests_pass() {
    let (plane, _app) = plane_with_an_app().await;
    for method in ["POST", "GET"] {
        let response = raw(
            &plane,
            &format!(
                "{method} /echo HTTP/1.1\r\nHost: demo\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                 4\r\nsome\r\n5\r\n body\r\n0\r\n\r\n"
            ),
        )
        .await;
        assert!(response.ends_with("\r\n\r\nsome body"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_lengths_a_pod_sees_only_the_one_that_was_followed() {
    let (plane, app) = plane_with_an_app().await;
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled";
    let response = raw(&plane, &format!("POST /head HTTP/1.1\r\nHost: demo\r\n{both}")).await;
    assert!(response.contains("transfer-encoding: chunked\n"), "{response}");
    assert!(!response.contains("content-length: 4"), "{response}");
    assert_eq!(app.begun(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_joined_and_outlives_a_withdrawal() {
    let (mut plane, _app) = plane_with_an_app().await;
    let _other = App::start(plane.pod(3), "app-3");
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    let head = "GET /upgrade HTTP/1.1\r\nHost: demo\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 ") && response.contains("upgrade: echo"), "{response}");
    exchange(&mut stream, b"hello").await;

    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, 1).await;
    exchange(&mut stream, b"still here").await;
    drop(stream);
    plane.drained_to(2, 0, 0).await;
}

async fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_the_pod_back() {
    let (mut plane, _app) = plane_with_an_app().await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: demo\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    // Once nothing more is taken, the pod has sent what fits into the buffers on the way.
    let mut last = usize::MAX;
    while SENT.load(Ordering::SeqCst) != last {
        last = SENT.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(last > 0 && last < 64 << 20, "{last} bytes went nowhere");
    drop(stream);
    plane.route(&[(2, Withdrawn)]).await;
    plane.drained_to(2, 0, 0).await;
}
