//! The LocalAPI.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{ETAG, HOST, IF_MATCH, ORIGIN, REFERER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::state::{Daemon, Known, Node, Tailnet};

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

struct Asked {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
    uid: u32,
}

struct Refused(StatusCode, String);

pub(crate) async fn answer(
    daemon: Arc<Daemon>,
    uid: u32,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let asked = Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: query.map(|(name, value)| (name.to_owned(), value.replace("%3A", ":"))).collect(),
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
        uid,
    };
    let answer = asked.answer(&daemon).unwrap_or_else(|Refused(status, said)| {
        let mut response = Response::new(text(said));
        *response.status_mut() = status;
        response
    });
    Ok(answer)
}

impl Asked {
    fn answer(&self, daemon: &Arc<Daemon>) -> Result<Response<Body>, Refused> {
        if let Some(path) = self.path.strip_prefix("/test/") {
            return self.answer_test(daemon, path);
        }
        let is_the_right_host = self.headers.get(HOST).is_some_and(|host| host == "local-tailscaled.sock");
        if !is_the_right_host || self.headers.contains_key(REFERER) || self.headers.contains_key(ORIGIN) {
            return Err(Refused(StatusCode::FORBIDDEN, "invalid localapi request".to_owned()));
        }
        let Some(path) = self.path.strip_prefix("/localapi/v0/") else { return Err(not_found()) };
        let mut known = daemon.known();
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        known.asked.push(json!({"method": self.method.as_str(), "path": path, "body": body}));
        match (&self.method, path) {
            (&Method::GET, "status") => Ok(answer_json(&known.status())),
            (&Method::GET, "whois") => self.whois(&known),
            (&Method::GET, "prefs") => Ok(answer_json(&prefs(&known))),
            (&Method::PATCH, "prefs") => self.patch_prefs(daemon, &mut known),
            (&Method::GET, "serve-config") => {
                let body = known.kept.serve_config.to_string();
                let etag = etag(&body).parse().map_err(|_| not_found())?;
                let mut response = Response::new(text(body));
                response.headers_mut().insert(ETAG, etag);
                Ok(response)
            }
            (&Method::POST, "serve-config") => self.set_serve_config(daemon, &mut known),
            (_, "serve-config") => Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "method not allowed".to_owned())),
            (&Method::GET, "watch-ipn-bus") => {
                drop(known);
                Ok(Response::new(bus(daemon)))
            }
            (&Method::GET, path) if path.starts_with("cert/") => self.certificate(&known, &path["cert/".len()..]),
            _ => Err(not_found()),
        }
    }

    /// A key and a certificate for a name of the machine, PEM.
    fn certificate(&self, known: &Known, name: &str) -> Result<Response<Body>, Refused> {
        self.may_write(known, "cert access denied")?;
        let kind = self.query.iter().find(|(name, _)| name == "type").map(|(_, kind)| kind.as_str());
        if kind != Some("pair") {
            return Err(Refused(
                StatusCode::BAD_REQUEST,
                "invalid type; want \"cert\" (default), \"key\", or \"pair\"".to_owned(),
            ));
        }
        if !known.tailnet.has_certificates || name != known.name_of(None) {
            return Err(internal(format!("invalid domain \"{name}\"")));
        }
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).map_err(internal)?;
        Ok(Response::new(text(format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem()))))
    }

    fn answer_test(&self, daemon: &Arc<Daemon>, path: &str) -> Result<Response<Body>, Refused> {
        let mut known = daemon.known();
        match (&self.method, path) {
            (&Method::GET, "asked") => Ok(answer_json(&json!(known.asked))),
            (&Method::PUT, "tailnet") => {
                known.tailnet = serde_json::from_slice::<Tailnet>(&self.body).map_err(internal)?;
                daemon.has_changed(&known).map_err(internal)?;
                Ok(answer_json(&json!(null)))
            }
            _ => Err(not_found()),
        }
    }

    fn whois(&self, known: &Known) -> Result<Response<Body>, Refused> {
        let bad = |said: &str| Refused(StatusCode::BAD_REQUEST, said.to_owned());
        let address =
            self.query.iter().find(|(name, _)| name == "addr").ok_or_else(|| bad("missing 'addr' parameter"))?;
        let ip: Option<IpAddr> = address.1.parse().ok();
        let ip = ip.or_else(|| address.1.parse::<SocketAddr>().ok().map(|address| address.ip()));
        let ip = ip.ok_or_else(|| bad("invalid 'addr' parameter"))?;
        let node = known.whois(ip).ok_or_else(|| Refused(StatusCode::NOT_FOUND, "no match for IP:port".to_owned()))?;
        let Node { login, tags, .. } = node;
        let login = if tags.is_empty() { login.as_str() } else { "tagged-devices" };
        Ok(answer_json(&json!({
            "Node": {"Name": format!("{}.{}.", node.name, known.tailnet.domain), "Tags": tags, "Addresses": node.addresses},
            "UserProfile": {"LoginName": login, "DisplayName": login},
            "CapMap": node.capabilities,
        })))
    }

    fn patch_prefs(&self, daemon: &Daemon, known: &mut Known) -> Result<Response<Body>, Refused> {
        self.may_write(known, "prefs write access denied")?;
        let patch: Value = serde_json::from_slice(&self.body).map_err(internal)?;
        if patch["AdvertiseServicesSet"] == true {
            known.kept.advertised = serde_json::from_value(patch["AdvertiseServices"].clone()).map_err(internal)?;
            daemon.has_changed(known).map_err(internal)?;
        }
        Ok(answer_json(&prefs(known)))
    }

    fn set_serve_config(&self, daemon: &Daemon, known: &mut Known) -> Result<Response<Body>, Refused> {
        self.may_write(known, "serve config denied")?;
        let new: Value = serde_json::from_slice(&self.body).map_err(internal)?;
        if known.tailnet.overtaken > 0 {
            known.tailnet.overtaken -= 1;
            let others = &mut known.kept.serve_config["TCP"]["9999"];
            *others =
                json!({"TCPForward": format!("127.0.0.1:{}", 1 + others["TCPForward"].as_str().map_or(0, str::len))});
            daemon.has_changed(known).map_err(internal)?;
        }
        let expected = self.headers.get(IF_MATCH).and_then(|etag| etag.to_str().ok());
        if expected.is_some_and(|expected| expected != etag(&known.kept.serve_config.to_string())) {
            return Err(Refused(StatusCode::PRECONDITION_FAILED, "etag mismatch".to_owned()));
        }
        if let Some(port) = changes_type(&known.kept.serve_config, &new) {
            return Err(internal(format!("port {port} is already serving another type")));
        }
        known.kept.serve_config = new;
        daemon.has_changed(known).map_err(internal)?;
        Ok(Response::new(text(String::new())))
    }

    fn may_write(&self, known: &Known, said: &str) -> Result<(), Refused> {
        let may = self.uid == 0 || known.tailnet.operator == Some(self.uid);
        if may { Ok(()) } else { Err(Refused(StatusCode::FORBIDDEN, said.to_owned())) }
    }
}

/// A port, of the machine or of a Tailscale Service, that is of another type than before: bytes, HTTP or HTTPS.
fn changes_type(old: &Value, new: &Value) -> Option<String> {
    let none = serde_json::Map::new();
    let services = old["Services"].as_object().unwrap_or(&none).iter();
    let sections = services.map(|(name, section)| (section, &new["Services"][name])).chain([(old, new)]);
    sections.into_iter().find_map(|(old, new)| {
        let type_of = |entry: &Value| (entry["HTTP"] == true, entry["HTTPS"] == true);
        let changes = |(port, entry): &(&String, &Value)| {
            new["TCP"].get(port.as_str()).is_some_and(|wanted| type_of(wanted) != type_of(entry))
        };
        old["TCP"].as_object()?.iter().find(changes).map(|(port, _)| port.clone())
    })
}

fn prefs(known: &Known) -> Value {
    json!({"WantRunning": true, "LoggedOut": false, "AdvertiseServices": known.kept.advertised})
}

/// A line of JSON for how things are, and for every change of it.
fn bus(daemon: &Arc<Daemon>) -> Body {
    let mut changes = daemon.changes.subscribe();
    changes.mark_changed();
    let states = ["NoState", "InUseOtherUser", "NeedsLogin", "NeedsMachineAuth", "Stopped", "Starting", "Running"];
    let lines = stream::unfold((changes, Arc::clone(daemon)), move |(mut changes, daemon)| async move {
        changes.changed().await.ok()?;
        let known = daemon.known();
        let state = states.iter().position(|state| *state == known.tailnet.state);
        let line = json!({"SessionID": "1", "State": state, "Prefs": prefs(&known), "NetMap": {"SelfNode": known.status()["Self"]}});
        drop(known);
        Some((Ok(Frame::data(Bytes::from(format!("{line}\n")))), (changes, daemon)))
    });
    let lines: BoxStream<'static, Result<Frame<Bytes>, Infallible>> = lines.boxed();
    StreamBody::new(lines).boxed_unsync()
}

fn etag(body: &str) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer_json(value: &Value) -> Response<Body> {
    Response::new(text(value.to_string()))
}

fn text(body: String) -> Body {
    Full::new(Bytes::from(body)).boxed_unsync()
}

fn not_found() -> Refused {
    Refused(StatusCode::NOT_FOUND, "404 page not found".to_owned())
}

fn internal(error: impl ToString) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, json!({"error": error.to_string()}).to_string())
}
