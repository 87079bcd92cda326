//! Which pods a client gets when NetworkPolicies have a say.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use decide::balancing::EndpointState::{Deprioritised, Ready};
use decide::network_policy::{AddressSet, Allowed, Policies, Ports, Protocol};
use http::{Method, StatusCode};
use network::config::{Affinity, Speaks};
use objects::traffic::{Cell, MethodClass, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::app::App;
use crate::load::{Client, get};
use crate::mesh::on;
use crate::plane::Plane;

/// Requests after which a pod that may be picked would have been.
const MANY: usize = 20;

/// A plane with two pods, and a client with an address of its own.
struct Guarded {
    plane: Plane,
    client: IpAddr,
    _apps: [App; 2],
}

impl Guarded {
    async fn start() -> Self {
        let mut plane = Plane::start().await;
        let apps = [2, 3].map(|number| App::start(plane.pod(number), &format!("app-{number}")));
        plane.route(&[(2, Ready), (3, Ready)]).await;
        Self { client: plane.pod(200).ip(), plane, _apps: apps }
    }

    /// From now on the client may reach only these pods. If both are isolated, nobody else reaches any.
    async fn allow(&mut self, pods: &[u8]) {
        let isolated = self.set(&[2, 3]);
        self.plane.config.policies =
            Policies { ingress_isolated: isolated, ingress: self.rules(pods), ..Policies::default() };
        self.plane.configure().await;
    }

    fn rules(&self, pods: &[u8]) -> Vec<Allowed> {
        let port = self.plane.pod(2).port();
        let ports = vec![Ports { protocol: Protocol::Tcp, from: port, to: port }];
        let to = self.set(pods);
        if to.is_empty() { Vec::new() } else { vec![Allowed { from: self.set(&[200]), to, ports }] }
    }

    fn set(&self, numbers: &[u8]) -> AddressSet {
        numbers.iter().map(|number| ipv4(self.plane.pod(*number).ip())).collect()
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.client, 0))?;
        socket.connect(self.plane.service()).await
    }

    /// What comes back for the first bytes of something that is no HTTP.
    async fn reply(&self, first: &[u8]) -> io::Result<[u8; 5]> {
        let mut stream = self.dial().await?;
        stream.write_all(first).await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.map(|_| said)
    }

    async fn connect(&self) -> Client {
        Client::over(self.dial().await.unwrap()).await.unwrap()
    }

    async fn get(&self) -> (StatusCode, String) {
        self.connect().await.get("/").await
    }

    /// The answer to a request, head and body.
    async fn raw(&self, more: &str) -> String {
        let mut stream = self.dial().await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn ipv4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip} is no address of a test"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_here_is_not_to_be_had_from_another_machine() {
    let mut guarded = Guarded::start().await;
    let there = Plane::start().await;
    guarded.plane.elsewhere = vec![on(&there)];
    guarded.plane.elsewhere[0].state = Ready;
    guarded.plane.route(&[(2, Ready), (3, Ready)]).await;
    guarded.allow(&[]).await;
    for _ in 0..MANY {
        assert_eq!(guarded.get().await.0, StatusCode::FORBIDDEN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_only_pods_that_it_may_reach() {
    let mut guarded = Guarded::start().await;
    guarded.allow(&[3]).await;
    let mut kept = guarded.connect().await;
    for _ in 0..MANY {
        assert_eq!(guarded.get().await, (StatusCode::OK, "app-3".to_owned()));
        assert_eq!(kept.get("/").await, (StatusCode::OK, "app-3".to_owned()));
    }
    guarded.plane.affinity = Affinity::ClientIp;
    for only in [2, 3] {
        guarded.plane.route(&[(2, Ready), (3, Ready)]).await;
        guarded.allow(&[only]).await;
        assert_eq!(guarded.get().await.1, format!("app-{only}"), "whichever is the client's by its address");
    }
    guarded.plane.affinity = Affinity::None;
    guarded.plane.route(&[(2, Ready), (3, Deprioritised)]).await;
    assert_eq!(guarded.get().await.1, "app-3", "one that goes away is better than none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_leads_to_no_pod_that_is_forbidden() {
    let mut guarded = Guarded::start().await;
    guarded.plane.sticky_cookie = Some("stick".to_owned());
    guarded.plane.route(&[(2, Ready), (3, Ready)]).await;
    guarded.allow(&[2]).await;
    let answer = guarded.raw("").await;
    let cookie = answer.split("set-cookie: ").nth(1).and_then(|rest| rest.split(';').next()).expect("a cookie");
    let cookie = format!("Cookie: {cookie}\r\n");
    assert!(guarded.raw(&cookie).await.ends_with("app-2"));
    guarded.allow(&[3]).await;
    assert!(guarded.raw(&cookie).await.ends_with("app-3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_reach_no_pod_is_told_so_at_once() {
    let mut guarded = Guarded::start().await;
    guarded.allow(&[]).await;
    let asked_at = Instant::now();
    let (status, said) = guarded.get().await;
    assert!(asked_at.elapsed() < Duration::from_secs(5), "there is nothing to wait for");
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        said,
        "Service production/demo-app: no NetworkPolicy lets this client reach a pod of the Service that is ready\n"
    );
    let pretended = guarded.raw("X-Forwarded-For: 127.0.0.1\r\n").await;
    assert!(pretended.starts_with("HTTP/1.1 403 "), "{pretended}");
    let grpc = guarded.raw("Content-Type: application/grpc\r\n").await;
    assert!(grpc.starts_with("HTTP/1.1 200 ") && grpc.contains("grpc-status: 7\r\n"), "{grpc}");
    let refused = Cell::Requests(MethodClass::Read, Outcome::ClientError);
    guarded.plane.counted(None, |series| series.counts.get(refused) == 3).await;
    assert_eq!(get(guarded.plane.service(), "/").await.0, StatusCode::OK, "this machine's own processes pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_kept_follows_the_policies() {
    let mut guarded = Guarded::start().await;
    let mut kept = guarded.connect().await;
    assert_eq!(kept.get("/").await.0, StatusCode::OK);
    guarded.allow(&[]).await;
    assert_eq!(kept.get("/").await.0, StatusCode::FORBIDDEN);
    assert_eq!(kept.ask(Method::POST, "/echo", "some body").await.unwrap().0, StatusCode::FORBIDDEN);
    guarded.allow(&[2]).await;
    assert_eq!(kept.get("/").await, (StatusCode::OK, "app-2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_not_send_is_not_passed_either() {
    let mut guarded = Guarded::start().await;
    guarded.plane.config.policies =
        Policies { egress_isolated: guarded.set(&[200]), egress: guarded.rules(&[2]), ..Policies::default() };
    guarded.plane.configure().await;
    for _ in 0..MANY {
        assert_eq!(guarded.get().await.1, "app-2");
    }
    guarded.plane.config.policies.egress.clear();
    guarded.plane.configure().await;
    assert_eq!(guarded.get().await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_pod_that_is_not_ready_yet() {
    let mut guarded = Guarded::start().await;
    guarded.plane.route(&[]).await;
    guarded.allow(&[2]).await;
    let mut client = guarded.connect().await;
    let waiting = tokio::spawn(async move { client.get("/").await });
    guarded.plane.route(&[(2, Ready)]).await;
    assert_eq!(waiting.await.unwrap(), (StatusCode::OK, "app-2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_connections_that_are_forbidden_are_reset() {
    let mut guarded = Guarded::start().await;
    let greeting = TcpListener::bind(guarded.plane.pod(4)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = greeting.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello").await?;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    for speaks in [Speaks::FindOut, Speaks::Opaque] {
        for first in [&b""[..], b"\x01\x02\x03\x04"] {
            guarded.plane.config.policies = Policies::default();
            guarded.plane.route_speaking(speaks, &[(4, Ready)]).await;
            assert_eq!(&guarded.reply(first).await.unwrap(), b"hello");

            guarded.plane.config.policies = Policies { ingress_isolated: guarded.set(&[4]), ..Policies::default() };
            guarded.plane.configure().await;
            let error = guarded.reply(first).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{speaks:?} {first:?}");
        }
    }
}
