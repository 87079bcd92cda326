//! Tailscale's daemon, over its LocalAPI: HTTP on a Unix socket. Requests are few, so each has a connection of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use decide::callers::Whois;
use decide::exposure::TailnetNode;
use http::header::{ETAG, HOST, IF_MATCH};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{PAUSE, Peers};

/// With any other host the daemon takes a request for a web page's.
const HOST_NAME: &str = "local-tailscaled.sock";
/// The daemon answers from memory.
const LONGEST: Duration = Duration::from_secs(10);
/// A certificate that it doesn't have yet is issued by others.
const LONGEST_ISSUE: Duration = Duration::from_mins(2);
/// States, preferences and the network's map; not the traffic, nor the health.
const WATCHED: u32 = 2 | 4 | 8;

/// Before this version, `ProxyProtocol` is not kept in the serve configuration.
const OLDEST: (u32, u32) = (1, 92);
/// The state of a daemon that is logged in and connected.
pub(super) const RUNNING: &str = "Running";
/// The capability that names the Tailscale Services that a machine may host.
const SERVICE_HOST: &str = "service-host";
/// The capability to be reached from the whole Internet.
const FUNNEL: &str = "funnel";

/// The daemon's socket.
#[derive(Clone, Debug)]
pub struct LocalApi {
    socket: PathBuf,
}

/// Why the daemon did not do something.
#[derive(Debug, thiserror::Error)]
pub enum LocalApiError {
    #[error("Tailscale's daemon can't be reached at {}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("Tailscale's daemon broke off at {path}")]
    Broken { path: String, source: hyper::Error },
    #[error("Tailscale's daemon did not answer {path} within {} s", limit.as_secs())]
    Silent { path: String, limit: Duration },
    /// Somebody else has changed it meanwhile.
    #[error("the serve configuration has changed meanwhile")]
    Changed,
    #[error("Tailscale's daemon refused {path}: {status}: {said}")]
    Refused { path: String, status: StatusCode, said: String },
    #[error("Tailscale's daemon answered {path} with what is not understood")]
    Answer { path: String, source: serde_json::Error },
    #[error("Tailscale's daemon is not on the tailnet: its state is {0}")]
    NotRunning(String),
    #[error("can't be written as a request")]
    Request(#[from] http::Error),
}

/// What the daemon says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Status {
    /// Such as `1.92.5-t…`.
    version: String,
    pub(super) backend_state: String,
    #[serde(rename = "Self")]
    node: StatusNode,
    #[serde(rename = "TailscaleIPs")]
    addresses: Option<Vec<IpAddr>>,
    #[serde(rename = "MagicDNSSuffix")]
    domain: String,
    cert_domains: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StatusNode {
    #[serde(rename = "DNSName")]
    name: String,
    tags: Option<Vec<String>>,
    cap_map: Option<BTreeMap<String, Option<Vec<Value>>>>,
}

/// The machine as others on the tailnet see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// With the tailnet's domain, and without a dot at the end.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Whether the tailnet's names get certificates.
    pub has_certificates: bool,
}

/// What the daemon says of an address.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WhoisAnswer {
    node: WhoisNode,
    #[serde(rename = "UserProfile")]
    user: WhoisUser,
    #[serde(rename = "CapMap")]
    capabilities: Option<BTreeMap<String, Option<Vec<Value>>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WhoisNode {
    name: String,
    tags: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WhoisUser {
    #[serde(rename = "LoginName")]
    login: String,
}

/// What the daemon says of the tailnet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "BackendState")]
    backend_state: String,
    #[serde(rename = "Self")]
    node: Peer,
    #[serde(rename = "Peer", deserialize_with = "or_none")]
    peers: BTreeMap<String, Peer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Peer {
    #[serde(rename = "DNSName")]
    name: String,
    #[serde(rename = "TailscaleIPs")]
    addresses: Option<Vec<IpAddr>>,
    #[serde(rename = "Tags")]
    tags: Option<Vec<String>>,
}

/// The machines of a tailnet that have one tag in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tagged {
    /// This one, by name and address, if it is one of them.
    pub(crate) this: Option<(String, IpAddr)>,
    pub(crate) others: BTreeMap<String, IpAddr>,
}

impl Peer {
    /// Its name and first address of IPv4, if it has the tag.
    fn tagged(self, tag: &str) -> Option<(String, IpAddr)> {
        let is_it = self.tags.iter().flatten().any(|known| known == tag);
        let address = self.addresses.into_iter().flatten().find(IpAddr::is_ipv4);
        Some((full_name(&self.name), address.filter(|_| is_it)?))
    }
}

/// The daemon writes an empty map as null.
fn or_none<'d, D: Deserializer<'d>>(deserializer: D) -> Result<BTreeMap<String, Peer>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn full_name(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The serve configuration and its version.
pub(super) struct ServeConfig {
    pub(super) config: Value,
    pub(super) etag: String,
}

impl Status {
    /// Whether it does everything that it is asked for: what it doesn't know in the serve configuration it forgets.
    pub(super) fn is_new_enough(&self) -> bool {
        let mut numbers = self.version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(OLDEST.0), Some(OLDEST.1))
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn node(&self) -> TailnetNode {
        let cap_map = self.node.cap_map.as_ref();
        let hosted = cap_map.and_then(|caps| caps.get(SERVICE_HOST)).into_iter().flatten().flatten();
        let hosted = hosted.filter_map(|value| BTreeMap::<String, Vec<IpAddr>>::deserialize(value).ok());
        TailnetNode {
            name: self.node.name.trim_end_matches('.').to_owned(),
            domain: self.domain.trim_matches('.').to_owned(),
            addresses: self.addresses.clone().unwrap_or_default(),
            tags: self.node.tags.iter().flatten().cloned().collect(),
            has_certificates: self.cert_domains.as_ref().is_some_and(|domains| !domains.is_empty()),
            may_funnel: cap_map.is_some_and(|caps| caps.contains_key(FUNNEL)),
            approved: hosted.flatten().collect(),
        }
    }
}

impl LocalApi {
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Whether there is a daemon, or was.
    pub(super) fn is_there(&self) -> bool {
        self.socket.exists()
    }

    pub(super) async fn status(&self) -> Result<Status, LocalApiError> {
        self.get("status?peers=false").await
    }

    /// The machine as it is on the tailnet; None while it is not.
    ///
    /// # Errors
    /// When the daemon can't be asked.
    pub async fn machine(&self) -> Result<Option<Machine>, LocalApiError> {
        let status = self.status().await?;
        let TailnetNode { name, addresses, has_certificates, .. } = status.node();
        let is_there = status.backend_state == RUNNING && !name.is_empty();
        Ok(is_there.then_some(Machine { name, addresses, has_certificates }))
    }

    /// A key and its certificates for a name of the machine, PEM, that are good for so long at least.
    ///
    /// # Errors
    /// When the daemon can't be asked, or has none.
    pub async fn certificate(&self, name: &str, at_least: Duration) -> Result<String, LocalApiError> {
        let path = format!("cert/{name}?type=pair&min_validity={}s", at_least.as_secs());
        let (_, body) = self.ask_within(LONGEST_ISSUE, Method::GET, &path, None, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Whose an address is; None if it is nobody's on the tailnet.
    pub(super) async fn whois(&self, client: SocketAddr) -> Result<Option<Whois>, LocalApiError> {
        let said: WhoisAnswer = match self.get(&format!("whois?addr={client}")).await {
            Err(LocalApiError::Refused { status: StatusCode::NOT_FOUND, .. }) => return Ok(None),
            said => said?,
        };
        let WhoisAnswer { node, user, capabilities } = said;
        Ok(Some(Whois {
            machine: full_name(&node.name),
            tags: node.tags.unwrap_or_default(),
            login: user.login,
            capabilities: capabilities
                .into_iter()
                .flatten()
                .map(|(name, values)| (name, values.unwrap_or_default()))
                .collect(),
        }))
    }

    /// The addresses of everything on the tailnet that this machine may see, by its name.
    pub(super) async fn peers(&self) -> Result<Peers, LocalApiError> {
        let Network { node, peers, .. } = self.get("status").await?;
        Ok(peers
            .into_values()
            .chain([node])
            .map(|peer| (full_name(&peer.name), peer.addresses.unwrap_or_default()))
            .collect())
    }

    /// The machines with this tag that this one may see.
    pub(crate) async fn tagged(&self, tag: &str) -> Result<Tagged, LocalApiError> {
        let Network { backend_state, node, peers } = self.get("status").await?;
        if backend_state != RUNNING {
            return Err(LocalApiError::NotRunning(backend_state));
        }
        let others = peers.into_values().filter_map(|peer| peer.tagged(tag)).collect();
        Ok(Tagged { this: node.tagged(tag), others })
    }

    pub(super) async fn serve_config(&self) -> Result<ServeConfig, LocalApiError> {
        let path = "serve-config";
        let (head, body) = self.ask(Method::GET, path, None, None).await?;
        let etag = head.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        Ok(ServeConfig { config: parsed(path, &body)?, etag })
    }

    /// Replaces the whole serve configuration.
    ///
    /// # Errors
    /// [`LocalApiError::Changed`] if it is not the version of that ETag any more.
    pub(super) async fn set_serve_config(&self, config: &Value, etag: &str) -> Result<(), LocalApiError> {
        self.ask(Method::POST, "serve-config", Some(config), Some(etag)).await.map(drop)
    }

    /// The Tailscale Services that the machine offers.
    pub(super) async fn advertised(&self) -> Result<BTreeSet<String>, LocalApiError> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Prefs {
            advertise_services: Option<BTreeSet<String>>,
        }
        Ok(self.get::<Prefs>("prefs").await?.advertise_services.unwrap_or_default())
    }

    pub(super) async fn advertise(&self, services: &BTreeSet<String>) -> Result<(), LocalApiError> {
        let prefs = json!({"AdvertiseServices": services, "AdvertiseServicesSet": true});
        self.ask(Method::PATCH, "prefs", Some(&prefs), None).await.map(drop)
    }

    /// Tells `heard` of everything that the daemon says on its bus, and that it came or went.
    pub async fn listen(&self, mut heard: impl FnMut()) {
        loop {
            if self.is_there()
                && let Err(error) = self.watch(&mut heard).await
            {
                tracing::debug!("Tailscale's daemon is listened to again: {error}");
            }
            heard();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Comes back when the daemon goes. The first message says how things are.
    async fn watch(&self, heard: &mut impl FnMut()) -> Result<(), LocalApiError> {
        let path = format!("watch-ipn-bus?mask={WATCHED}");
        let mut body = self.send(Method::GET, &path, None, None).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| LocalApiError::Broken { path: path.clone(), source })?;
            // A message is a line.
            if frame.data_ref().is_some_and(|data| data.contains(&b'\n')) {
                heard();
            }
        }
        Ok(())
    }

    async fn get<T: for<'d> Deserialize<'d>>(&self, path: &str) -> Result<T, LocalApiError> {
        let (_, body) = self.ask(Method::GET, path, None, None).await?;
        parsed(path, &body)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&str>,
    ) -> Result<(http::response::Parts, Bytes), LocalApiError> {
        self.ask_within(LONGEST, method, path, body, etag).await
    }

    async fn ask_within(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&str>,
    ) -> Result<(http::response::Parts, Bytes), LocalApiError> {
        let answer = async {
            let (head, body) = self.send(method, path, body, etag).await?.into_parts();
            let body =
                body.collect().await.map_err(|source| LocalApiError::Broken { path: path.to_owned(), source })?;
            Ok::<_, LocalApiError>((head, body.to_bytes()))
        };
        let silent = |_| LocalApiError::Silent { path: path.to_owned(), limit };
        let (head, body) = tokio::time::timeout(limit, answer).await.map_err(silent)??;
        if head.status == StatusCode::PRECONDITION_FAILED {
            return Err(LocalApiError::Changed);
        }
        if !head.status.is_success() {
            let said = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(LocalApiError::Refused { path: path.to_owned(), status: head.status, said });
        }
        Ok((head, body))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&str>,
    ) -> Result<Response<Incoming>, LocalApiError> {
        let unreachable = |source| LocalApiError::Unreachable { socket: self.socket.clone(), source };
        let broken = |source| LocalApiError::Broken { path: path.to_owned(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer, or with whoever waits for it.
        drop(tokio::spawn(connection));
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(format!("/localapi/v0/{path}")).header(HOST, HOST_NAME);
        if let Some(etag) = etag {
            request = request.header(IF_MATCH, etag);
        }
        sender.send_request(request.body(Full::new(body))?).await.map_err(broken)
    }
}

fn parsed<T: for<'d> Deserialize<'d>>(path: &str, body: &[u8]) -> Result<T, LocalApiError> {
    serde_json::from_slice(body).map_err(|source| LocalApiError::Answer { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_of_itself() {
        let status: Status = serde_json::from_value(json!({
            "BackendState": "Running", "TailscaleIPs": ["100.64.0.7", "fd7a:115c:a1e0::7"],
            "MagicDNSSuffix": "example.ts.net", "CertDomains": ["box.example.ts.net"], "Unknown": {"x": []},
            "Self": {"DNSName": "box.example.ts.net.", "Tags": ["tag:segue"], "CapMap": {
                "https": null, "service-host": [{"svc:web": ["100.100.0.1", "fd7a:115c:a1e0::1"]}, {"svc:db": ["100.100.0.2"]}]}},
        }))
        .unwrap();
        let node = status.node();
        assert_eq!((node.name.as_str(), node.domain.as_str()), ("box.example.ts.net", "example.ts.net"));
        assert!(!node.tags.is_empty() && node.has_certificates && node.addresses.len() == 2);
        assert_eq!(node.approved["svc:web"].len(), 2);
        assert_eq!(node.approved["svc:db"], ["100.100.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_the_daemon_says_of_others() {
        let network: Network = serde_json::from_value(json!({
            "Self": {"DNSName": "box.example.ts.net.", "TailscaleIPs": ["100.64.0.7"]},
            "Peer": {"nodekey:1": {"DNSName": "DB.example.ts.net.", "TailscaleIPs": null, "Later": 1}},
        }))
        .unwrap();
        assert_eq!(full_name(&network.peers["nodekey:1"].name), "db.example.ts.net");
        assert_eq!(network.node.addresses, Some(vec![[100, 64, 0, 7].into()]));
        let alone: Network = serde_json::from_value(json!({"Peer": null})).unwrap();
        assert!(alone.peers.is_empty());
    }

    #[test]
    fn a_daemon_that_is_too_old_is_known_by_its_version() {
        let is_new_enough = |version: &str| Status { version: version.to_owned(), ..Status::default() }.is_new_enough();
        assert!(["1.92.5-t123", "1.92.0", "1.102.3", "2.0.1"].into_iter().all(is_new_enough));
        assert!(!["1.90.9-tabc", "", "unknown"].into_iter().any(is_new_enough));
    }

    #[test]
    fn a_daemon_that_is_not_logged_in_says_little() {
        let status: Status = serde_json::from_value(json!({
            "BackendState": "NeedsLogin", "TailscaleIPs": null, "CertDomains": null, "Self": {"DNSName": "", "CapMap": null},
        }))
        .unwrap();
        assert_eq!((status.backend_state.as_str(), status.node()), ("NeedsLogin", TailnetNode::default()));
    }
}
