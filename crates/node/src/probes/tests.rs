use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::HTTPGetAction;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::agent::fakes::FakeRuntime;
use crate::agent::runtime::{Runtime, SandboxConfig};
use crate::cgroups::Limits;
use crate::shim::Sharing;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that answers each connection with the next of these texts, and tells what it was asked.
async fn server(answers: Vec<String>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            asked.push(String::from_utf8_lossy(&request[..length]).to_lowercase());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, task)
}

fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n")
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn request(get: Value) -> Result<http::Request, String> {
    let get: HTTPGetAction = parsed(get);
    let container: Container = parsed(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}));
    http::Request::new(&get, &container, HERE)
}

async fn probe(port: u16) -> Answer {
    http_answer(&request(json!({"path": "/ready", "port": port})).unwrap(), Duration::from_secs(5)).await
}

#[tokio::test]
async fn statuses_from_200_to_399_are_success() {
    let table = [
        ("200 OK", Outcome::Success),
        ("204 No Content", Outcome::Success),
        ("304 Not Modified", Outcome::Success),
        ("400 Bad Request", Outcome::Failure),
        ("503 Service Unavailable", Outcome::Failure),
    ];
    for (line, expected) in table {
        let (port, _) = server(vec![status(line)]).await;
        assert_eq!(probe(port).await.outcome, expected, "{line}");
    }
    let (port, _) = server(vec![status("503 Service Unavailable")]).await;
    assert_eq!(probe(port).await.message, "HTTP probe failed with statuscode: 503");
}

#[tokio::test]
async fn a_refused_connection_says_where() {
    let port = TcpListener::bind((HERE, 0)).await.unwrap().local_addr().unwrap().port();
    let answer = probe(port).await;
    let expected =
        format!("Get \"http://127.0.0.1:{port}/ready\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(answer, failure(expected));
}

#[tokio::test]
async fn a_server_that_says_nothing_fails_in_time() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = request(json!({"path": "/", "port": port})).unwrap();
    let answer = http_answer(&request, Duration::from_millis(50)).await;
    assert_eq!(answer.outcome, Outcome::Failure);
    assert!(answer.message.contains("context deadline exceeded"), "{}", answer.message);
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let (second_port, second) = server(vec![status("500 No")]).await;
    let there =
        format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{second_port}/there\r\ncontent-length: 0\r\n\r\n");
    let (port, _) = server(vec![there]).await;
    assert_eq!(probe(port).await.outcome, Outcome::Failure);
    assert!(second.await.unwrap()[0].starts_with("get /there http/1.1"));

    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (port, _) = server(vec![elsewhere]).await;
    assert_eq!(probe(port).await.outcome, Outcome::Success);
}

#[tokio::test]
async fn headers_can_be_chosen() {
    let (port, asked) = server(vec![status("200 OK")]).await;
    let get = json!({"path": "/x?y=1", "port": port, "httpHeaders": [
        {"name": "Host", "value": "web.example"}, {"name": "X-Probe", "value": "yes"},
    ]});
    http::get(&request(get).unwrap()).await.unwrap();
    let asked = &asked.await.unwrap()[0];
    for line in
        ["get /x?y=1 http/1.1", "host: web.example", "x-probe: yes", "user-agent: kube-probe/1.36", "connection: close"]
    {
        assert!(asked.lines().any(|each| each == line), "{line} is not in {asked}");
    }
}

#[test]
fn ports_are_numbers_or_names_of_the_containers_ports() {
    let url = |port: Value| request(json!({"port": port})).map(|request| request.url());
    assert_eq!(url(json!(81)).unwrap(), "http://127.0.0.1:81/");
    assert_eq!(url(json!("web")).unwrap(), "http://127.0.0.1:8080/");
    assert_eq!(url(json!("none")).unwrap_err(), "couldn't find port: \"none\"");
    assert_eq!(url(json!(0)).unwrap_err(), "invalid port number: 0");
}

#[tokio::test]
async fn an_app_that_listens_a_moment_after_its_start_is_ready_then() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = SandboxConfig {
        uid: "u".to_owned(),
        hostname: "web".to_owned(),
        limits: Limits::default(),
        sharing: Sharing::default(),
    };
    let sandbox = FakeRuntime::default().create(&config, Arc::default()).await.unwrap();
    let container = parsed(json!({"name": "c"}));
    let target = Target { sandbox, container, runtime_id: "c-0".to_owned(), container_id: "id".to_owned() };
    let probe: Probe = parsed(json!({"tcpSocket": {"host": "127.0.0.1", "port": free.port()}, "periodSeconds": 3600}));
    let (tell, mut news) = mpsc::channel(1);
    let none_yet = Answers::none_yet(ProbeKind::Readiness);
    let _prober = Prober::start(target, ProbeKind::Readiness, probe, SignedDuration::ZERO, none_yet, tell);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _app = tokio::net::TcpListener::bind(free).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), news.recv()).await.unwrap().unwrap();
    assert!(matches!(told, News::Probed { outcome: Outcome::Success, .. }), "{told:?}");
}
