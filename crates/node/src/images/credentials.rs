//! Whom does a registry know? Credentials as `docker login` and Secrets of Kubernetes keep them, and which of them are
//! for an image. Pure.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

/// Docker's own registry goes by several names.
const DOCKER_HUB: &str = "docker.io";
const ALIASES_OF_DOCKER_HUB: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Credentials for registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    entries: Vec<Entry>,
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Host and port; a star may stand for a label, or a part of one.
    host: String,
    /// The repositories that it is for, or nothing for all.
    path: String,
    login: Login,
}

/// Text that holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCredentials {
    #[error("it is not the JSON that `docker login` writes")]
    Parse(#[source] serde_json::Error),
    #[error("`auth` of {registry:?} is not the Base64 of USER:PASSWORD")]
    Auth { registry: String },
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
}

impl fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Reads what `docker login` writes, and what Secrets of type `kubernetes.io/dockerconfigjson` hold.
    ///
    /// # Errors
    /// When it is something else. What is left to a credential helper is left out.
    pub fn of_config(json: &[u8]) -> Result<Self, InvalidCredentials> {
        let file: ConfigFile = serde_json::from_slice(json).map_err(InvalidCredentials::Parse)?;
        Self::of_auths(file.auths)
    }

    /// Reads what Secrets of type `kubernetes.io/dockercfg` hold.
    ///
    /// # Errors
    /// When it is something else.
    pub fn of_legacy_config(json: &[u8]) -> Result<Self, InvalidCredentials> {
        Self::of_auths(serde_json::from_slice(json).map_err(InvalidCredentials::Parse)?)
    }

    fn of_auths(auths: BTreeMap<String, Auth>) -> Result<Self, InvalidCredentials> {
        let mut entries = Vec::new();
        for (registry, auth) in auths {
            let Some(login) = Login::of(&registry, auth)? else { continue };
            let (host, path) = normalized(&registry);
            entries.push(Entry { host, path, login });
        }
        let mut keyring = Self { entries };
        keyring.sort();
        Ok(keyring)
    }

    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.sort();
    }

    /// The more exactly a repository is named, the earlier its credentials are tried.
    fn sort(&mut self) {
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.path.len()));
    }

    /// Those for a repository at a server, in the order in which they are to be tried.
    pub(crate) fn find(&self, server: &str, repository: &str) -> Vec<&Login> {
        let (server, _) = normalized(server);
        let is_for = |entry: &&Entry| matches_host(&entry.host, &server) && is_below(&entry.path, repository);
        self.entries.iter().filter(is_for).map(|entry| &entry.login).collect()
    }
}

impl Login {
    fn of(registry: &str, auth: Auth) -> Result<Option<Self>, InvalidCredentials> {
        if !auth.username.is_empty() {
            return Ok(Some(Self { user: auth.username, password: auth.password }));
        }
        if auth.auth.is_empty() {
            return Ok(None);
        }
        let invalid = || InvalidCredentials::Auth { registry: registry.to_owned() };
        let bytes = BASE64_STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, password) = text.split_once(':').ok_or_else(invalid)?;
        Ok(Some(Self { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
    }
}

/// Host and path of what may be written as an address: `https://index.docker.io/v1/` is Docker's own registry.
fn normalized(registry: &str) -> (String, String) {
    let address = registry.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let host = if ALIASES_OF_DOCKER_HUB.contains(&host) { DOCKER_HUB } else { host };
    let path = path.trim_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    (host.to_owned(), path.to_owned())
}

fn matches_host(pattern: &str, host: &str) -> bool {
    let (patterns, hosts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == hosts.len() && patterns.iter().zip(hosts).all(|(pattern, label)| matches_label(pattern, label))
}

/// Only `*` stands for something.
fn matches_label(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => label.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches_label(after, rest)))
        }),
    }
}

fn is_below(path: &str, repository: &str) -> bool {
    path.is_empty() || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(config: &str, server: &str, repository: &str) -> Vec<String> {
        let keyring = Keyring::of_config(config.as_bytes()).unwrap();
        keyring.find(server, repository).iter().map(|login| format!("{}:{}", login.user, login.password)).collect()
    }

    #[test]
    fn the_most_exact_credentials_come_first() {
        let config = r#"{"auths": {
            "registry.example.com": {"auth": "YW5uOmE6Yg=="},
            "registry.example.com/team/app": {"username": "bob", "password": "b"},
            "*.example.com": {"username": "star", "password": "s"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "h"},
            "helper.example.org": {}
        }}"#;
        let table = [
            ("registry.example.com", "team/app", vec!["bob:b", "star:s", "ann:a:b"]),
            ("registry.example.com", "team/application", vec!["star:s", "ann:a:b"]),
            ("other.example.com", "x", vec!["star:s"]),
            ("registry.example.com:5000", "x", vec![]),
            ("a.b.example.com", "x", vec![]),
            ("docker.io", "library/nginx", vec!["hub:h"]),
            ("helper.example.org", "x", vec![]),
        ];
        for (server, repository, expected) in table {
            assert_eq!(users(config, server, repository), expected, "{server}/{repository}");
        }
    }

    #[test]
    fn older_secrets_and_nonsense_are_told_apart() {
        let legacy = r#"{"registry.example.com": {"username": "ann", "password": "a"}}"#;
        assert_eq!(Keyring::of_legacy_config(legacy.as_bytes()).unwrap().find("registry.example.com", "x").len(), 1);
        assert!(matches!(Keyring::of_config(b"text"), Err(InvalidCredentials::Parse(_))));
        let no_colon = r#"{"auths": {"r": {"auth": "YW5u"}}}"#;
        assert!(matches!(Keyring::of_config(no_colon.as_bytes()), Err(InvalidCredentials::Auth { .. })));
    }

    #[test]
    fn a_password_is_never_printed() {
        let keyring = Keyring::of_config(br#"{"auths": {"r": {"username": "ann", "password": "hunter2"}}}"#).unwrap();
        assert!(!format!("{keyring:?}").contains("hunter2"));
    }
}
