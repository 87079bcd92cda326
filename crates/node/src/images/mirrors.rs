//! Where is a registry's content fetched from? Mirrors in their order, then the registry itself. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use decide::images::ImageReference;
use oci_client::Reference;

/// The mirrors of each registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrors {
    by_registry: BTreeMap<String, Vec<Endpoint>>,
    certificates: PathBuf,
}

/// A server that speaks the registry protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) scheme: Scheme,
    /// Host and port.
    pub(crate) host: String,
    /// Put before the repository, for servers that mirror several registries.
    prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A mirror that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMirror {
    #[error("{text:?} is not a mirror; write REGISTRY=URL, such as registry.example.com=http://127.0.0.1:5000")]
    NoRegistry { text: String },
    #[error("{url:?} is not a mirror's address; write http://HOST[:PORT][/PREFIX] or https://…")]
    Url { url: String },
}

impl Mirrors {
    /// Reads `REGISTRY=URL` lines; several for one registry are tried in their order.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Mirrors, InvalidMirror> {
        let mut mirrors = Mirrors::default();
        for line in lines {
            let (registry, url) =
                line.split_once('=').ok_or_else(|| InvalidMirror::NoRegistry { text: line.to_owned() })?;
            mirrors.add(registry.trim(), url.trim())?;
        }
        Ok(mirrors)
    }

    /// Adds a mirror behind those the registry has.
    pub fn add(&mut self, registry: &str, url: &str) -> Result<(), InvalidMirror> {
        if registry.is_empty() || registry.contains('/') {
            return Err(InvalidMirror::NoRegistry { text: format!("{registry}={url}") });
        }
        let endpoint = Endpoint::parse(url)?;
        self.by_registry.entry(registry.to_owned()).or_default().push(endpoint);
        Ok(())
    }

    /// With a directory that has, below `HOST[:PORT]`, the certificates of authorities that this server is believed for.
    #[must_use]
    pub fn with_certificates(self, certificates: PathBuf) -> Self {
        Self { certificates, ..self }
    }

    /// Where certificates for a server may be.
    pub(crate) fn certificates_of(&self, endpoint: &Endpoint) -> PathBuf {
        self.certificates.join(&endpoint.host)
    }

    /// Where to ask for an image, in this order.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirrors = self.by_registry.get(registry).cloned().unwrap_or_default();
        mirrors.into_iter().chain([Endpoint::of_registry(registry)]).collect()
    }
}

impl Endpoint {
    fn parse(url: &str) -> Result<Endpoint, InvalidMirror> {
        let invalid = || InvalidMirror::Url { url: url.to_owned() };
        let uri: http::Uri = url.parse().map_err(|_| invalid())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return Err(invalid()),
        };
        let host = uri.authority().map_or("", |authority| authority.as_str());
        if host.is_empty() || host.contains('@') || uri.query().is_some() {
            return Err(invalid());
        }
        let prefix = uri.path().trim_matches('/');
        Ok(Endpoint { scheme, host: host.to_owned(), prefix: (!prefix.is_empty()).then(|| prefix.to_owned()) })
    }

    /// Registries on this machine are spoken to in plain HTTP, as Docker does.
    fn of_registry(registry: &str) -> Endpoint {
        Endpoint {
            scheme: if is_loopback(registry) { Scheme::Http } else { Scheme::Https },
            host: registry.to_owned(),
            prefix: None,
        }
    }

    /// The image's address at this server.
    pub(crate) fn locate(&self, image: &ImageReference) -> Reference {
        let repository = match &self.prefix {
            Some(prefix) => format!("{prefix}/{}", image.repository()),
            None => image.repository().to_owned(),
        };
        match (image.digest(), image.tag()) {
            (Some(digest), _) => Reference::with_digest(self.host.clone(), repository, digest.to_owned()),
            (None, tag) => Reference::with_tag(self.host.clone(), repository, tag.unwrap_or("latest").to_owned()),
        }
    }

    /// Host and port to connect to.
    pub(crate) fn address(&self) -> (String, u16) {
        let default = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        let (host, port) = split_port(&self.host);
        (host.to_owned(), port.unwrap_or(default))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

fn is_loopback(registry: &str) -> bool {
    let (host, _) = split_port(registry);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Splits `host:port`, where an IPv6 address stands in brackets.
fn split_port(text: &str) -> (&str, Option<u16>) {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        Some(_) | None => (text, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_in_order_and_the_registry_last() {
        let mirrors = Mirrors::parse([
            "registry.example.com=http://127.0.0.1:5000",
            "registry.example.com = https://cache.example.net/proxy/",
        ])
        .unwrap();
        let endpoints: Vec<String> =
            mirrors.endpoints("registry.example.com").iter().map(Endpoint::to_string).collect();
        assert_eq!(
            endpoints,
            ["http://127.0.0.1:5000", "https://cache.example.net/proxy", "https://registry.example.com"]
        );
    }

    #[test]
    fn registries_on_this_machine_are_spoken_to_in_plain_http() {
        for (registry, url) in [
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000"),
            ("docker.io", "https://docker.io"),
        ] {
            let endpoints = Mirrors::default().endpoints(registry);
            assert_eq!(endpoints.len(), 1);
            assert_eq!(endpoints[0].to_string(), url);
        }
    }

    #[test]
    fn a_prefix_comes_before_the_repository() {
        let endpoint = Endpoint::parse("http://cache:5000/hub").unwrap();
        let image = ImageReference::parse("nginx:1").unwrap();
        assert_eq!(endpoint.locate(&image).to_string(), "cache:5000/hub/library/nginx:1");
        assert_eq!(endpoint.address(), ("cache".to_owned(), 5000));
    }

    #[test]
    fn nonsense_is_refused_with_the_form_to_use() {
        for line in [
            "",
            "registry.example.com",
            "=http://host",
            "a/b=http://host",
            "host=ftp://host",
            "host=http://",
            "host=http://ho st",
            "host=http://user@host",
            "host=127.0.0.1:5000",
        ] {
            assert!(Mirrors::parse([line]).is_err(), "{line}");
        }
    }
}
