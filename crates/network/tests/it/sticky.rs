//! Clients that come back to the same pod, and pods that learn whom a connection comes from.

use std::net::SocketAddr;

use bytes::Bytes;
use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::Request;
use http::header::{COOKIE, SET_COOKIE};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use network::config::ProxyProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::plane::Plane;

/// Who answers a client with this cookie, and the cookie that it is given.
async fn ask(service: SocketAddr, cookie: &str) -> (String, Option<String>) {
    let stream = TcpStream::connect(service).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "demo").header(COOKIE, cookie);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let given = response.headers().get(SET_COOKIE).map(|line| line.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let pair = given.map(|line| line.split(';').next().unwrap().to_owned());
    (String::from_utf8(body.to_vec()).unwrap(), pair)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_brings_a_client_back_until_its_pod_is_withdrawn() {
    let mut plane = Plane::start().await;
    let _apps = [2, 3, 4].map(|number| App::start(plane.pod(number), &format!("app-{number}")));
    plane.sticky_cookie = Some("stick".to_owned());
    plane.route(&[(2, Ready), (3, Ready), (4, Ready)]).await;
    let (first, given) = ask(plane.service(), "other=1").await;
    let cookie = given.expect("a cookie");
    for _ in 0..20 {
        let back = ask(plane.service(), &format!("other=1; {cookie}")).await;
        assert_eq!(back, (first.clone(), None), "no new cookie, and the same pod");
    }
    let states = [2, 3, 4].map(|number| (number, if first == format!("app-{number}") { Withdrawn } else { Ready }));
    plane.route(&states).await;
    let (second, given) = ask(plane.service(), &cookie).await;
    assert_ne!(first, second);
    let cookie = given.expect("a new cookie");
    for _ in 0..20 {
        assert_eq!(ask(plane.service(), &cookie).await, (second.clone(), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_wants_it_learns_whom_a_connection_comes_from() {
    for (version, expected) in
        [(ProxyProtocol::V1, &b"PROXY TCP4 "[..]), (ProxyProtocol::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11")]
    {
        let mut plane = Plane::start().await;
        let pod = TcpListener::bind(plane.pod(2)).await.unwrap();
        plane.proxy_protocol = Some(version);
        plane.route_speaking(network::config::Speaks::Opaque, &[(2, Ready)]).await;
        let mut client = TcpStream::connect(plane.service()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut taken, _) = pod.accept().await.unwrap();
        let mut read = Vec::new();
        taken.read_to_end(&mut read).await.unwrap();
        assert!(read.starts_with(expected) && read.ends_with(b"hello"), "{:?}", String::from_utf8_lossy(&read));
        if version == ProxyProtocol::V1 {
            let (from, to) = (client.local_addr().unwrap(), plane.service());
            let line = format!("PROXY TCP4 {} {} {} {}\r\nhello", from.ip(), to.ip(), from.port(), to.port());
            assert_eq!(String::from_utf8_lossy(&read), line);
        }
    }
}
