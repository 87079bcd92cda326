//! The names that a configuration gives: `<service>.<namespace>.svc.<domain>`, and addresses back to names. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::config::{DataPlaneConfig, Dns, Service};

/// Every name of a configuration. Names are fully qualified, with a dot at the end, in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) dns: Dns,
    domain: String,
    addresses: HashMap<String, Vec<IpAddr>>,
    /// Names that have no addresses and stand above names that have.
    above: HashSet<String>,
    reverse: HashMap<IpAddr, String>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    Addresses(&'a [IpAddr]),
    /// The name exists and stands for nothing.
    Empty,
    NoSuchName,
    /// Somebody else may know it.
    NotOurs,
}

impl Names {
    pub(crate) fn new(config: &DataPlaneConfig) -> Self {
        let domain = format!("{}.", config.dns.domain.to_ascii_lowercase());
        let mut names = Self { dns: config.dns.clone(), domain: domain.clone(), ..Self::default() };
        names.above.extend([domain.clone(), format!("svc.{domain}")]);
        for service in &config.services {
            names.add(service);
        }
        names
    }

    fn add(&mut self, service: &Service) {
        let namespace = format!("{}.svc.{}", service.namespace, self.domain);
        let name = format!("{}.{namespace}", service.name);
        let is_headless = service.addresses.is_empty();
        for ip in &service.answers {
            // A headless Service's pods each have a name below its own, which their addresses lead back to.
            let below = is_headless.then(|| format!("{}.{name}", dashed(*ip)));
            if let Some(below) = &below {
                self.addresses.insert(below.clone(), vec![*ip]);
            }
            self.reverse.insert(*ip, below.unwrap_or_else(|| name.clone()));
        }
        self.above.insert(namespace);
        self.addresses.insert(name, service.answers.clone());
    }

    /// What `name` stands for.
    pub(crate) fn find(&self, name: &str) -> Known<'_> {
        match self.addresses.get(name) {
            Some(addresses) if !addresses.is_empty() => Known::Addresses(addresses),
            Some(_) => Known::Empty,
            None if self.above.contains(name) => Known::Empty,
            None if self.is_ours(name) => Known::NoSuchName,
            None => Known::NotOurs,
        }
    }

    /// The name that `address` leads back to.
    pub(crate) fn find_reverse(&self, address: IpAddr) -> Option<&str> {
        self.reverse.get(&address).map(String::as_str)
    }

    /// The domain that is answered here.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    fn is_ours(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain).is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Affinity;

    fn names() -> Names {
        let service = |name: &str, addresses: &[&str], answers: &[&str]| Service {
            namespace: "production".to_owned(),
            name: name.to_owned(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            answers: answers.iter().map(|ip| ip.parse().unwrap()).collect(),
            affinity: Affinity::None,
            ports: Vec::new(),
        };
        Names::new(&DataPlaneConfig {
            services: vec![
                service("demo-app", &["10.45.0.7"], &["10.45.0.7"]),
                service("db", &[], &["10.44.0.5", "10.44.0.6"]),
                service("nobody", &[], &[]),
            ],
            dns: Dns { domain: "cluster.local".to_owned(), ..Dns::default() },
            ..DataPlaneConfig::default()
        })
    }

    fn check(name: &str, expected: &Known<'_>) {
        assert_eq!(names().find(name), *expected, "{name}");
    }

    #[test]
    fn services_and_pods_have_names() {
        check("demo-app.production.svc.cluster.local.", &Known::Addresses(&["10.45.0.7".parse().unwrap()]));
        check("10-44-0-5.db.production.svc.cluster.local.", &Known::Addresses(&["10.44.0.5".parse().unwrap()]));
        let both = ["10.44.0.5".parse().unwrap(), "10.44.0.6".parse().unwrap()];
        check("db.production.svc.cluster.local.", &Known::Addresses(&both));
    }

    #[test]
    fn names_without_addresses_exist() {
        for name in [
            "cluster.local.",
            "svc.cluster.local.",
            "production.svc.cluster.local.",
            "nobody.production.svc.cluster.local.",
        ] {
            check(name, &Known::Empty);
        }
    }

    #[test]
    fn the_domain_is_ours_and_nothing_else() {
        check("other.production.svc.cluster.local.", &Known::NoSuchName);
        check("example.com.production.svc.cluster.local.", &Known::NoSuchName);
        check("example.com.", &Known::NotOurs);
        check("notcluster.local.", &Known::NotOurs);
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let reverse = |ip: &str| names().find_reverse(ip.parse().unwrap()).map(str::to_owned);
        assert_eq!(reverse("10.45.0.7").as_deref(), Some("demo-app.production.svc.cluster.local."));
        assert_eq!(reverse("10.44.0.6").as_deref(), Some("10-44-0-6.db.production.svc.cluster.local."));
        assert_eq!(reverse("10.45.0.8"), None);
    }
}
