//! Connections whose end nobody can predict: they stay with a pod that goes away until they are told to end, and then
//! end in a way that clients understand.

use bytes::Bytes;
use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::config::Speaks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::App;
use crate::plane::{Plane, uid};

const STREAMS: u32 = 20;

async fn two_apps() -> (Plane, App, App) {
    let mut plane = Plane::start().await;
    let apps = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready)]).await;
    (plane, apps.0, apps.1)
}

/// The body of an endless answer, over HTTP/1.1.
async fn stream(plane: &Plane, path: &str) -> Incoming {
    let stream = TcpStream::connect(plane.service()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "demo").body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap().into_body()
}

/// Reads an event, and fails unless it is the one with this number. None at an end in order.
async fn event(body: &mut Incoming, number: u32) -> Option<()> {
    let frame = body.frame().await?.unwrap();
    assert!(frame.data_ref().unwrap().ends_with(format!("data: {number}\n\n").as_bytes()));
    Some(())
}

async fn open_websocket(plane: &Plane) -> TcpStream {
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    let head = "GET /upgrade HTTP/1.1\r\nHost: demo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&response));
    stream
}

/// A text frame of two bytes as a client sends it, which the app sends back as it is.
async fn echo_a_frame(stream: &mut TcpStream, text: [u8; 2]) {
    let frame = [&[0x81, 0x82, 0, 0, 0, 0], &text[..]].concat();
    stream.write_all(&frame).await.unwrap();
    let mut echoed = vec![0; frame.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, frame);
}

async fn end_long(plane: &mut Plane) {
    plane.config.end_long = [uid(2)].into();
    plane.configure().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_stay_in_order_over_a_withdrawal_and_end_when_told() {
    let (mut plane, _old, _new) = two_apps().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(stream(&plane, "/events").await);
    }
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, STREAMS).await;
    let reads = streams.into_iter().map(|mut body| {
        tokio::spawn(async move {
            for number in 0..100 {
                event(&mut body, number).await.expect("nobody has told it to end");
            }
            (100.., body)
        })
    });
    let read = futures::future::join_all(reads).await;
    end_long(&mut plane).await;
    for read in read {
        let (numbers, mut body) = read.unwrap();
        for number in numbers {
            if event(&mut body, number).await.is_none() {
                break;
            }
        }
    }
    plane.drained_to(2, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_frames_over_a_withdrawal_and_end_with_service_restart() {
    let (mut plane, _old, _new) = two_apps().await;
    let mut sockets = Vec::new();
    for _ in 0..STREAMS {
        let mut socket = open_websocket(&plane).await;
        echo_a_frame(&mut socket, *b"hi").await;
        sockets.push(socket);
    }
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, STREAMS).await;
    for socket in &mut sockets {
        echo_a_frame(socket, *b"ho").await;
    }
    end_long(&mut plane).await;
    for socket in &mut sockets {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4], "a close frame with 1012 and nothing else");
    }
    drop(sockets);
    plane.drained_to(2, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_end_when_told() {
    let (mut plane, old, _new) = two_apps().await;
    plane.route_speaking(Speaks::Opaque, &[(2, Ready)]).await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"GET /slow?60000 HTTP/1.1\r\nHost: demo\r\n\r\n").await.unwrap();
    old.has_begun(1).await;
    plane.route_speaking(Speaks::Opaque, &[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, 1).await;
    end_long(&mut plane).await;
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    plane.drained_to(2, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_grpc_call_counts_as_long_and_ends_as_unavailable() {
    let (mut plane, _old, _new) = two_apps().await;
    let stream = TcpStream::connect(plane.service()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://demo/calls").header("te", "trailers").body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    for number in 0..10 {
        event(&mut body, number).await.unwrap();
    }
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, 1).await;
    end_long(&mut plane).await;
    let trailers: HeaderMap = loop {
        if let Ok(trailers) = body.frame().await.expect("trailers end it").unwrap().into_trailers() {
            break trailers;
        }
    };
    assert_eq!(trailers["grpc-status"], "14");
    plane.drained_to(2, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_yet_is_no_work_for_anybody() {
    for declared in [Speaks::FindOut, Speaks::Http1, Speaks::Http2] {
        let (mut plane, old, _new) = two_apps().await;
        plane.route_speaking(declared, &[(2, Ready)]).await;
        let mut early = TcpStream::connect(plane.service()).await.unwrap();
        drop(TcpStream::connect(plane.service()).await.unwrap());
        plane.route_speaking(declared, &[(2, Withdrawn), (3, Ready)]).await;
        plane.drained_to(2, 0, 0).await;
        old.exit();
        early.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        early.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("app-3"), "{declared:?}: {answer}");
    }
}
