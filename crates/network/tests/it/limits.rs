//! Clients that mean no good, or know no better.

use std::time::Duration;

use decide::balancing::EndpointState::Ready;
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app::App;
use crate::load::get;
use crate::plane::Plane;

/// Longer than anything but a hang takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A plane with one pod.
async fn plane() -> (Plane, App) {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    (plane, app)
}

async fn is_served(plane: &Plane) {
    assert_eq!(get(plane.service(), "/").await, (StatusCode::OK, "app-2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let (plane, app) = plane().await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n").await.unwrap();
    let line = [b"x-line: ".as_slice(), &[b'a'; 8000], b"\r\n"].concat();
    for _ in 0..100 {
        if stream.write_all(&line).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(app.begun(), 0, "no pod saw it");
    is_served(&plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_http2_without_end_are_refused() {
    let (plane, app) = plane().await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    // `:method: GET`, and no end of headers.
    stream.write_all(&frame(1, 0, 1, &[0x82])).await.unwrap();
    // A literal header without indexing: name `a`, and a value of 100 bytes.
    let header = [&[0x00, 0x01, b'a', 100][..], &[b'v'; 100]].concat();
    let block = header.repeat(150);
    for _ in 0..2000 {
        if stream.write_all(&frame(9, 0, 1, &block)).await.is_err() {
            break;
        }
    }
    let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the connection ends");
    assert_eq!(app.begun(), 0, "no pod saw it");
    is_served(&plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_as_fast_as_they_are_opened_do_no_harm() {
    let (plane, app) = plane().await;
    let stream = TcpStream::connect(plane.service()).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..20_000 {
        let Ok(mut ready) = sender.ready().await else { break };
        let Ok((_, mut request)) = ready.send_request(Request::get("http://demo/").body(()).unwrap(), false) else {
            break;
        };
        request.send_reset(h2::Reason::CANCEL);
        sender = ready;
    }
    is_served(&plane).await;
    assert!(app.begun() < 20_000, "{} requests reached the pod", app.begun());
    connection.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_two_meanings_are_refused() {
    let (plane, app) = plane().await;
    for head in [
        "POST / HTTP/1.1\r\nhost: demo\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nhost: demo\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: demo\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: demo\r\nbad header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: demo\r\nx: a\0b\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(plane.service()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer, or an end").unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
    }
    assert_eq!(app.begun(), 0, "no pod saw any of them");
    is_served(&plane).await;
}

/// What a POST of a body gets, cut into chunks if it is not to tell its length.
async fn upload(plane: &Plane, bytes: usize, is_chunked: bool) -> String {
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    let length = if is_chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {bytes}") };
    let head = format!("POST /echo HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n{length}\r\n\r\n");
    let body = if is_chunked { format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes)) } else { "x".repeat(bytes) };
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("the connection ends").unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_longer_than_the_service_takes_is_refused() {
    let (mut plane, app) = plane().await;
    plane.max_request_body = Some(1000);
    plane.route(&[(2, Ready)]).await;
    for is_chunked in [false, true] {
        let answer = upload(&plane, 1000, is_chunked).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(&"x".repeat(1000)), "{answer}");
        let answer = upload(&plane, 1001, is_chunked).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("segue.dev/max-request-body"), "{answer}");
    }
    assert!(app.begun() <= 3, "what tells its length is refused before a pod sees it");
    is_served(&plane).await;
}
