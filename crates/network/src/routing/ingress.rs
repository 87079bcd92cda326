//! What Ingresses ask of the data plane, and where they are reached. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use decide::ingress::{PathType, Rule};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressTLS};
use objects::names;

use super::chain;
use super::plan::Snapshot;
use crate::config::{self, Backend, Certificate, Listener};
use crate::events::About;
use crate::proxy::certificates;

const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);
const HTTPS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 443);

/// The class of an Ingress before there were classes as objects.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What all Ingresses of ours ask for together; of two that want the same the older gets it.
pub(super) fn ingress(snapshot: &Snapshot, services: &[Arc<config::Service>]) -> config::Ingress {
    let ours = ours(snapshot);
    let mut ingress = config::Ingress::default();
    for one in &ours {
        let behind = Behind { namespace: one.metadata.namespace.as_deref().unwrap_or_default(), services };
        ingress.rules.extend(behind.rules(one));
        ingress.default = ingress.default.or_else(|| behind.default(one));
        let tls = one.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
        ingress.certificates.extend(tls.filter_map(|tls| certificate(snapshot, behind.namespace, tls)));
    }
    ingress.http = (!ours.is_empty()).then_some(HTTP);
    ingress.https = (!ingress.certificates.is_empty()).then_some(HTTPS);
    ingress
}

/// Ingresses of a class that is ours, the oldest first.
pub(super) fn ours(snapshot: &Snapshot) -> Vec<&Ingress> {
    let mut ours: Vec<&Ingress> =
        snapshot.ingresses.values().map(AsRef::as_ref).filter(|one| is_ours(snapshot, one)).collect();
    ours.sort_by_key(|one| {
        let metadata = &one.metadata;
        (metadata.creation_timestamp.as_ref().map(|time| time.0), metadata.namespace.clone(), metadata.name.clone())
    });
    ours
}

fn is_ours(snapshot: &Snapshot, one: &Ingress) -> bool {
    let named = one.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotated = one.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    let Some(class) = named.or(annotated.map(String::as_str)) else { return false };
    let class = snapshot.ingress_classes.get(&format!("/{class}"));
    let controller = class.and_then(|class| class.spec.as_ref()?.controller.as_deref());
    controller == Some(names::INGRESS_CONTROLLER)
}

/// What the Ingresses of one namespace can lead to.
struct Behind<'a> {
    namespace: &'a str,
    services: &'a [Arc<config::Service>],
}

impl Behind<'_> {
    fn rules(&self, one: &Ingress) -> Vec<Rule<Backend>> {
        let rules = one.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let of_rule = |rule: &IngressRule| -> Vec<Rule<Backend>> {
            let host = rule.host.clone().unwrap_or_default();
            match &rule.http {
                Some(http) => http.paths.iter().filter_map(|path| self.rule(host.clone(), path)).collect(),
                None => self.default(one).into_iter().map(|backend| everything_at(host.clone(), backend)).collect(),
            }
        };
        rules.flat_map(of_rule).collect()
    }

    /// What is behind whatever an Ingress has no rule about.
    fn default(&self, one: &Ingress) -> Option<Backend> {
        self.backend(one.spec.as_ref()?.default_backend.as_ref()?)
    }

    fn rule(&self, host: String, path: &HTTPIngressPath) -> Option<Rule<Backend>> {
        let path_type = if path.path_type == "Exact" { PathType::Exact } else { PathType::Prefix };
        let backend = self.backend(&path.backend)?;
        Some(Rule { host, path: path.path.clone().unwrap_or_else(|| "/".to_owned()), path_type, backend })
    }

    /// None for what is no Service.
    fn backend(&self, backend: &IngressBackend) -> Option<Backend> {
        let wanted = backend.service.as_ref()?;
        let port = wanted.port.as_ref();
        let (number, name) =
            (port.and_then(|port| port.number), port.and_then(|port| port.name.as_deref()).unwrap_or_default());
        let is_it = |port: &&config::ServicePort| match number {
            Some(number) => i32::from(port.port) == number,
            None => port.name == name,
        };
        let service = self.services.iter().find(|it| it.namespace == self.namespace && it.name == wanted.name);
        let at = service.and_then(|service| {
            let port = service.ports.iter().find(is_it).filter(|_| service.proxy_protocol.is_none())?;
            let own = service.answers.iter().find(|ip| service.addresses.contains(ip))?;
            Some(SocketAddr::new(*own, port.port))
        });
        Some(Backend { service: format!("{}/{}", self.namespace, wanted.name), at })
    }
}

fn everything_at(host: String, backend: Backend) -> Rule<Backend> {
    Rule { host, path: "/".to_owned(), path_type: PathType::Prefix, backend }
}

/// None while there is no such Secret. One that can't be used is the data plane's to pass over, which knows an older one.
fn certificate(snapshot: &Snapshot, namespace: &str, tls: &IngressTLS) -> Option<Certificate> {
    let secret = format!("{namespace}/{}", tls.secret_name.as_deref()?);
    let data = snapshot.secrets.get(&secret)?.data.as_ref();
    let text = |name: &str| String::from_utf8(data?.get(name)?.0.clone()).ok();
    let (chain, key) = (text("tls.crt").unwrap_or_default(), text("tls.key").unwrap_or_default());
    Some(Certificate { secret, hosts: tls.hosts.clone().unwrap_or_default(), chain, key })
}

/// Certificates that Ingresses name and that can't be used.
#[derive(Debug, Default)]
pub(super) struct CertificateFaults {
    /// The versions of what they were found in.
    looked_at: Vec<String>,
    /// By the Ingress; with what is wrong.
    known: BTreeSet<(String, String)>,
}

impl CertificateFaults {
    /// Those that were not there when they were looked for last.
    pub(super) fn new_ones(&mut self, snapshot: &Snapshot) -> Vec<(About, String)> {
        let ours = ours(snapshot);
        let versions = ours.iter().map(|one| &one.metadata).chain(snapshot.secrets.values().map(|it| &it.metadata));
        let versions = versions.map(|metadata| {
            format!(
                "{}@{}",
                metadata.uid.as_deref().unwrap_or_default(),
                metadata.resource_version.as_deref().unwrap_or_default()
            )
        });
        let versions: Vec<String> = versions.collect();
        // Keys take a while to read.
        if versions == self.looked_at {
            return Vec::new();
        }
        self.looked_at = versions;
        let mut new = Vec::new();
        let mut found = BTreeSet::new();
        for one in ours {
            let about = About::of(one);
            for fault in faults(snapshot, one) {
                let known = (format!("{}/{}", about.namespace, about.name), fault.clone());
                if !self.known.contains(&known) {
                    new.push((about.clone(), fault));
                }
                found.insert(known);
            }
        }
        self.known = found;
        new
    }
}

fn faults(snapshot: &Snapshot, one: &Ingress) -> Vec<String> {
    let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
    let tls = one.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    tls.filter_map(|tls| {
        let secret = tls.secret_name.as_deref()?;
        let Some(certificate) = certificate(snapshot, namespace, tls) else {
            return Some(format!("There is no Secret {secret}: clients are shown another's certificate, or none."));
        };
        let error = certificates::check(&certificate).err()?;
        Some(format!("{}. The Secret's last certificate that could be used is used on.", chain(&error)))
    })
    .collect()
}

/// Whether Ingresses are reached at a listener.
pub(super) fn is_at(listener: &Listener) -> bool {
    [HTTP, HTTPS].map(Listener::tcp).contains(listener)
}

/// An Ingress whose status says something else than where it is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IngressStatus {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) address: IpAddr,
}

/// What is to be written once connections are taken.
pub(super) fn statuses(snapshot: &Snapshot, is_open: &dyn Fn(&Listener) -> bool) -> BTreeSet<IngressStatus> {
    let Some(host) = snapshot.host.filter(|_| is_open(&Listener::tcp(HTTP))) else { return BTreeSet::new() };
    ours(snapshot).into_iter().filter_map(|one| status(one, host)).collect()
}

fn status(one: &Ingress, host: IpAddr) -> Option<IngressStatus> {
    let said = one.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let said = said.iter().flat_map(|it| it.ingress.iter().flatten()).find_map(|point| point.ip.as_deref());
    if said == Some(host.to_string().as_str()) {
        return None;
    }
    let metadata = &one.metadata;
    Some(IngressStatus {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        resource_version: metadata.resource_version.clone()?,
        address: host,
    })
}

#[cfg(test)]
#[path = "ingress_tests.rs"]
mod tests;
