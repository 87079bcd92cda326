use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::grpc;

/// What a server does with the connections it is given, one after the other.
async fn against<F, S>(requests: u64, serve: S) -> Report
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = Plan::against(listener.local_addr().unwrap());
    plan.ways = vec![Way::KeptAlive, Way::NewConnection];
    plan.patience = Duration::from_millis(500);
    plan.longest = Duration::from_secs(20);
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let running = start(plan);
    running.answered(requests).await;
    let report = running.stop().await;
    server.abort();
    assert_eq!(report.sent, report.ok + report.failures(), "{report}");
    report
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        seen.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            return Some(text);
        }
    }
}

fn content_length(head: &str) -> usize {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.map_or(0, |length| length.parse().unwrap())
}

fn right_answer(request: &str) -> String {
    let (head, sent) = request.split_once("\r\n\r\n").unwrap();
    let nonce = head.lines().next().and_then(|line| line.split(['=', ' ']).nth(2)).unwrap_or_default();
    let body = if head.starts_with("GET") { format!("version v1\nnonce {nonce}\n") } else { sent.to_owned() };
    answer(&body, "200 OK")
}

fn answer(body: &str, status: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nx-app-version: v1\r\nx-app-pod: p\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn serve_well(mut stream: TcpStream) {
    while let Some(request) = read_request(&mut stream).await {
        stream.write_all(right_answer(&request).as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn right_answers_are_counted_by_version_over_kept_and_new_connections() {
    let report = against(200, serve_well).await;
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(report.served_by("v1"), report.sent);
    assert_eq!(report.latency.count(), report.sent);
    let fresh = report.connections - 8;
    assert!(fresh.abs_diff(report.sent / 2) <= 8, "half over new connections: {report}");
}

#[tokio::test]
async fn a_connection_closed_between_requests_is_no_failure() {
    let one_each = |mut stream: TcpStream| async move {
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        stream.write_all(right_answer(&request).as_bytes()).await.unwrap();
    };
    let report = against(100, one_each).await;
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(report.connections, report.sent);
}

async fn only_failure(
    serve: impl Fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static,
) -> Failure {
    let report = against(32, serve).await;
    assert_eq!((report.ok, report.failed.len()), (0, 1), "{report}");
    *report.failed.keys().next().unwrap()
}

#[tokio::test]
async fn a_connection_closed_after_the_request_is_a_failure_and_is_not_tried_again() {
    let silent = |mut stream: TcpStream| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { drop(read_request(&mut stream).await) })
    };
    assert_eq!(only_failure(silent).await, Failure::Unanswered);
}

#[tokio::test]
async fn half_an_answer_is_a_failure() {
    let cut = |mut stream: TcpStream| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let Some(request) = read_request(&mut stream).await else {
                return;
            };
            let answer = right_answer(&request);
            stream.write_all(&answer.as_bytes()[..answer.len() - 3]).await.unwrap();
        })
    };
    assert_eq!(only_failure(cut).await, Failure::Short);
}

#[tokio::test]
async fn an_error_status_is_a_failure() {
    let unavailable = |mut stream: TcpStream| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(read_request(&mut stream).await);
            stream.write_all(answer("no", "503 Service Unavailable").as_bytes()).await.unwrap();
        })
    };
    assert_eq!(only_failure(unavailable).await, Failure::Status);
}

#[tokio::test]
async fn somebody_elses_answer_is_a_failure() {
    let confused = |mut stream: TcpStream| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(read_request(&mut stream).await);
            stream.write_all(answer("version v1\nnonce 99-99\n", "200 OK").as_bytes()).await.unwrap();
        })
    };
    assert_eq!(only_failure(confused).await, Failure::WrongBody);
}

/// Serves HTTP/2 with what the application echoes, and says goodbye after `LAST` answers.
async fn serve_http2(stream: TcpStream) {
    const LAST: u32 = 5;
    let (answered, mut count) = watch::channel(0);
    let service = service_fn(move |request: Request<Incoming>| {
        answered.send_modify(|answered| *answered += 1);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let response = Response::builder().header("x-app-version", "v1").header("x-app-pod", "p");
            let trailers = HeaderMap::from_iter([(grpc::STATUS, HeaderValue::from_static("0"))]);
            let body = Full::new(body).with_trailers(async { Some(Ok::<_, Infallible>(trailers)) });
            response.body(body)
        }
    });
    let mut connection =
        pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = count.wait_for(|count| *count >= LAST) => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

#[tokio::test]
async fn a_connection_that_says_goodbye_finishes_its_answers_and_is_followed_by_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = Plan::against(listener.local_addr().unwrap());
    plan.ways = vec![Way::Http2, Way::Grpc];
    plan.methods = Methods::Post;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http2(stream));
        }
    });
    let running = start(plan);
    running.answered(200).await;
    let report = running.stop().await;
    assert_eq!(report.failures(), 0, "{report}");
    assert!(report.connections > 10 && report.connections < report.sent / 2, "{report}");
    assert_eq!(report.by_way.values().sum::<u64>(), report.sent, "{report}");
}

#[tokio::test]
async fn no_answer_in_time_is_a_failure() {
    let asleep = |mut stream: TcpStream| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { while read_request(&mut stream).await.is_some() {} })
    };
    assert_eq!(only_failure(asleep).await, Failure::Timeout);
}

#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let running = start(Plan::against(target));
    running.answered(10).await;
    let report = running.stop().await;
    assert_eq!(report.failed.keys().collect::<Vec<_>>(), [&Failure::Refused], "{report}");
}

#[tokio::test]
async fn the_load_ends_by_itself_and_keeps_its_rate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = Plan::against(listener.local_addr().unwrap());
    plan.ways = vec![Way::KeptAlive, Way::NewConnection];
    plan.longest = Duration::from_millis(500);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_well(stream));
        }
    });
    let report = start(plan).finish().await;
    assert!(report.sent.abs_diff(120) <= 1, "240 a second for half a second: {report}");
}
