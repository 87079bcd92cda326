//! A probe, or a hook, that gets something over HTTP: a connection of its own each time, certificates unverified,
//! redirects followed only to the same host, as the kubelet does it.

mod unverified;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};

/// As browsers and the kubelet do.
const MOST_REDIRECTS: usize = 10;
const AGENT: &str = "kube-probe/1.36";

/// What to get.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// A status and where it leads.
#[derive(Debug)]
struct Response {
    status: StatusCode,
    location: Option<String>,
}

impl Request {
    /// Reads what an httpGet action says.
    ///
    /// # Errors
    /// A sentence, when a named port is not the container's or a header can't be one.
    pub(crate) fn new(get: &HTTPGetAction, container: &Container, pod_ip: IpAddr) -> Result<Self, String> {
        let path = get.path.clone().unwrap_or_default();
        Ok(Self {
            scheme: match get.scheme.as_deref() {
                Some("HTTPS") => Scheme::Https,
                Some(_) | None => Scheme::Http,
            },
            host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_string()),
            port: port(&get.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: headers(get)?,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}{}", self.scheme.name(), self.host, self.port, self.path)
    }

    /// The same question somewhere else, if the kubelet would ask there.
    fn redirected(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let Some(host) = uri.host() else { return Some(Self { path, ..self.clone() }) };
        if host != self.host {
            return None;
        }
        let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
        Some(Self { scheme, port: uri.port_u16().unwrap_or(scheme.port()), path, ..self.clone() })
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A number, or the name of one of the container's ports.
pub(super) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    })
}

/// Gets it.
///
/// # Errors
/// A sentence, when no answer came or its status is not that of success.
pub(crate) async fn get(request: &Request) -> Result<String, String> {
    let mut request = request.clone();
    for _ in 0..MOST_REDIRECTS {
        let response = get_once(&request).await?;
        if !(200..400).contains(&response.status.as_u16()) {
            return Err(format!("HTTP probe failed with statuscode: {}", response.status.as_u16()));
        }
        let next = response.location.as_deref().filter(|_| response.status.is_redirection());
        match next.and_then(|location| request.redirected(location)) {
            Some(next) => request = next,
            None => return Ok(format!("answered {}", response.status)),
        }
    }
    Err(format!("Get {:?}: stopped after {MOST_REDIRECTS} redirects", request.url()))
}

async fn get_once(request: &Request) -> Result<Response, String> {
    let (host, port) = (request.host.as_str(), request.port);
    let failed = |error: String| format!("Get {:?}: {error}", request.url());
    let stream = super::connect::connect(host, port)
        .await
        .map_err(|error| failed(format!("dial tcp {host}:{port}: connect: {}", super::connect::reason(&error))))?;
    let response = match request.scheme {
        Scheme::Http => exchange(request, stream).await,
        Scheme::Https => {
            let name = unverified::server_name(host).map_err(|error| failed(error.to_string()))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&unverified::CONFIG));
            let secured = connector.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
            exchange(request, secured).await
        }
    };
    response.map_err(|error| failed(error.to_string()))
}

async fn exchange<S>(request: &Request, stream: S) -> hyper::Result<Response>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(head(request)).await;
    driver.abort();
    let response = response?;
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Response { status: response.status(), location })
}

fn head(request: &Request) -> http::Request<Empty<Bytes>> {
    let mut head = http::Request::new(Empty::new());
    // The API has checked the path; what is no path is asked for as the root.
    *head.uri_mut() = request.path.parse().unwrap_or_default();
    *head.headers_mut() = request.headers.clone();
    if !head.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::try_from(format!("{}:{}", request.host, request.port))
    {
        head.headers_mut().insert(HOST, host);
    }
    head
}

/// The action's own headers replace those that every probe carries.
fn headers(get: &HTTPGetAction) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in get.http_headers.iter().flatten() {
        let invalid = |_| format!("invalid header {:?}", header.name);
        let name = HeaderName::try_from(&header.name).map_err(|_| format!("invalid header {:?}", header.name))?;
        headers.append(name, HeaderValue::try_from(&header.value).map_err(invalid)?);
    }
    for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "*/*"), (CONNECTION, "close")] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    Ok(headers)
}
