//! What CONNECT makes of a connection, whichever version of HTTP the client and the pod speak.

use bytes::Bytes;
use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::config::Speaks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::App;
use crate::plane::{Plane, uid};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Http1,
    Http2,
}

async fn ask_for_a_tunnel(plane: &Plane, client: Client, target: &str) -> Response<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(plane.service()).await.unwrap());
    let request = Request::builder().method(Method::CONNECT).uri(target);
    match client {
        Client::Http1 => {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection.with_upgrades());
            sender.send_request(request.header("host", target).body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
        }
        Client::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_passes_bytes_until_it_is_told_to_end() {
    for (client, speaks) in [
        (Client::Http1, Speaks::FindOut),
        (Client::Http1, Speaks::Http1),
        (Client::Http1, Speaks::Http2),
        (Client::Http2, Speaks::Http1),
        (Client::Http2, Speaks::Http2),
    ] {
        let mut plane = Plane::start().await;
        let _apps = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
        plane.route_speaking(speaks, &[(2, Ready)]).await;
        let response = ask_for_a_tunnel(&plane, client, "echo:7").await;
        assert_eq!(response.status(), StatusCode::OK, "{client:?} through {speaks:?}");
        let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        plane.route_speaking(speaks, &[(2, Withdrawn), (3, Ready)]).await;
        plane.drained_to(2, 0, 1).await;
        for _ in 0..3 {
            tunnel.write_all(b"as it is").await.unwrap();
            let mut echoed = [0; 8];
            tunnel.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed, b"as it is", "{client:?} through {speaks:?}");
        }
        plane.config.end_long = [uid(2)].into();
        plane.configure().await;
        plane.drained_to(2, 0, 0).await;
        assert!(tunnel.read_to_end(&mut Vec::new()).await.is_ok_and(|rest| rest == 0), "{client:?} through {speaks:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_the_pods_to_refuse() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    for speaks in [Speaks::Http1, Speaks::Http2] {
        plane.route_speaking(speaks, &[(2, Ready)]).await;
        for client in [Client::Http1, Client::Http2] {
            let response = ask_for_a_tunnel(&plane, client, "elsewhere:7").await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{client:?} through {speaks:?}");
        }
    }
}
