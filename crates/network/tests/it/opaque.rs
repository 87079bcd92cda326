//! What isn't HTTP passes byte by byte.

use std::net::SocketAddr;

use decide::balancing::EndpointState::{Ready, Withdrawn};
use network::config::Speaks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::load::{Client, get};
use crate::plane::Plane;

/// Echoes, after a greeting of its own if it has one.
async fn echo(address: SocketAddr, greeting: &'static [u8]) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.write_all(b"!").await
            });
        }
    });
}

async fn read(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_bytes_pass_unchanged_and_each_side_may_end_first() {
    let mut plane = Plane::start().await;
    echo(plane.pod(2), b"").await;
    plane.route(&[(2, Ready)]).await;
    for first in [&b"\x16\x03\x01\x00\xff"[..], b"PING\r\n", b"PRI * HTTP/2.0\r\n\r\nNO\r\n\r\n", b"HELLO"] {
        let mut stream = TcpStream::connect(plane.service()).await.unwrap();
        stream.write_all(first).await.unwrap();
        read(&mut stream, first).await;
        stream.write_all(b"more").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "more!", "the answer to the end of the stream arrives");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first() {
    let mut plane = Plane::start().await;
    echo(plane.pod(2), b"220 ready\r\n").await;
    plane.route(&[(2, Ready)]).await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    read(&mut stream, b"220 ready\r\n").await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    read(&mut stream, b"GET / HTTP/1.1\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_declared_opaque_is_not_looked_into() {
    let mut plane = Plane::start().await;
    echo(plane.pod(2), b"").await;
    plane.route_speaking(Speaks::Opaque, &[(2, Ready)]).await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    read(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_late_is_served_as_http() {
    let mut plane = Plane::start().await;
    let app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    while app.connections() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    plane.route(&[(2, Withdrawn)]).await;
    plane.drained_to(2, 0, 0).await;
    let _other = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("\r\n\r\napp-3"), "a silent connection is no work of the pod: {response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_connections_are_counted_and_stay_when_their_pod_is_withdrawn() {
    let mut plane = Plane::start().await;
    echo(plane.pod(2), b"").await;
    let _other = App::start(plane.pod(3), "app-3");
    plane.route(&[(2, Ready)]).await;
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"\x01").await.unwrap();
    read(&mut stream, b"\x01").await;
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    plane.drained_to(2, 0, 1).await;
    stream.write_all(b"\x02").await.unwrap();
    read(&mut stream, b"\x02").await;
    assert_eq!(get(plane.service(), "/").await.1, "app-3");
    drop(stream);
    plane.drained_to(2, 0, 0).await;
    assert!(Client::connect(plane.service()).await.is_ok());
}
