//! Two machines that pass requests on to each other.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use decide::balancing::EndpointState::{Doubtful, Elsewhere as OnAnother, Ready, Withdrawn};
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::config::{Elsewhere, Mesh, ProxyProtocol, Secret, Speaks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::app::App;
use crate::load::{Client, Load, get};
use crate::plane::Plane;

/// Where proxies take connections of other machines.
const MESH_PORT: u16 = 7460;

fn key() -> Secret {
    Secret("key".to_owned())
}

/// The Service as it is on another machine.
pub(crate) fn on(plane: &Plane) -> Elsewhere {
    let proxy = SocketAddr::new(plane.service_ip(), MESH_PORT);
    let from = Ipv4Addr::LOCALHOST.into();
    Elsewhere { machine: format!("m{}", plane.net), proxy, from, key: key(), ready: 2, state: OnAnother }
}

/// Each has the other's pods for its own.
async fn two_machines() -> [Plane; 2] {
    let (mut one, mut other) = (Plane::start().await, Plane::start().await);
    (one.elsewhere, other.elsewhere) = (vec![on(&other)], vec![on(&one)]);
    for plane in [&mut one, &mut other] {
        let at = Some(SocketAddr::new(plane.service_ip(), MESH_PORT));
        plane.config.mesh = Mesh { at, machines: [(Ipv4Addr::LOCALHOST.into(), key())].into() };
    }
    [one, other]
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_answers_while_nothing_is_ready_here() {
    let [mut here, mut there] = two_machines().await;
    let (_here, _there) = (App::start(here.pod(2), "here"), App::start(there.pod(2), "there"));
    there.route(&[(2, Ready)]).await;
    here.route(&[]).await;
    assert_eq!(get(here.service(), "/").await.1, "there");
    here.route(&[(2, Ready)]).await;
    for _ in 0..20 {
        assert_eq!(get(here.service(), "/").await.1, "here");
    }
    // Both alike, and nobody who does not answer while somebody does.
    here.elsewhere[0].state = Ready;
    here.route(&[(2, Ready)]).await;
    let mut answers = Vec::new();
    for _ in 0..60 {
        answers.push(get(here.service(), "/").await.1);
    }
    let there_too = answers.iter().filter(|answer| *answer == "there").count();
    assert!((20..60).contains(&there_too), "two of three pods are there: {there_too} of 60");
    here.elsewhere[0].state = Doubtful;
    here.route(&[(2, Ready)]).await;
    for _ in 0..20 {
        assert_eq!(get(here.service(), "/").await.1, "here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_on_once_is_passed_on_no_more_and_waits_where_it_came_in() {
    let [mut here, mut there] = two_machines().await;
    here.route(&[]).await;
    there.route(&[]).await;
    let app = App::start(there.pod(2), "there");
    let service = here.service();
    let asked = tokio::spawn(async move { post(service, "/", "once").await });
    // Each would send it to the other for ever.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    there.route(&[(2, Ready)]).await;
    assert_eq!(asked.await.unwrap(), "there");
    assert_eq!(app.begun(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_go_there_fail_no_request_here() {
    let [mut here, mut there] = two_machines().await;
    let (_one, _two) = (App::start(there.pod(2), "app-2"), App::start(there.pod(3), "app-3"));
    there.route(&[(2, Ready), (3, Ready)]).await;
    here.route(&[]).await;
    let load = Load::start(here.service());
    for round in 0..6 {
        let pods = if round % 2 == 0 { [(2, Ready), (3, Ready)] } else { [(2, Ready), (4, Ready)] };
        there.route(&pods).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        there.replace_proxy().await;
    }
    // The other machine drains: its pods are withdrawn before this one has heard of it, and one starts here.
    there.route(&[(2, Withdrawn), (3, Withdrawn)]).await;
    let _mine = App::start(here.pod(2), "app-2");
    here.route(&[(2, Ready)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let outcome = load.stop().await;
    assert!(outcome.failed.is_empty() && outcome.answered > 0, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_to_another_machine_and_its_pod_learns_once_whose_they_are() {
    let [mut here, mut there] = two_machines().await;
    let pod = TcpListener::bind(there.pod(2)).await.unwrap();
    (here.proxy_protocol, there.proxy_protocol) = (Some(ProxyProtocol::V1), Some(ProxyProtocol::V1));
    there.route_speaking(Speaks::Opaque, &[(2, Ready)]).await;
    here.route_speaking(Speaks::Opaque, &[]).await;
    let mut client = TcpStream::connect(here.service()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut taken, _) = pod.accept().await.unwrap();
    let mut got = String::new();
    taken.read_to_string(&mut got).await.unwrap();
    let (header, rest) = got.split_once("\r\n").unwrap();
    assert!(header.starts_with("PROXY TCP4 127.0.0.1 127."), "{header}");
    assert_eq!(rest, "hello");
    taken.write_all(b"bye").await.unwrap();
    drop(taken);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pauses_gets_all_of_an_answer_from_another_machine() {
    const LENGTH: usize = 64 << 20;
    let [mut here, mut there] = two_machines().await;
    let pod = TcpListener::bind(there.pod(2)).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = pod.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; LENGTH]).await.unwrap();
    });
    there.route(&[(2, Ready)]).await;
    here.route(&[]).await;
    let mut client = TcpStream::connect(here.service()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n").await.unwrap();
    client.read_exact(&mut [0; 1024]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() + 1024 > LENGTH, "only {} bytes came", rest.len());
}

/// Takes a connection as another machine's proxy does, and reads what is asked first.
async fn taken(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
    stream.write_all(b"+").await.unwrap();
    stream
}

/// Answers half of what is asked for on each of three connections, over HTTP/1.1, HTTP/2 and as bytes, and takes no more, as a
/// machine does that is cut off.
async fn half_an_answer_each(at: SocketAddr) -> Vec<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut kept = Vec::new();
    for half in ["HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf", "", "half"] {
        let mut stream = taken(&listener).await;
        if half.is_empty() {
            tokio::spawn(async move {
                let answer = service_fn(async |_: Request<Incoming>| {
                    let half = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("half")))]);
                    Ok::<_, Infallible>(Response::new(StreamBody::new(half.chain(stream::pending()))))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        } else {
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            stream.write_all(half.as_bytes()).await.unwrap();
            kept.push(stream);
        }
    }
    // Connections that nobody accepts are as good as none once there are enough of them.
    while let Ok(waiting) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(at)).await {
        kept.push(waiting.unwrap());
    }
    std::mem::forget(listener);
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_begun_ends_once_the_other_machine_has_gone() {
    let mut here = Plane::start().await;
    let gone = Plane::start().await;
    here.elsewhere = vec![on(&gone)];
    let proxy = tokio::spawn(half_an_answer_each(SocketAddr::new(gone.service_ip(), MESH_PORT)));
    let mut waiting = Vec::new();
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Opaque] {
        here.route_speaking(speaks, &[]).await;
        let mut client = TcpStream::connect(here.service()).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n").await.unwrap();
        let mut got = Vec::new();
        while !got.windows(4).any(|part| part == b"half") {
            assert_ne!(client.read_buf(&mut got).await.unwrap(), 0);
        }
        waiting.push((speaks, client));
    }
    let _never_ended = proxy.await.unwrap();
    here.elsewhere[0].state = Doubtful;
    here.route_speaking(Speaks::Opaque, &[]).await;
    for (speaks, mut client) in waiting {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{speaks:?}: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_can_not_say_that_its_machine_took_nothing() {
    let [mut here, mut there] = two_machines().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (pod, counted) = (TcpListener::bind(there.pod(2)).await.unwrap(), asked.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = pod.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            counted.fetch_add(1, Ordering::SeqCst);
            let answer =
                b"HTTP/1.1 200 OK\r\nsegue-mesh-not-taken: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    });
    there.route(&[(2, Ready)]).await;
    here.route(&[]).await;
    assert_eq!(post(here.service(), "/", "once").await, "ok");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_not_the_key_or_is_no_machine_of_the_mesh_is_not_let_in() {
    let [_, mut there] = two_machines().await;
    let app = App::start(there.pod(2), "there");
    there.route(&[(2, Ready)]).await;
    let at = SocketAddr::new(there.service_ip(), MESH_PORT);
    let announce = async |key: &str| {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let line = format!("SEGUE/1 {key} production/demo-app {} http1\n", there.service().port());
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = [0];
        stream.read(&mut answer).await.map(|length| answer[..length].to_vec()).unwrap_or_default()
    };
    assert_eq!(announce("key").await, b"+");
    assert_eq!(announce("other").await, b"-");
    // Nor are requests taken that announce nothing.
    assert!(Client::connect(at).await.unwrap().ask(Method::GET, "/", "").await.is_err());
    there.config.mesh.machines.clear();
    there.configure().await;
    // It is reset, and maybe before it is known to be there.
    if let Ok(mut stream) = TcpStream::connect(at).await {
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)));
    }
    assert_eq!(app.begun(), 0);
}

async fn post(service: SocketAddr, path: &str, body: &'static str) -> String {
    Client::connect(service).await.unwrap().ask(Method::POST, path, body).await.unwrap().1
}
