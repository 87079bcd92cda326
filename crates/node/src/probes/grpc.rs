//! A probe that asks over gRPC's own health protocol (`grpc.health.v1.Health`), without TLS, as the kubelet does.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use decide::probes::Outcome;
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;

use super::{Answer, failure};

const PATH: &str = "/grpc.health.v1.Health/Check";
const AGENT: &str = "kube-probe/1.36";
/// An answer is a few bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// The only status that is healthy, and the words of the others.
const SERVING: u8 = 1;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// Codes of gRPC.
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks for the health of the service that the action names, or of the whole server.
pub(super) async fn check(action: &GRPCAction, pod_ip: IpAddr, timeout: Duration) -> Answer {
    let Ok(port) = u16::try_from(action.port) else { return failure(format!("{} is no port", action.port)) };
    let service = action.service.clone().unwrap_or_default();
    match tokio::time::timeout(timeout, ask(pod_ip, port, &service)).await {
        Ok(Ok(SERVING)) => Answer { outcome: Outcome::Success, message: "service healthy".to_owned() },
        Ok(Ok(status)) => {
            let word = STATUSES.get(usize::from(status)).copied().unwrap_or("a status that nobody knows");
            failure(format!("service unhealthy (responded with {word:?})"))
        }
        Ok(Err(sentence)) => failure(format!("error: {sentence}")),
        Err(_) => failure(format!("timeout: health rpc did not complete within {timeout:?}")),
    }
}

async fn ask(ip: IpAddr, port: u16, service: &str) -> Result<u8, String> {
    let place = std::net::SocketAddr::new(ip, port);
    let stream = super::connect::connect(&ip.to_string(), port).await;
    let failed = |error| format!("failed to connect service {place:?}: {}", super::connect::reason(&error));
    let stream = stream.map_err(failed)?;
    let failed = |error: hyper::Error| format!("health rpc probe failed: {error}");
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{place}{PATH}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(question(service)))
        .map_err(|error| error.to_string())?;
    let answer = client.send_request(request).await.map_err(failed)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| format!("health rpc probe failed: {error}"))?;
    if head.status != StatusCode::OK {
        return Err(format!("health rpc probe failed: HTTP status {}", head.status));
    }
    // A server that has nothing else to say puts it among the headers.
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    verdict(&trailers)?;
    status(&body.to_bytes()).ok_or_else(|| "health rpc probe failed: the answer can't be read".to_owned())
}

fn verdict(trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        OK => Ok(()),
        UNIMPLEMENTED => {
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        code => Err(format!("health rpc probe failed: gRPC status {code} {}", text("grpc-message"))),
    }
}

/// `HealthCheckRequest { string service = 1; }` in one uncompressed gRPC message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(into: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        into.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

/// `HealthCheckResponse { ServingStatus status = 1; }` in one uncompressed gRPC message; a status of 0 may be left out.
fn status(framed: &[u8]) -> Option<u8> {
    match framed {
        [0, _, _, _, _] => Some(0),
        [0, _, _, _, _, 0x08, status, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_health_protocol() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("web")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
        let long = "x".repeat(300);
        assert_eq!(question(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        let table: [(&[u8], Option<u8>); 4] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(SERVING)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (b"no", None),
        ];
        for (framed, wanted) in table {
            assert_eq!(status(framed), wanted, "{framed:?}");
        }
    }
}
