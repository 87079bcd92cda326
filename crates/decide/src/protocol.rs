//! What does a port of a Service speak? What is declared counts; only where nothing is, the data plane looks at the
//! first bytes. Sources: Service v1 `appProtocol`, KEP-3726 (`kubernetes.io/h2c`, `/ws`, `/wss`), and the names that
//! service meshes have made customary.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use objects::names;
use serde::{Deserialize, Serialize};

/// What a Service says that its port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speaks {
    /// Nothing: the first bytes of each connection tell.
    #[default]
    FindOut,
    /// HTTP/1.1. What a client sends instead still passes unchanged.
    Http1,
    /// HTTP/2, gRPC with it.
    Http2,
    /// Something whose bytes are to pass untouched.
    Opaque,
}

/// What is known of a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared<'a> {
    pub app_protocol: Option<&'a str>,
    /// Empty when it has none.
    pub name: &'a str,
    pub port: u16,
    /// The Service's annotation `segue.dev/opaque-ports`: numbers and names, separated by commas.
    pub opaque_ports: &'a str,
}

/// Ports of protocols in which the server speaks first, or which no HTTP server uses: SMTP, MySQL, PostgreSQL, Redis,
/// Galera, Elasticsearch's transport, memcached, MongoDB.
const OPAQUE_PORTS: [u16; 10] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211, 27017, 27018];

/// What a port of a Service speaks, by all that the Service says.
#[must_use]
pub fn speaks_at(service: &Service, port: &ServicePort) -> Speaks {
    let annotation = |name: &str| service.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    // Whoever expects a header of the PROXY protocol expects it on every connection.
    if matches!(annotation(names::PROXY_PROTOCOL), Some("v1" | "v2")) {
        return Speaks::Opaque;
    }
    speaks(&Declared {
        app_protocol: port.app_protocol.as_deref(),
        name: port.name.as_deref().unwrap_or_default(),
        port: u16::try_from(port.port).unwrap_or_default(),
        opaque_ports: annotation(names::OPAQUE_PORTS).unwrap_or_default(),
    })
}

/// The most explicit word wins: annotation, `appProtocol`, the port's name, its number.
#[must_use]
pub fn speaks(declared: &Declared<'_>) -> Speaks {
    if is_listed(declared) {
        return Speaks::Opaque;
    }
    let said =
        declared.app_protocol.and_then(meaning).or_else(|| name_before_its_suffix(declared.name).and_then(meaning));
    match said {
        Some(speaks) => speaks,
        None if OPAQUE_PORTS.contains(&declared.port) => Speaks::Opaque,
        None => Speaks::FindOut,
    }
}

fn is_listed(declared: &Declared<'_>) -> bool {
    let listed = declared.opaque_ports.split(',').map(str::trim);
    listed
        .filter(|listed| !listed.is_empty())
        .any(|listed| listed == declared.name || listed.parse::<u16>().is_ok_and(|number| number == declared.port))
}

fn name_before_its_suffix(name: &str) -> Option<&str> {
    name.split('-').next()
}

fn meaning(word: &str) -> Option<Speaks> {
    match word.to_ascii_lowercase().as_str() {
        "http" | "http1" | "ws" | "kubernetes.io/ws" => Some(Speaks::Http1),
        "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Some(Speaks::Http2),
        "tcp" | "tls" | "https" | "wss" | "kubernetes.io/wss" | "smtp" | "mysql" | "postgres" | "postgresql"
        | "redis" | "mongo" | "mongodb" | "amqp" | "kafka" => Some(Speaks::Opaque),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(app_protocol: Option<&str>, name: &str, port: u16, opaque_ports: &str, expected: Speaks) {
        let declared = Declared { app_protocol, name, port, opaque_ports };
        assert_eq!(speaks(&declared), expected, "{declared:?}");
    }

    #[test]
    fn nothing_declared_is_found_out() {
        check(None, "", 80, "", Speaks::FindOut);
        check(None, "main", 8080, "", Speaks::FindOut);
        check(Some("example.com/own"), "", 80, "", Speaks::FindOut);
    }

    #[test]
    fn names_count_with_and_without_a_suffix() {
        for (name, expected) in [
            ("http", Speaks::Http1),
            ("http-web", Speaks::Http1),
            ("http2", Speaks::Http2),
            ("http2-web", Speaks::Http2),
            ("grpc-api", Speaks::Http2),
            ("tcp", Speaks::Opaque),
            ("tcp-x", Speaks::Opaque),
            ("https", Speaks::Opaque),
            ("httpx", Speaks::FindOut),
        ] {
            check(None, name, 80, "", expected);
        }
    }

    #[test]
    fn the_most_explicit_word_wins() {
        check(Some("kubernetes.io/h2c"), "http", 80, "", Speaks::Http2);
        check(Some("http"), "tcp", 5432, "", Speaks::Http1);
        check(Some("unknown"), "grpc", 80, "", Speaks::Http2);
        check(None, "http", 6379, "", Speaks::Http1);
        check(None, "", 6379, "", Speaks::Opaque);
        check(Some("http"), "web", 80, "443, 80", Speaks::Opaque);
        check(Some("http"), "web", 80, "web", Speaks::Opaque);
        check(None, "", 80, " , ", Speaks::FindOut);
    }
}
