//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// The resolver takes no more; Kubernetes' numbers.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
/// The kernel takes no longer host name.
const LONGEST_HOSTNAME: usize = 63;

/// The files' texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EtcFiles {
    hosts: String,
    hostname: String,
    resolv_conf: String,
}

/// How names are resolved outside the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'a> {
    pub(crate) dns: Ipv4Addr,
    pub(crate) cluster_domain: &'a str,
    /// The machine's own `resolv.conf`.
    pub(crate) resolv_conf: &'a str,
}

/// The host name that the pod's processes see.
pub(crate) fn hostname(pod: &Pod) -> String {
    let stated = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = stated.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(name.floor_char_boundary(LONGEST_HOSTNAME));
    name.trim_end_matches(['-', '.']).to_owned()
}

impl EtcFiles {
    pub(crate) fn new(pod: &Pod, ip: Ipv4Addr, naming: &Naming<'_>) -> Self {
        Self {
            hosts: hosts(pod, ip, naming.cluster_domain),
            hostname: format!("{}\n", hostname(pod)),
            resolv_conf: resolv_conf(pod, naming),
        }
    }

    /// Writes the files and tells where each belongs.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let texts = [&self.hosts, &self.hostname, &self.resolv_conf];
        paths(directory).iter().zip(texts).try_for_each(|((path, _), text)| std::fs::write(path, text))
    }
}

/// Where the files are, and where they belong in a container.
pub(crate) fn paths(directory: &Path) -> [(PathBuf, &'static str); 3] {
    [
        (directory.join("hosts"), "/etc/hosts"),
        (directory.join("hostname"), "/etc/hostname"),
        (directory.join("resolv.conf"), "/etc/resolv.conf"),
    ]
}

fn hosts(pod: &Pod, ip: Ipv4Addr, cluster_domain: &str) -> String {
    let name = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|subdomain| !subdomain.is_empty());
    let own = match subdomain {
        Some(subdomain) => format!("{name}.{subdomain}.{namespace}.svc.{cluster_domain}\t{name}"),
        None => name,
    };
    let mut text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{own}\n");
    for alias in spec.into_iter().flat_map(|spec| spec.host_aliases.iter().flatten()) {
        let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[derive(Default)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn resolv_conf(pod: &Pod, naming: &Naming<'_>) -> String {
    let spec = pod.spec.as_ref();
    let host = Resolver::read(naming.resolv_conf);
    let mut resolver = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        Some("None") => Resolver::default(),
        Some("Default") => host,
        _ => cluster_first(pod, naming, host),
    };
    add_stated(&mut resolver, spec);
    resolver.text()
}

fn cluster_first(pod: &Pod, naming: &Naming<'_>, host: Resolver) -> Resolver {
    let domain = naming.cluster_domain;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    searches.extend(host.searches);
    Resolver { nameservers: vec![naming.dns.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

fn add_stated(resolver: &mut Resolver, spec: Option<&PodSpec>) {
    let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) else { return };
    resolver.nameservers.extend(config.nameservers.iter().flatten().cloned());
    resolver.searches.extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        resolver.options.retain(|known| known.split(':').next() != Some(name));
        resolver.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    fn text(&self) -> String {
        let unique = |words: &[String]| {
            let mut kept: Vec<String> = Vec::new();
            words.iter().filter(|word| !word.is_empty()).for_each(|word| {
                if !kept.contains(word) {
                    kept.push(word.clone());
                }
            });
            kept
        };
        let mut text = String::new();
        let searches = unique(&self.searches);
        if !searches.is_empty() {
            let kept: Vec<String> = searches.into_iter().take(MOST_SEARCHES).collect();
            text.push_str(&format!("search {}\n", kept.join(" ")));
        }
        for nameserver in unique(&self.nameservers).iter().take(MOST_NAMESERVERS) {
            text.push_str(&format!("nameserver {nameserver}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn files(spec: Value) -> EtcFiles {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec})).unwrap();
        let naming = Naming {
            dns: Ipv4Addr::new(10, 45, 0, 10),
            cluster_domain: "cluster.local",
            resolv_conf: "# made by hand\nnameserver 192.0.2.53\nsearch lan\noptions edns0\n",
        };
        EtcFiles::new(&pod, Ipv4Addr::new(10, 44, 0, 2), &naming)
    }

    #[test]
    fn names_are_resolved_as_the_policy_says() {
        let table = [
            (
                json!({"containers": []}),
                "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.45.0.10\noptions ndots:5\n",
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), "search lan\nnameserver 192.0.2.53\noptions edns0\n"),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}),
                "nameserver 1.1.1.1\n",
            ),
            (
                json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
                "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.45.0.10\noptions ndots:2\n",
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(files(spec.clone()).resolv_conf, expected, "{spec}");
        }
    }

    #[test]
    fn the_pod_knows_its_own_name() {
        let files = files(json!({"containers": [], "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
        assert_eq!(files.hostname, "web-1\n");
        assert!(files.hosts.contains("10.44.0.2\tweb-1\n"));
        assert!(files.hosts.ends_with("192.0.2.9\ta\tb\n"));
    }

    #[test]
    fn a_host_name_is_cut_to_what_the_kernel_takes() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": format!("{}-x", "a".repeat(62))}})).unwrap();
        assert_eq!(hostname(&pod), "a".repeat(62));
    }
}
