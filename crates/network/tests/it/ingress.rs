//! Requests from outside, told apart by host and path, with and without TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use decide::balancing::EndpointState::Ready;
use decide::ingress::{PathType, Rule};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use network::config::{Backend, Certificate};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::app::App;
use crate::plane::Plane;

/// A plane with one Service and sockets for requests from outside.
struct Outside {
    plane: Plane,
    http: SocketAddr,
    https: SocketAddr,
    _app: App,
}

impl Outside {
    async fn start() -> Self {
        let mut plane = Plane::start().await;
        let app = App::start(plane.pod(2), "app-2");
        let at = |port| SocketAddr::new(plane.service_ip(), port);
        let (http, https) = (at(8000), at(8443));
        plane.config.ingress.http = Some(http);
        plane.config.ingress.https = Some(https);
        plane.route(&[(2, Ready)]).await;
        Self { plane, http, https, _app: app }
    }

    fn rule(&self, host: &str, path: &str) -> Rule<Backend> {
        let backend = Backend { service: "production/demo-app".to_owned(), at: Some(self.plane.service()) };
        Rule { host: host.to_owned(), path: path.to_owned(), path_type: PathType::Prefix, backend }
    }

    async fn certify(&mut self, certificates: &[&Made]) {
        self.plane.config.ingress.certificates = certificates.iter().map(|made| made.certificate.clone()).collect();
        self.plane.configure().await;
    }
}

struct Made {
    certificate: Certificate,
    host: &'static str,
}

fn made(host: &'static str) -> Made {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let certificate = Certificate {
        secret: format!("production/{host}"),
        hosts: vec![host.to_owned()],
        chain: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    };
    Made { certificate, host }
}

/// A client that trusts one certificate only.
async fn connect(https: SocketAddr, made: &Made, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(made.certificate.chain.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(trusted).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(https).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(made.host).unwrap(), stream).await
}

async fn ask_over(stream: TlsStream<TcpStream>, version: Version, uri: &str, host: &str) -> (StatusCode, String) {
    let request = Request::get(uri).version(version);
    let request = if version == Version::HTTP_2 { request } else { request.header("host", host) };
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = if version == Version::HTTP_2 {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(http: SocketAddr, host: &str, path: &str) -> (StatusCode, String) {
    let stream = TcpStream::connect(http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_paths_find_their_service() {
    let mut outside = Outside::start().await;
    let mut gone = outside.rule("gone.test", "/");
    gone.backend = Backend { service: "production/gone".to_owned(), at: None };
    outside.plane.config.ingress.rules = vec![outside.rule("a.test", "/here"), gone];
    outside.plane.configure().await;
    assert_eq!(ask(outside.http, "a.test", "/here/").await, (StatusCode::OK, "app-2".to_owned()));
    assert_eq!(ask(outside.http, "A.TEST:8000", "/here").await.0, StatusCode::OK);
    let (status, said) = ask(outside.http, "a.test", "/elsewhere").await;
    assert_eq!((status, said.as_str()), (StatusCode::NOT_FOUND, "Ingress: no rule is about this host and path\n"));
    let (status, said) = ask(outside.http, "gone.test", "/").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said.contains("Service production/gone is not there"), "{said}");

    outside.plane.config.ingress.default = Some(outside.rule("", "/").backend);
    outside.plane.configure().await;
    assert_eq!(ask(outside.http, "any.test", "/").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_the_certificate_of_the_host_and_pods_are_told() {
    let mut outside = Outside::start().await;
    let (one, other) = (made("a.test"), made("b.test"));
    outside.plane.config.ingress.rules = vec![outside.rule("", "/")];
    outside.certify(&[&one, &other]).await;
    for (certificate, version, protocol) in [
        (&one, Version::HTTP_11, &b"http/1.1"[..]),
        (&other, Version::HTTP_11, b"http/1.1"),
        (&one, Version::HTTP_2, b"h2"),
    ] {
        let stream = connect(outside.https, certificate, protocol).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        let uri = if version == Version::HTTP_2 { "https://a.test/head" } else { "/head" };
        let (status, head) = ask_over(stream, version, uri, certificate.host).await;
        assert_eq!(status, StatusCode::OK);
        assert!(head.contains("x-forwarded-proto: https") && head.contains("proto=https"), "{head}");
    }
    let stranger = made("c.test");
    assert!(connect(outside.https, &stranger, b"h2").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_holds_for_new_connections_and_breaks_none() {
    let mut outside = Outside::start().await;
    let (old, new) = (made("a.test"), made("a.test"));
    outside.plane.config.ingress.rules = vec![outside.rule("a.test", "/")];
    outside.certify(&[&old]).await;
    let open = connect(outside.https, &old, b"http/1.1").await.unwrap();
    outside.certify(&[&new]).await;
    assert_eq!(ask_over(open, Version::HTTP_11, "/", "a.test").await.1, "app-2");
    let fresh = connect(outside.https, &new, b"http/1.1").await.unwrap();
    assert_eq!(ask_over(fresh, Version::HTTP_11, "/", "a.test").await.1, "app-2");
    assert!(connect(outside.https, &old, b"http/1.1").await.is_err(), "the old one is not shown any more");
}
