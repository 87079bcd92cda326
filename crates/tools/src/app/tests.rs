use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::streams;

fn settings(arguments: &[&str]) -> Settings {
    let arguments = ["VERSION=v7", "POD_NAME=app-1"].iter().chain(arguments);
    Settings::parse([], arguments.map(|argument| (*argument).to_owned())).unwrap()
}

/// The whole answer to one request, from an application with these settings.
async fn asked(arguments: &[&str], request: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(State::new(settings(arguments), Instant::now()));
    let serving = tokio::spawn(async move {
        let mut connections = GracefulShutdown::new();
        let sigterm = signal(SignalKind::terminate()).unwrap();
        serve_until_over(&listener, &state, &mut connections, sigterm).await
    });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request}\r\nhost: app\r\nconnection: close\r\n");
    let (head, body) = request.split_once("\n\n").unwrap_or((&request, ""));
    let length = body.len();
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serving.abort();
    answer
}

#[tokio::test]
async fn every_answer_says_which_version_and_pod_gave_it() {
    let answer = asked(&[], "GET /?nonce=42 HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-app-version: v7\r\n") && answer.contains("x-app-pod: app-1\r\n"), "{answer}");
    assert!(answer.ends_with("version v7\npod app-1\nnonce 42\n"), "{answer}");
}

#[tokio::test]
async fn readiness_and_health_follow_the_settings() {
    let cases = [
        (&[][..], "/ready", "200"),
        (&["NEVER_READY=1"][..], "/ready", "503"),
        (&["READY_AFTER_MS=600000"][..], "/ready", "503"),
        (&["NEVER_READY=1"][..], "/healthz", "200"),
        (&["UNHEALTHY_AFTER_MS=0"][..], "/healthz", "503"),
        (&[][..], "/nowhere", "404"),
        (&[][..], "/slow?ms=1", "200"),
        (&[][..], "/slow", "400"),
        (&[][..], "/ws", "400"),
    ];
    for (arguments, path, status) in cases {
        let answer = asked(arguments, &format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{arguments:?} {path}: {answer}");
    }
}

#[tokio::test]
async fn a_crash_ends_with_exit_code_1() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let state = Arc::new(State::new(settings(&["CRASH_AFTER_MS=1"]), Instant::now()));
    let sigterm = signal(SignalKind::terminate()).unwrap();
    let code = serve_until_over(&listener, &state, &mut GracefulShutdown::new(), sigterm).await;
    assert_eq!(code, ExitCode::FAILURE);
}

/// An application that drains when it is told to, its address, and its end.
async fn serving() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let state = Arc::new(State::new(settings(&[]), Instant::now()));
    let (end, ended) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let mut connections = GracefulShutdown::new();
        let sigterm = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            _ = serve_until_over(&listener, &state, &mut connections, sigterm) => unreachable!("nothing ends it"),
            _ = ended => {}
        }
        state.drain(connections).await;
    });
    (target, end, serving)
}

#[tokio::test]
async fn the_load_client_finds_every_answer_right() {
    let (target, _end, _) = serving().await;
    let running = crate::load::start(crate::load::Plan::against(target));
    running.answered(100).await;
    let report = running.stop().await;
    assert_eq!((report.failures(), report.served_by("v7")), (0, report.sent), "{report}");
    assert_eq!(report.by_way.len(), 4, "{report}");
}

#[tokio::test]
async fn messages_come_in_order_until_the_application_drains() {
    let (target, end, serving) = serving().await;
    let running = streams::start(&streams::Plan { target, web_sockets: 2, event_streams: 2 });
    running.opened(4).await;
    sleep(messages::PAUSE * 3).await;
    end.send(()).unwrap();
    serving.await.unwrap();
    let report = running.stop().await;
    let drained: Vec<_> = report.streams.iter().filter(|stream| stream.pod == "app-1").collect();
    assert_eq!(drained.len(), 4, "{report}");
    for stream in drained {
        let end = match stream.protocol {
            streams::Protocol::WebSocket => streams::End::Closed(1001),
            streams::Protocol::Events => streams::End::Complete,
        };
        assert!(stream.end == end && stream.messages > 1, "{stream}");
    }
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight() {
    let (address, end, serving) = serving().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /slow?ms=100&nonce=9 HTTP/1.1\r\nhost: app\r\n\r\n").await.unwrap();
    // Another answered request shows that the first one was read.
    let mut other = TcpStream::connect(address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").await.unwrap();
    other.read_to_end(&mut Vec::new()).await.unwrap();
    end.send(()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("nonce 9\n"), "{answer}");
    serving.await.unwrap();
}
