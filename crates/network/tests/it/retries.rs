//! What happens to requests when a pod breaks off, refuses, or does not accept connections at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use decide::balancing::EndpointState::Ready;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::load::get;
use crate::plane::Plane;

/// A pod that takes requests and closes their connections without an answer; counts them.
async fn breaks_off(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let taken = counted.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            taken.fetch_add(1, Ordering::SeqCst);
        }
    });
    counted
}

/// A pod that refuses every stream of HTTP/2.
async fn refuses_streams(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let refused = counted.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let refused = refused.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    refused.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    counted
}

async fn ask(service: SocketAddr, request: Request<&'static str>) -> (StatusCode, String) {
    let stream = TcpStream::connect(service).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request.map(|body| Full::new(Bytes::from(body)))).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn request(method: Method, headers: &[(&str, &str)]) -> Request<&'static str> {
    let request = Request::builder().method(method).uri("/echo").header("host", "demo");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body("some body").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_be_done_twice_is_repeated_with_its_body() {
    let mut plane = Plane::start().await;
    let broken = breaks_off(plane.pod(2)).await;
    let _app = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Ready), (3, Ready)]).await;
    while broken.load(Ordering::SeqCst) < 3 {
        assert_eq!(ask(plane.service(), request(Method::PUT, &[])).await, (StatusCode::OK, "some body".to_owned()));
    }
    let key = [("idempotency-key", "1")];
    while broken.load(Ordering::SeqCst) < 6 {
        assert_eq!(ask(plane.service(), request(Method::POST, &key)).await, (StatusCode::OK, "some body".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_must_not_be_done_twice_is_not() {
    let mut plane = Plane::start().await;
    let broken = breaks_off(plane.pod(2)).await;
    plane.route(&[(2, Ready)]).await;
    let (status, said) = ask(plane.service(), request(Method::POST, &[])).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(said.contains("was not repeated, since doing it twice could do harm"), "{said}");
    assert_eq!(broken.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_always_breaks_off_does_not_get_a_storm() {
    let mut plane = Plane::start().await;
    let broken = breaks_off(plane.pod(2)).await;
    plane.route(&[(2, Ready)]).await;
    for _ in 0..200 {
        assert_eq!(get(plane.service(), "/").await.0, StatusCode::BAD_GATEWAY);
    }
    let sent = broken.load(Ordering::SeqCst);
    // 20 at first, and one for every fifth that was sent, repeats among them.
    assert!(sent <= 200 + 20 + sent / 5, "{sent} requests for 200: more than the budget");
    assert!(sent >= 200 + 20, "{sent} requests for 200: less than the budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_goes_to_another_pod_whatever_it_asks() {
    let mut plane = Plane::start().await;
    let refused = refuses_streams(plane.pod(2)).await;
    let _app = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Ready), (3, Ready)]).await;
    let stream = TcpStream::connect(plane.service()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    while refused.load(Ordering::SeqCst) < 3 {
        let request = Request::post("http://demo/echo").body(Full::new(Bytes::from("some body"))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "some body");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_accepts_nothing_is_set_aside_until_it_answers_again() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Ready), (3, Ready)]).await;
    for _ in 0..50 {
        assert_eq!(get(plane.service(), "/").await, (StatusCode::OK, "app-3".to_owned()));
    }
    let _back = App::start(plane.pod(2), "app-2");
    let started = Instant::now();
    while get(plane.service(), "/").await.1 != "app-2" {
        assert!(started.elapsed() < Duration::from_secs(60), "it is never used again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pod_is_used_even_when_it_was_set_aside() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Ready)]).await;
    let asked = tokio::spawn(get(plane.service(), "/"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _app = App::start(plane.pod(2), "app-2");
    assert_eq!(asked.await.unwrap(), (StatusCode::OK, "app-2".to_owned()));
}
