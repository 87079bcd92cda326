//! What the daemon knows.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the coordination server says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Tailnet {
    pub(crate) domain: String,
    pub(crate) node: Node,
    /// The daemon's own.
    #[serde(default = "version")]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) peers: Vec<Node>,
    #[serde(default = "running")]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) has_certificates: bool,
    /// The Tailscale Services that this machine may host once it offers them.
    #[serde(default)]
    pub(crate) approved: BTreeMap<String, Vec<IpAddr>>,
    /// Whether this machine may be reached from the Internet.
    #[serde(default)]
    pub(crate) may_funnel: bool,
    /// Who may write beside root.
    #[serde(default)]
    pub(crate) operator: Option<u32>,
    /// So many writes of the serve configuration find that somebody else was faster.
    #[serde(default)]
    pub(crate) overtaken: u32,
}

fn version() -> String {
    "1.92.5".to_owned()
}

fn running() -> String {
    "Running".to_owned()
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Node {
    /// Without the domain.
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Who uses it, if it has no tags.
    #[serde(default)]
    pub(crate) login: String,
    /// What the tailnet policy lets it do here.
    #[serde(default)]
    pub(crate) capabilities: BTreeMap<String, Vec<Value>>,
}

/// What the daemon keeps over restarts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Kept {
    /// As it was posted, in the daemon's own form.
    pub(crate) serve_config: Value,
    pub(crate) advertised: Vec<String>,
}

pub(crate) struct Daemon {
    file: PathBuf,
    known: Mutex<Known>,
    /// Grows with every change.
    pub(crate) changes: watch::Sender<u64>,
}

pub(crate) struct Known {
    pub(crate) tailnet: Tailnet,
    pub(crate) kept: Kept,
    pub(crate) asked: Vec<Value>,
}

impl Daemon {
    pub(crate) fn new(file: &Path, tailnet: Tailnet) -> io::Result<Self> {
        let kept = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(error),
        };
        let known = Mutex::new(Known { tailnet, kept, asked: Vec::new() });
        Ok(Self { file: file.to_owned(), known, changes: watch::Sender::new(0) })
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what is kept, and tells of it.
    pub(crate) fn has_changed(&self, known: &Known) -> io::Result<()> {
        let unfinished = self.file.with_extension("unfinished");
        std::fs::write(&unfinished, serde_json::to_vec(&known.kept)?)?;
        std::fs::rename(unfinished, &self.file)?;
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }
}

impl Known {
    /// Tailscale Services that this machine hosts, with their addresses.
    pub(crate) fn hosted(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut approved = self.tailnet.approved.clone();
        approved.retain(|name, _| self.kept.advertised.contains(name));
        approved
    }

    pub(crate) fn whois(&self, ip: IpAddr) -> Option<&Node> {
        let all = self.tailnet.peers.iter().chain([&self.tailnet.node]);
        all.into_iter().find(|node| node.addresses.contains(&ip))
    }

    pub(crate) fn status(&self) -> Value {
        let tailnet = &self.tailnet;
        let is_running = tailnet.state == "Running";
        let mut node = self.node(&tailnet.node);
        let hosted = self.hosted();
        let mut capabilities = json!({});
        if !hosted.is_empty() {
            capabilities["service-host"] = json!([hosted]);
        }
        if tailnet.may_funnel {
            capabilities["funnel"] = Value::Null;
        }
        node["CapMap"] = capabilities;
        let certificates = (tailnet.has_certificates && is_running).then(|| [self.full_name(&tailnet.node)]);
        let peers: BTreeMap<String, Value> =
            tailnet.peers.iter().map(|peer| (format!("nodekey:{}", peer.name), self.node(peer))).collect();
        json!({
            "Version": tailnet.version, "BackendState": tailnet.state,
            "TailscaleIPs": is_running.then_some(&tailnet.node.addresses),
            "Self": node, "Peer": peers, "MagicDNSSuffix": tailnet.domain, "CertDomains": certificates,
        })
    }

    fn node(&self, node: &Node) -> Value {
        let mut value = json!({
            "HostName": node.name, "DNSName": format!("{}.", self.full_name(node)), "TailscaleIPs": node.addresses, "Online": true,
        });
        if !node.tags.is_empty() {
            value["Tags"] = json!(node.tags);
        }
        value
    }

    fn full_name(&self, node: &Node) -> String {
        format!("{}.{}", node.name, self.tailnet.domain)
    }

    /// The name at which the ports of the machine, or of a Tailscale Service, are.
    pub(crate) fn name_of(&self, service: Option<&str>) -> String {
        match service {
            None => self.full_name(&self.tailnet.node),
            Some(service) => format!("{}.{}", service.trim_start_matches("svc:"), self.tailnet.domain),
        }
    }
}
