//! What the serve configuration says, done: ports of the machine and of the Tailscale Services that it hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::state::{Daemon, Known};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;
type Failure = Box<dyn Error + Send + Sync>;

/// A port, and whose it is: the machine's or a Tailscale Service's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: SocketAddr,
    service: Option<String>,
}

/// Opens and closes ports as the serve configuration changes. What is in flight ends by itself.
pub(crate) async fn run(daemon: Arc<Daemon>) {
    let mut changes = daemon.changes.subscribe();
    let mut open: BTreeMap<Place, JoinHandle<()>> = BTreeMap::new();
    let own = daemon.known().tailnet.node.addresses.clone();
    own.into_iter().for_each(add_address);
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    loop {
        let wanted = wanted(&daemon.known());
        open.retain(|place, accepting| {
            let stays = wanted.contains(place);
            if !stays {
                accepting.abort();
            }
            stays
        });
        for place in wanted {
            let accepting = || tokio::spawn(accept(Arc::clone(&daemon), client.clone(), place.clone()));
            open.entry(place.clone()).or_insert_with(accepting);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn wanted(known: &Known) -> BTreeSet<Place> {
    if known.tailnet.state != "Running" {
        return BTreeSet::new();
    }
    let config = &known.kept.serve_config;
    let places = |section: &Value, service: Option<&str>, addresses: &[IpAddr]| {
        let ports: Vec<u16> =
            section["TCP"].as_object().into_iter().flatten().filter_map(|(port, _)| port.parse().ok()).collect();
        let place = |ip: &IpAddr| {
            let ip = *ip;
            let service = service.map(str::to_owned);
            ports.iter().map(move |port| Place { at: (ip, *port).into(), service: service.clone() }).collect::<Vec<_>>()
        };
        addresses.iter().flat_map(place).collect::<Vec<_>>()
    };
    let mut wanted: BTreeSet<Place> = places(config, None, &known.tailnet.node.addresses).into_iter().collect();
    for (name, addresses) in known.hosted() {
        wanted.extend(places(&config["Services"][&name], Some(&name), &addresses));
    }
    wanted
}

/// The daemon's own network interface has the address, as far as that is known here.
fn add_address(ip: IpAddr) {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let _ = Command::new("ip").args(["address", "replace", &format!("{ip}/{length}"), "dev", "lo"]).status();
}

async fn accept(daemon: Arc<Daemon>, client: Client<HttpConnector, Body>, place: Place) {
    add_address(place.at.ip());
    let Ok(listener) = TcpListener::bind(place.at).await else { return };
    while let Ok((stream, from)) = listener.accept().await {
        let serving = Serving { daemon: Arc::clone(&daemon), client: client.clone(), place: place.clone(), from };
        tokio::spawn(async move {
            // Whoever breaks off is its own business.
            let _ = serving.serve(stream).await;
        });
    }
}

#[derive(Clone)]
struct Serving {
    daemon: Arc<Daemon>,
    client: Client<HttpConnector, Body>,
    place: Place,
    from: SocketAddr,
}

impl Serving {
    async fn serve(self, mut stream: TcpStream) -> Result<(), Failure> {
        let port = self.place.at.port().to_string();
        let (entry, name) = {
            let known = self.daemon.known();
            (self.section(&known)["TCP"][&port].clone(), known.name_of(self.place.service.as_deref()))
        };
        if let Some(target) = entry["TCPForward"].as_str() {
            let mut backend = TcpStream::connect(target).await?;
            if entry["ProxyProtocol"] == 2 {
                backend.write_all(&proxy_header(self.from, self.place.at)).await?;
            }
            tokio::io::copy_bidirectional(&mut stream, &mut backend).await?;
        } else if entry["HTTPS"] == true {
            let stream = TlsAcceptor::from(certificate(&name)?).accept(stream).await?;
            self.serve_http(stream, "https", name).await?;
        } else {
            self.serve_http(stream, "http", name).await?;
        }
        Ok(())
    }

    async fn serve_http<S>(self, stream: S, scheme: &'static str, name: String) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(move |request| {
            let serving = self.clone();
            let host = if scheme == "https" { name.clone() } else { serving.host(&request) };
            let site = format!("{host}:{}", serving.place.at.port());
            async move { Ok::<_, Infallible>(serving.answer(request, scheme, &site).await) }
        });
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        // Without encryption it speaks no HTTP/2.
        let server = if scheme == "https" { server } else { server.http1_only() };
        server.serve_connection(TokioIo::new(stream), answer).await
    }

    /// The name that is asked for, in full; what is asked at an address is nobody's.
    fn host<B>(&self, request: &Request<B>) -> String {
        let said = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = said.split(':').next().unwrap_or_default();
        let domain = format!(".{}", self.daemon.known().tailnet.domain);
        if host.ends_with(&domain) { host.to_owned() } else { format!("{host}{domain}") }
    }

    async fn answer(&self, request: Request<Incoming>, scheme: &'static str, site: &str) -> Response<Body> {
        let (mount, handler) = self.handler(site, request.uri().path());
        if let Some(text) = handler["Text"].as_str() {
            return said(StatusCode::OK, text);
        }
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if let Some(target) = handler["Redirect"].as_str() {
            let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            return redirected(&target.replace("${HOST}", host).replace("${REQUEST_URI}", path));
        }
        let Some(target) = handler["Proxy"].as_str() else { return said(StatusCode::NOT_FOUND, "404 page not found") };
        // What is below the mount point is below the target.
        let below = path.strip_prefix(mount.trim_end_matches('/')).unwrap_or(path);
        let Ok(uri) = format!("{}{below}", target.trim_end_matches('/')).parse() else {
            return said(StatusCode::BAD_GATEWAY, "");
        };
        let host = head.uri.authority().map(|authority| authority.as_str().to_owned());
        if let Some(host) = host.and_then(|host| HeaderValue::from_str(&host).ok()) {
            head.headers.insert(HOST, host);
        }
        head.uri = uri;
        head.version = http::Version::HTTP_11;
        self.say_who(&mut head.headers, scheme);
        match self.client.request(Request::from_parts(head, body.boxed_unsync())).await {
            Ok(response) => response.map(BodyExt::boxed_unsync),
            Err(_) => said(StatusCode::BAD_GATEWAY, ""),
        }
    }

    /// The one whose mount point is the longest that the path begins with, element by element.
    fn handler(&self, site: &str, path: &str) -> (String, Value) {
        let known = self.daemon.known();
        let handlers = self.section(&known)["Web"][site]["Handlers"].as_object().cloned().unwrap_or_default();
        let is_below = |mount: &str| {
            let rest = path.strip_prefix(mount.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let matching = handlers.into_iter().filter(|(mount, _)| is_below(mount));
        matching.max_by_key(|(mount, _)| mount.len()).unwrap_or_default()
    }

    fn section<'k>(&self, known: &'k Known) -> &'k Value {
        let config = &known.kept.serve_config;
        self.place.service.as_ref().map_or(config, |service| &config["Services"][service])
    }

    /// What a caller says of itself goes.
    fn say_who(&self, headers: &mut HeaderMap, scheme: &'static str) {
        let own: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("tailscale-")).cloned().collect();
        for name in own {
            headers.remove(name);
        }
        let host = headers.get(HOST).cloned();
        let known = self.daemon.known();
        let login = known.whois(self.from.ip()).filter(|node| node.tags.is_empty()).map(|node| node.login.clone());
        let written = [
            ("x-forwarded-for", Some(self.from.ip().to_string())),
            ("x-forwarded-proto", Some(scheme.to_owned())),
            ("tailscale-user-login", login.clone()),
            ("tailscale-user-name", login),
        ];
        for (name, value) in written {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        if let Some(host) = host {
            headers.insert("x-forwarded-host", host);
        }
    }
}

/// Version 2 of HAProxy's PROXY protocol, for IPv4.
fn proxy_header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (IpAddr::V4(client), IpAddr::V4(service)) = (from.ip(), to.ip()) else { return Vec::new() };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &client.octets(), &service.octets(), &ports].concat()
}

fn certificate(name: &str) -> Result<Arc<ServerConfig>, Failure> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// To what `301:https://…` names.
fn redirected(target: &str) -> Response<Body> {
    let (status, location) = match target.split_once(':') {
        Some((status, location)) if status.len() == 3 => (status.parse().unwrap_or(StatusCode::FOUND), location),
        Some(_) | None => (StatusCode::FOUND, target),
    };
    let mut response = said(status, "");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn said(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
