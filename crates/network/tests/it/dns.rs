//! Names, over UDP and TCP, with a resolver behind.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use decide::balancing::EndpointState::Ready;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use network::config::{Alias, Host, NamedPort, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::plane::Plane;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(text), kind));
    message
}

async fn ask(server: SocketAddr, text: &str) -> Message {
    ask_for(server, text, RecordType::A).await
}

async fn ask_for(server: SocketAddr, text: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query = query(text, kind);
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let answer = receive(&socket).await;
    assert_eq!(answer.metadata.id, query.metadata.id);
    assert!(answer.queries[0].name.eq_case(&name(text)), "{} was asked, {} answered", text, answer.queries[0]);
    answer
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

/// A resolver that knows `known.example.com`, fails at `failing.example.com`, and says that there are no other names.
struct Resolver {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    /// One for each answer that it may give.
    answers: Arc<Semaphore>,
}

impl Resolver {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: socket.local_addr().unwrap(),
            asked: Arc::default(),
            answers: Arc::new(Semaphore::new(1000)),
        };
        tokio::spawn(answer_all(socket, this.asked.clone(), this.answers.clone()));
        this
    }

    fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer_all(socket: UdpSocket, asked: Arc<AtomicUsize>, answers: Arc<Semaphore>) {
    let mut bytes = vec![0; 1500];
    loop {
        let (length, client) = socket.recv_from(&mut bytes).await.unwrap();
        let query = Message::from_vec(&bytes[..length]).unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        answers.acquire().await.unwrap().forget();
        socket.send_to(&answer_to(query).to_vec().unwrap(), client).await.unwrap();
    }
}

fn answer_to(query: Message) -> Message {
    let asked = query.queries[0].name.clone();
    let mut answer = query.into_response();
    if asked == name("known.example.com.") {
        answer.add_answer(Record::from_rdata(asked, 60, RData::A(A::new(192, 0, 2, 1))));
    } else if asked == name("failing.example.com.") {
        answer.metadata.response_code = ResponseCode::ServFail;
    } else {
        answer.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(name("ns.example.com."), name("admin.example.com."), 1, 7200, 1800, 86_400, 20);
        answer.add_authority(Record::from_rdata(name("example.com."), 60, RData::SOA(soa)));
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_by_name_also_after_the_proxy_was_killed() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Ready)]).await;
    plane.serve_dns(Vec::new()).await;
    let server = plane.config.dns.listen[0];
    for _ in 0..2 {
        let answer = ask(server, "demo-app.production.svc.cluster.local.").await;
        assert_eq!(answer.answers[0].data.to_string(), plane.service_ip().to_string());
        plane.kill_proxy();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_over_tcp_too() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Ready)]).await;
    plane.serve_dns(Vec::new()).await;
    let mut stream = TcpStream::connect(plane.config.dns.listen[0]).await.unwrap();
    for _ in 0..2 {
        let query = query("demo-app.production.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resolvers_are_asked_for_other_names() {
    let mut plane = Plane::start().await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    plane.serve_dns(vec![dead.local_addr().unwrap(), Resolver::start().await.address]).await;
    let server = plane.config.dns.listen[0];
    assert_eq!(ask(server, "example.com.").await.metadata.response_code, ResponseCode::NXDomain);
    plane.serve_dns(Vec::new()).await;
    assert_eq!(ask(server, "example.com.").await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_endpoints_are_found_by_name_and_by_address() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Ready)]).await;
    let port = |name: &str, protocol: &str, port: u16, endpoints: Vec<IpAddr>| NamedPort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port,
        endpoints,
    };
    plane.service_mut(0).named_ports = vec![port("ping", "udp", 81, Vec::new())];
    let pods: Vec<IpAddr> = ["10.44.0.5", "10.44.0.6"].map(|ip| ip.parse().unwrap()).to_vec();
    plane.config.services.push(Arc::new(Service {
        namespace: "production".to_owned(),
        name: "db".to_owned(),
        answers: pods.clone(),
        hosts: vec![Host { hostname: "db-0".to_owned(), ip: pods[0] }],
        named_ports: vec![port("sql", "tcp", 5432, pods)],
        ..Service::default()
    }));
    plane.config.dns.ranges = vec!["10.44.0.0/16".parse().unwrap()];
    plane.serve_dns(Vec::new()).await;
    let server = plane.config.dns.listen[0];

    let of_service = ask_for(server, "_ping._udp.demo-app.production.svc.cluster.local.", RecordType::SRV).await;
    assert_eq!(of_service.answers[0].data.to_string(), "0 100 81 demo-app.production.svc.cluster.local.");
    let address = format!("demo-app.production.svc.cluster.local. {}", plane.service_ip());
    assert_eq!(shown(&of_service.additionals), [address]);

    let of_pods = ask_for(server, "_sql._tcp.db.production.svc.cluster.local.", RecordType::SRV).await;
    assert_eq!((of_pods.answers.len(), of_pods.additionals.len()), (2, 2));
    let host = ask(server, "db-0.db.production.svc.cluster.local.").await;
    assert_eq!(host.answers[0].data.to_string(), "10.44.0.5");
    let back = ask_for(server, "5.0.44.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(back.answers[0].data.to_string(), "db-0.db.production.svc.cluster.local.");
    let nobody = ask_for(server, "7.0.44.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    let elsewhere = ask_for(server, "7.0.46.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(elsewhere.metadata.response_code, ResponseCode::ServFail, "there is nobody to ask");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_outside_is_followed_to_what_resolvers_say_of_it() {
    let mut plane = Plane::start().await;
    let resolver = Resolver::start().await;
    plane.config.aliases = ["known", "missing"]
        .map(|alias| Alias {
            namespace: "production".to_owned(),
            name: alias.to_owned(),
            target: format!("{alias}.example.com"),
            addresses: Vec::new(),
        })
        .to_vec();
    plane.serve_dns(vec![resolver.address]).await;
    let server = plane.config.dns.listen[0];
    for _ in 0..2 {
        let known = ask(server, "known.production.svc.cluster.local.").await;
        assert_eq!(
            shown(&known.answers),
            ["known.production.svc.cluster.local. known.example.com.", "known.example.com. 192.0.2.1"]
        );
        let missing = ask(server, "missing.production.svc.cluster.local.").await;
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(shown(&missing.answers), ["missing.production.svc.cluster.local. missing.example.com."]);
    }
    assert_eq!(resolver.times_asked(), 2, "each target once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_resolvers_said_is_not_asked_again_but_what_they_failed_at_is() {
    let mut plane = Plane::start().await;
    let resolver = Resolver::start().await;
    plane.serve_dns(vec![resolver.address]).await;
    let server = plane.config.dns.listen[0];
    for text in ["known.example.com.", "KNOWN.example.com."] {
        let answer = ask(server, text).await;
        assert!(answer.answers[0].ttl <= 60);
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
    }
    assert_eq!(resolver.times_asked(), 1);
    for text in ["missing.example.com.", "Missing.Example.com."] {
        assert_eq!(ask(server, text).await.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(resolver.times_asked(), 2);
    for _ in 0..2 {
        let answer = ask(server, "failing.example.com.").await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(resolver.times_asked(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_ask_at_one_time_is_asked_once() {
    let mut plane = Plane::start().await;
    plane.route(&[(2, Ready)]).await;
    let resolver = Resolver::start().await;
    resolver.answers.forget_permits(1000);
    plane.serve_dns(vec![resolver.address]).await;
    let clients = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    clients.connect(plane.config.dns.listen[0]).await.unwrap();
    for id in 1..=20 {
        let mut query = query("known.example.com.", RecordType::A);
        query.metadata.id = id;
        clients.send(&query.to_vec().unwrap()).await.unwrap();
    }
    // Queries are taken up in their order, so all of those are known to the proxy when this one is answered.
    let last = query("demo-app.production.svc.cluster.local.", RecordType::A);
    clients.send(&last.to_vec().unwrap()).await.unwrap();
    assert_eq!(receive(&clients).await.metadata.id, last.metadata.id);
    resolver.answers.add_permits(20);
    let mut answered = Vec::new();
    for _ in 1..=20 {
        let answer = receive(&clients).await;
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.1");
        answered.push(answer.metadata.id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=20).collect::<Vec<u16>>());
    assert_eq!(resolver.times_asked(), 1);
}
