//! Where a request from outside goes, by its host and path, as the Kubernetes documentation of Ingress has it: the most
//! specific host decides, and in it an exact path before the longest prefix. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathType {
    /// This path and no other.
    Exact,
    /// Every path that begins with the same elements.
    Prefix,
}

/// One path of one host, and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule<B> {
    /// A host; `*.example.com` stands for every host with one label more than `example.com`; empty for any.
    pub host: String,
    pub path: String,
    pub path_type: PathType,
    pub backend: B,
}

/// Rules, ready to be asked.
#[derive(Clone, Debug)]
pub struct Routes<B> {
    /// By host; wildcards by what follows the star, with the dot before it.
    hosts: BTreeMap<String, Vec<Rule<B>>>,
    default: Option<B>,
}

impl<B> Default for Routes<B> {
    fn default() -> Self {
        Self { hosts: BTreeMap::new(), default: None }
    }
}

impl<B> Routes<B> {
    /// Of two rules with the same host and path the first holds. `default` gets what no rule is about.
    pub fn new(rules: impl IntoIterator<Item = Rule<B>>, default: Option<B>) -> Self {
        let mut hosts: BTreeMap<String, Vec<Rule<B>>> = BTreeMap::new();
        for rule in rules {
            let host = rule.host.strip_prefix('*').unwrap_or(&rule.host).to_ascii_lowercase();
            hosts.entry(host).or_default().push(rule);
        }
        for rules in hosts.values_mut() {
            // Stable: the first of equals stays first.
            rules.sort_by_key(|rule| {
                let is_prefix = rule.path_type == PathType::Prefix;
                (is_prefix, std::cmp::Reverse(rule.path.trim_end_matches('/').len()))
            });
        }
        Self { hosts, default }
    }

    /// What is behind a path of a host, given without a port.
    pub fn find(&self, host: &str, path: &str) -> Option<&B> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = host.find('.').map(|dot| &host[dot..]);
        let of_host = self.hosts.get(host.as_str()).filter(|_| !host.is_empty());
        let rules = of_host.or_else(|| self.hosts.get(wildcard?)).or_else(|| self.hosts.get(""));
        let found = rules.and_then(|rules| rules.iter().find(|rule| rule.holds(path)));
        found.map(|rule| &rule.backend).or(self.default.as_ref())
    }
}

impl<B> Rule<B> {
    fn holds(&self, path: &str) -> bool {
        match self.path_type {
            PathType::Exact => path == self.path,
            PathType::Prefix => {
                let prefix = self.path.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, path: &str, path_type: PathType) -> Rule<String> {
        Rule { host: host.to_owned(), path: path.to_owned(), path_type, backend: format!("{host}{path}") }
    }

    /// Rules written as `host path`, exact where the path begins with `=`.
    fn routes(rules: &[&str]) -> Routes<String> {
        let rules = rules.iter().map(|text| {
            let (host, path) = text.split_once(' ').unwrap();
            match path.strip_prefix('=') {
                Some(path) => Rule { backend: format!("{host}={path}"), ..rule(host, path, PathType::Exact) },
                None => rule(host, path, PathType::Prefix),
            }
        });
        Routes::new(rules, Some("default".to_owned()))
    }

    #[test]
    fn paths_are_compared_element_by_element() {
        let table = [
            ("/", "/", true),
            ("/", "/any/path", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", true),
            ("/foo/", "/foo", true),
            ("/foo/", "/foo/", true),
            ("/aaa/bb", "/aaa/bbb", false),
            ("/aaa/bbb", "/aaa/bbb", true),
            ("/aaa/bbb/", "/aaa/bbb", true),
            ("/aaa/bbb", "/aaa/bbb/ccc", true),
            ("/aaa/bbb", "/aaa/bbbxyz", false),
            ("/foo", "/FOO", false),
        ];
        for (prefix, path, expected) in table {
            assert_eq!(rule("", prefix, PathType::Prefix).holds(path), expected, "{prefix} {path}");
        }
        for (exact, path, expected) in
            [("/foo", "/foo", true), ("/foo", "/bar", false), ("/foo", "/foo/", false), ("/foo/", "/foo", false)]
        {
            assert_eq!(rule("", exact, PathType::Exact).holds(path), expected, "{exact} {path}");
        }
    }

    #[test]
    fn the_most_specific_host_and_then_the_most_specific_path_decide() {
        let routes = routes(&["a.test /", "a.test /long", "a.test =/long/exact", "*.test /", " /", "b.test /only"]);
        let table = [
            ("a.test", "/x", "a.test/"),
            ("A.Test.", "/x", "a.test/"),
            ("a.test", "/long/er", "a.test/long"),
            ("a.test", "/long/exact", "a.test=/long/exact"),
            ("c.test", "/x", "*.test/"),
            ("d.c.test", "/x", "/"),
            ("test", "/x", "/"),
            ("", "/x", "/"),
            ("b.test", "/only/this", "b.test/only"),
            ("b.test", "/other", "default"),
        ];
        for (host, path, expected) in table {
            assert_eq!(routes.find(host, path).map(String::as_str), Some(expected), "{host} {path}");
        }
    }

    #[test]
    fn of_two_equal_rules_the_first_holds() {
        let mut second = rule("a.test", "/", PathType::Prefix);
        second.backend = "second".to_owned();
        let routes = Routes::new([rule("a.test", "/", PathType::Prefix), second], None);
        assert_eq!(routes.find("a.test", "/").map(String::as_str), Some("a.test/"));
        assert_eq!(routes.find("b.test", "/"), None);
    }
}
