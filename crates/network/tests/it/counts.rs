//! What is counted of requests, and how it is shown.

use std::time::Duration;

use decide::balancing::EndpointState::{Ready, Withdrawn};
use http::StatusCode;
use objects::traffic::{Cell, ConnectionClass, MethodClass, Outcome};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::App;
use crate::load::{Client, get};
use crate::plane::Plane;

const SUCCESS: Cell = Cell::Requests(MethodClass::Read, Outcome::Success);

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_with_the_pod_that_answered() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    for _ in 0..3 {
        assert_eq!(get(plane.service(), "/").await, (StatusCode::OK, "app-2".to_owned()));
    }
    let with_pod = plane.counted(Some(2), |series| series.counts.get(SUCCESS) == 3).await;
    assert_eq!(with_pod.key.version, "v1");
    assert_eq!(with_pod.counts.get(Cell::BytesToClients), 3 * "app-2".len() as u64);
    assert!(with_pod.counts.latency(0.99).is_some());
    let closed = |series: &objects::traffic::Series| series.counts.get(Cell::Closed(ConnectionClass::Http1)) == 3;
    let own = plane.counted(None, closed).await;
    assert_eq!(own.counts.get(Cell::Opened(ConnectionClass::Http1)), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_counted_as_what_it_is() {
    let mut plane = Plane::start().await;
    let pod = TcpListener::bind(plane.pod(2)).await.unwrap();
    plane.route(&[(2, Ready)]).await;
    let broken_off = tokio::spawn(async move {
        let (mut stream, _) = pod.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let (mut stream, _) = pod.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    let mut stream = TcpStream::connect(plane.service()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.ends_with(b"half"));
    assert_eq!(get(plane.service(), "/").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let count = |outcome| Cell::Requests(MethodClass::Read, outcome);
    let is_all = |series: &objects::traffic::Series| {
        series.counts.get(count(Outcome::BrokenOff)) == 1 && series.counts.get(count(Outcome::ServerError)) == 1
    };
    plane.counted(Some(2), is_all).await;
    broken_off.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_told_with_its_length() {
    let mut plane = Plane::start().await;
    let (old, _new) = (App::start(plane.pod(2), "app-2"), App::start(plane.pod(3), "app-3"));
    plane.route(&[(2, Ready)]).await;
    let slow = tokio::spawn({
        let service = plane.service();
        async move { get(service, "/slow?200").await }
    });
    old.has_begun(1).await;
    plane.route(&[(2, Withdrawn), (3, Ready)]).await;
    assert_eq!(slow.await.unwrap().0, StatusCode::OK);
    let drain = plane.counted(Some(2), |series| series.drain.is_some()).await.drain.unwrap();
    assert!(drain.milliseconds > 0 && drain.requests == 0, "{drain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_in_the_form_that_prometheus_reads() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    let metrics = plane.show_metrics().await;
    plane.route(&[(2, Ready)]).await;
    let mut client = Client::connect(plane.service()).await.unwrap();
    for _ in 0..2 {
        client.get("/").await;
    }
    let (status, text) = get(metrics, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    let labels = "namespace=\"production\",service=\"demo-app\",port=\"8080\",pod=\"demo-app-2\",version=\"v1\"";
    let expected = format!("segue_requests_total{{{labels},method=\"read\",outcome=\"2xx\"}} 2");
    assert!(text.lines().any(|line| line == expected), "{text}");
    let expected = format!("segue_request_duration_seconds_count{{{labels}}} 2");
    assert!(text.lines().any(|line| line == expected), "{text}");
    assert!(text.contains("class=\"http1\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(get(metrics, "/").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_a_line_for_each_request() {
    let mut plane = Plane::start().await;
    let _app = App::start(plane.pod(2), "app-2");
    plane.route(&[(2, Ready)]).await;
    get(plane.service(), "/unseen").await;
    plane.config.access_log = true;
    plane.configure().await;
    get(plane.service(), "/seen?by=all").await;
    let line = loop {
        let text = std::fs::read_to_string(&plane.command.access_log).unwrap();
        if let Some((line, "")) = text.split_once('\n') {
            break line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let entry: Value = serde_json::from_str(&line).unwrap();
    for (field, expected) in [
        ("method", "GET"),
        ("path", "/seen?by=all"),
        ("service", "production/demo-app"),
        ("pod", "demo-app-2"),
        ("outcome", "2xx"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(entry[field], expected, "{line}");
    }
    assert_eq!(entry["status"], 200);
    assert_eq!(entry["bytesToClient"], 5);
}
