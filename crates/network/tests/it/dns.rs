//! Names, over UDP and TCP, with a resolver behind.

use std::net::SocketAddr;

use decide::balancing::EndpointState::Ready;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::plane::Plane;

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn ask(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(name), server).await.unwrap();
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

/// A resolver that says that there is no such name, whatever it is asked.
async fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = vec![0; 1500];
        loop {
            let (length, client) = socket.recv_from(&mut asked).await.unwrap();
            let mut answer = Message::from_vec(&asked[..length]).unwrap().into_response();
            answer.metadata.response_code = ResponseCode::NXDomain;
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
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
        let query = query("demo-app.production.svc.cluster.local.");
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
    plane.serve_dns(vec![dead.local_addr().unwrap(), resolver().await]).await;
    let server = plane.config.dns.listen[0];
    assert_eq!(ask(server, "example.com.").await.metadata.response_code, ResponseCode::NXDomain);
    plane.serve_dns(Vec::new()).await;
    assert_eq!(ask(server, "example.com.").await.metadata.response_code, ResponseCode::ServFail);
}
