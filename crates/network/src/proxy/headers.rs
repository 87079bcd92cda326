//! What changes in the head of a message on its way through the proxy: what concerns one connection only is taken
//! out, who the client is is written in, everything else passes. Pure.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What else proxies say of a client; whoever sends it here is the client itself.
const SAID_OF_ORIGINS: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-real-ip"),
];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const TAILSCALE_USER_LOGIN: HeaderName = HeaderName::from_static("tailscale-user-login");
/// The first letters of the headers by which Tailscale's daemon says who a caller is.
const SAID_BY_DAEMON: &str = "tailscale-";

/// What a pod is told about who asks. Written once a connection.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    forwarded_for: HeaderValue,
    forwarded: HeaderValue,
    scheme: Scheme,
    /// Whether the client says of each request whom it comes from: Tailscale's daemon, or another machine's proxy.
    is_trusted: bool,
    /// Stands in for a missing `Host`, as in HTTP/1.0.
    host: HeaderValue,
}

/// How a client reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Why a request is refused before it reaches a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request has several Host headers")]
    SeveralHosts,
    #[error("the request's Host is none")]
    Host,
    #[error("CONNECT names no host and port")]
    Connect,
}

impl Origin {
    pub(crate) fn new(client: IpAddr, service: SocketAddr, scheme: Scheme) -> Self {
        Self { host: written(&service.to_string()), ..Self::said_of(client, scheme) }
    }

    fn said_of(client: IpAddr, scheme: Scheme) -> Self {
        let client = client.to_canonical();
        let proto = scheme.name();
        let forwarded = match client {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        Self {
            forwarded_for: written(&client.to_string()),
            forwarded: written(&forwarded),
            scheme,
            is_trusted: false,
            host: HeaderValue::from_static(""),
        }
    }

    /// The same for a client that says itself whom its requests come from.
    pub(crate) fn trusted(self) -> Self {
        Self { is_trusted: true, ..self }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whom a request with these headers comes from, if not from the client itself.
    pub(crate) fn behind(&self, headers: &HeaderMap) -> Option<IpAddr> {
        headers.get(X_FORWARDED_FOR).filter(|_| self.is_trusted)?.to_str().ok()?.parse().ok()
    }

    /// Of a request that is passed on: whoever does has written both itself.
    fn passed_on(&self, headers: &HeaderMap) -> Option<Self> {
        let caller = self.behind(headers)?;
        let is_encrypted = headers.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let scheme = if is_encrypted { Scheme::Https } else { Scheme::Http };
        Some(Self { host: self.host.clone(), ..Self::said_of(caller, scheme) })
    }
}

fn written(text: &str) -> HeaderValue {
    let value = HeaderValue::from_str(text);
    assert!(value.is_ok(), "addresses are ASCII");
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Has a request come from this address, as far as whoever passes it on says so.
pub(crate) fn say_client(headers: &mut HeaderMap, client: IpAddr) {
    headers.insert(X_FORWARDED_FOR, written(&client.to_string()));
}

/// Who a caller is on the tailnet, if Tailscale's daemon has written these headers.
pub(crate) fn user(headers: &HeaderMap) -> Option<&str> {
    headers.get(TAILSCALE_USER_LOGIN)?.to_str().ok()
}

/// Whether the client asks to go on in another protocol. An offer of HTTP/2 is passed over, as any server may.
pub(crate) fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let offers_more = headers.get(UPGRADE).is_some_and(|offered| !offered.as_bytes().eq_ignore_ascii_case(b"h2c"));
    offers_more && names_in_connection(headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Brings a request's head into the form in which a pod gets it.
pub(crate) fn to_pod(method: &Method, uri: &mut Uri, headers: &mut HeaderMap, origin: &Origin) -> Result<(), Refusal> {
    refuse_what_is_ambiguous(headers)?;
    let upgrade = asks_for_upgrade(headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    let takes_trailers = headers.get_all(TE).iter().any(|te| lists(te, "trailers"));
    remove_hop_by_hop(headers);
    // Answered by the proxy, which has the client's body sent as soon as the pod takes it.
    headers.remove(EXPECT);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if *method == Method::CONNECT {
        use_authority_form(uri, headers)?;
    } else {
        use_origin_form(uri, headers, origin);
    }
    join_cookies(headers);
    let passed_on = origin.passed_on(headers);
    let origin = passed_on.as_ref().unwrap_or(origin);
    if passed_on.is_none() {
        remove_identity(headers);
    }
    remove_other_spellings(headers);
    for said in SAID_OF_ORIGINS {
        headers.remove(said);
    }
    headers.insert(X_FORWARDED_FOR, origin.forwarded_for.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(origin.scheme.name()));
    headers.insert(FORWARDED, origin.forwarded.clone());
    Ok(())
}

/// Brings the head of a request that is in a pod's form into that of HTTP/2 (RFC 9113, 8.3.1 and 8.5).
pub(crate) fn to_http2(method: &Method, uri: &mut Uri, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let host = headers.remove(HOST).ok_or(Refusal::Host)?;
    if *method == Method::CONNECT {
        return Ok(());
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let parts = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
    *uri = parts.build().map_err(|_| Refusal::Host)?;
    headers.remove(TRANSFER_ENCODING);
    Ok(())
}

/// Brings a response's head into the form in which a client gets it.
pub(crate) fn to_client(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(TRANSFER_ENCODING);
}

/// The same for the answer that switches protocols.
pub(crate) fn switching_to_client(headers: &mut HeaderMap) {
    let upgrade = headers.get(UPGRADE).cloned();
    to_client(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
    }
}

/// The same for the answer after which a connection is a tunnel: it has no body (RFC 9110, 9.3.6).
pub(crate) fn tunnelling_to_client(headers: &mut HeaderMap) {
    to_client(headers);
    headers.remove(CONTENT_LENGTH);
}

fn refuse_what_is_ambiguous(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Refusal::SeveralHosts);
    }
    Ok(())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = names_in_connection(headers)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, UPGRADE] {
        headers.remove(name);
    }
}

/// Nobody says of itself who it is on the tailnet.
fn remove_identity(headers: &mut HeaderMap) {
    let forged = headers.keys().filter(|name| name.as_str().starts_with(SAID_BY_DAEMON));
    for name in forged.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

/// Interfaces such as CGI (RFC 3875, 4.1.18) read `_` and `-` in a name as the same.
fn remove_other_spellings(headers: &mut HeaderMap) {
    let said = [X_FORWARDED_FOR, X_FORWARDED_PROTO];
    let is_said = |name: &str| {
        name.starts_with(SAID_BY_DAEMON) || SAID_OF_ORIGINS.iter().chain(&said).any(|header| header.as_str() == name)
    };
    let names = headers.keys().filter(|name| name.as_str().contains('_'));
    let forged = names.filter(|name| is_said(&name.as_str().replace('_', "-")));
    for name in forged.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

fn names_in_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn lists(value: &HeaderValue, name: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(name)))
}

/// A CONNECT names a host and a port and nothing else, and has no body (RFC 9110, 9.3.6).
fn use_authority_form(uri: &Uri, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let is_bare = uri.scheme().is_none() && uri.path_and_query().is_none();
    let authority = uri.authority().filter(|it| is_bare && it.port().is_some()).ok_or(Refusal::Connect)?;
    headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Connect)?);
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    Ok(())
}

fn use_origin_form(uri: &mut Uri, headers: &mut HeaderMap, origin: &Origin) {
    if let Some(authority) = uri.authority() {
        // Whatever stands before an @ is no part of a host.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            headers.insert(HOST, host);
        }
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *uri = Uri::from(path);
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, origin.host.clone());
    }
}

/// HTTP/2 clients send each cookie in a line of its own; apps of HTTP/1.1 know one line only (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice())) {
            headers.insert(COOKIE, joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin::new([10, 44, 0, 9].into(), ([10, 45, 0, 1], 80).into(), Scheme::Http)
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn check(target: &str, sent: &[(&'static str, &'static str)], expected: (&str, &[(&'static str, &'static str)])) {
        let (mut uri, mut got) = (target.parse().unwrap(), headers(sent));
        to_pod(&Method::GET, &mut uri, &mut got, &origin()).unwrap();
        let always = [
            ("x-forwarded-for", "10.44.0.9"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=10.44.0.9;proto=http"),
        ];
        assert_eq!(uri.to_string(), expected.0);
        assert_eq!(got, headers(&[expected.1, &always].concat()), "{sent:?}");
    }

    #[test]
    fn what_concerns_one_connection_does_not_pass() {
        let host = ("host", "demo");
        check("/", &[host, ("connection", "close")], ("/", &[host]));
        check(
            "/",
            &[host, ("connection", "keep-alive, X-Mine"), ("x-mine", "1"), ("x-yours", "2")],
            ("/", &[host, ("x-yours", "2")]),
        );
        check(
            "/",
            &[host, ("keep-alive", "timeout=5"), ("proxy-connection", "close"), ("upgrade", "h2c")],
            ("/", &[host]),
        );
        check("/", &[host, ("te", "trailers, deflate")], ("/", &[host, ("te", "trailers")]));
        check("/", &[host, ("expect", "100-continue")], ("/", &[host]));
    }

    #[test]
    fn a_host_header_can_not_be_named_away() {
        check("/", &[("host", "demo"), ("connection", "host, content-length")], ("/", &[("host", "demo")]));
    }

    #[test]
    fn upgrades_pass() {
        let sent = [("host", "demo"), ("connection", "Upgrade"), ("upgrade", "websocket")];
        check("/chat", &sent, ("/chat", &[sent[0], ("connection", "upgrade"), sent[2]]));
        check("/", &[sent[0], sent[2]], ("/", &[sent[0]]));
        let offer =
            [sent[0], ("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")];
        check("/", &offer, ("/", &[sent[0]]));
    }

    #[test]
    fn what_a_client_says_of_itself_is_dropped() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("x-forwarded-proto", "https")];
        check("/", &[&[("host", "demo")], &spoofed[..]].concat(), ("/", &[("host", "demo")]));
    }

    #[test]
    fn only_the_tailnets_daemon_says_who_a_caller_is() {
        let said = [
            ("host", "demo"),
            ("tailscale-user-login", "ann@example.com"),
            ("tailscale-anything", "x"),
            ("x-forwarded-for", "100.64.0.7"),
            ("x-forwarded-proto", "https"),
        ];
        check("/", &said, ("/", &said[..1]));
        let by_daemon = |sent: &[(&'static str, &'static str)]| {
            let (mut uri, mut got) = (Uri::from_static("/"), headers(sent));
            to_pod(&Method::GET, &mut uri, &mut got, &origin().trusted()).unwrap();
            got
        };
        let forwarded = ("forwarded", "for=100.64.0.7;proto=https");
        assert_eq!(by_daemon(&said), headers(&[&said[..], &[forwarded]].concat()));
        assert_eq!(origin().trusted().behind(&headers(&said)), Some([100, 64, 0, 7].into()));
        assert_eq!(origin().behind(&headers(&said)), None);
        let unsaid = by_daemon(&said[..2]);
        assert_eq!(unsaid["x-forwarded-for"], "10.44.0.9");
        assert_eq!(unsaid.get("tailscale-user-login"), None, "it always says both");
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_its_host_wins() {
        check("http://a.example:8080/x?y=1", &[("host", "b.example")], ("/x?y=1", &[("host", "a.example:8080")]));
        check("http://a.example", &[("host", "b.example")], ("/", &[("host", "a.example")]));
    }

    #[test]
    fn a_request_without_a_host_gets_the_services_address() {
        check("/", &[], ("/", &[("host", "10.45.0.1:80")]));
    }

    #[test]
    fn requests_that_can_be_read_in_two_ways_are_refused() {
        let refused = |method: &Method, target: &'static str, lines: &[(&'static str, &'static str)]| {
            to_pod(method, &mut Uri::from_static(target), &mut headers(lines), &origin()).unwrap_err()
        };
        assert_eq!(refused(&Method::GET, "/", &[("host", "a"), ("host", "b")]), Refusal::SeveralHosts);
        for target in ["/", "db", "http://db:1/"] {
            assert_eq!(refused(&Method::CONNECT, target, &[("host", "db:1")]), Refusal::Connect);
        }
    }

    #[test]
    fn a_tunnel_is_asked_for_by_host_and_port_alone() {
        let (mut uri, mut got) = (Uri::from_static("db:5432"), headers(&[("host", "x"), ("content-length", "4")]));
        to_pod(&Method::CONNECT, &mut uri, &mut got, &origin()).unwrap();
        assert_eq!((uri.to_string().as_str(), got.get(CONTENT_LENGTH)), ("db:5432", None));
        assert_eq!(got[HOST], "db:5432");
        to_http2(&Method::CONNECT, &mut uri, &mut got).unwrap();
        assert_eq!((uri.to_string().as_str(), got.get(HOST)), ("db:5432", None));
    }

    #[test]
    fn responses_lose_what_concerned_the_pods_connection() {
        let mut response = headers(&[("connection", "close"), ("transfer-encoding", "chunked"), ("x-app", "1")]);
        to_client(&mut response);
        assert_eq!(response, headers(&[("x-app", "1")]));
        let mut switching = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        switching_to_client(&mut switching);
        assert_eq!(switching, headers(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn http2_has_the_host_in_the_target() {
        let (mut uri, mut got) = (Uri::from_static("/a?b=c"), headers(&[("host", "demo:80"), ("te", "trailers")]));
        to_http2(&Method::GET, &mut uri, &mut got).unwrap();
        assert_eq!((uri.to_string().as_str(), got), ("http://demo:80/a?b=c", headers(&[("te", "trailers")])));
        assert_eq!(to_http2(&Method::GET, &mut uri, &mut headers(&[("host", "a b")])), Err(Refusal::Host));
    }

    #[test]
    fn cookies_of_several_lines_become_one() {
        let (mut uri, mut got) = (Uri::from_static("/"), HeaderMap::new());
        got.append(COOKIE, HeaderValue::from_static("a=1"));
        got.append(COOKIE, HeaderValue::from_static("b=2"));
        to_pod(&Method::GET, &mut uri, &mut got, &origin()).unwrap();
        assert_eq!(got.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn version_six_addresses_are_quoted() {
        let origin = Origin::new("fd00::9".parse().unwrap(), ([10, 45, 0, 1], 80).into(), Scheme::Https);
        assert_eq!(origin.forwarded, "for=\"[fd00::9]\";proto=https");
        assert_eq!(origin.forwarded_for, "fd00::9");
    }
}
