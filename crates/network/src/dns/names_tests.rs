use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;

use super::*;
use crate::config::Host;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, protocol: &str, port: u16, endpoints: &[&str]) -> NamedPort {
    let endpoints = endpoints.iter().map(|address| ip(address)).collect();
    NamedPort { name: name.to_owned(), protocol: protocol.to_owned(), port, endpoints }
}

fn service(name: &str, addresses: &[&str], answers: &[&str]) -> Service {
    Service {
        namespace: "production".to_owned(),
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        answers: answers.iter().map(|address| ip(address)).collect(),
        ..Service::default()
    }
}

fn host(hostname: &str, address: &str) -> Host {
    Host { hostname: hostname.to_owned(), ip: ip(address) }
}

fn alias(name: &str, target: &str) -> Alias {
    Alias { namespace: "outside".to_owned(), name: name.to_owned(), target: target.to_owned(), addresses: Vec::new() }
}

/// A Service with an address, headless ones, and names outside.
pub(in crate::dns) fn config() -> DataPlaneConfig {
    let demo = Service {
        named_ports: vec![port("http", "tcp", 80, &[]), port("ping", "udp", 81, &[])],
        hosts: vec![host("pet", "10.44.0.9")],
        ..service("demo-app", &["10.45.0.7", "192.0.2.9"], &["10.45.0.7"])
    };
    let db = Service {
        hosts: vec![host("DB-0", "10.44.0.5")],
        named_ports: vec![
            port("sql", "tcp", 5432, &["10.44.0.5", "10.44.0.6"]),
            port("sql", "tcp", 5433, &["10.44.0.7"]),
        ],
        ..service("db", &[], &["10.44.0.5", "10.44.0.6", "10.44.0.7"])
    };
    let twins = Service {
        hosts: vec![host("twin", "10.44.0.6"), host("twin", "10.44.1.1")],
        named_ports: vec![port("sql", "tcp", 1, &["10.44.0.6", "10.44.1.1"])],
        ..service("twins", &[], &["10.44.0.6", "10.44.1.1", "203.0.113.1"])
    };
    DataPlaneConfig {
        services: [demo, db, twins, service("nobody", &[], &[])].map(Arc::new).into(),
        aliases: vec![
            alias("shop", "shop.example.com"),
            alias("near", "DEMO-app.production.svc.cluster.local."),
            alias("far", "shop.outside.svc.cluster.local"),
            alias("lost", "other.production.svc.cluster.local"),
            alias("circle", "circle.outside.svc.cluster.local"),
        ],
        dns: Dns {
            domain: "cluster.local".to_owned(),
            ranges: vec!["10.44.0.0/16".parse().unwrap(), "10.45.0.0/20".parse().unwrap()],
            ..Dns::default()
        },
        ..DataPlaneConfig::default()
    }
}

/// What a name stands for, its records as `TYPE data`.
fn check(text: &str, expected: &[&str]) {
    let names = Names::new(&config());
    let Known::Records(records) = names.find(&name(text).unwrap()) else { panic!("{text} has no records") };
    let shown: Vec<_> = records.iter().map(|data| format!("{} {data}", data.record_type())).collect();
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn services_and_endpoints_have_names() {
    check("demo-app.production.svc.cluster.local.", &["A 10.45.0.7"]);
    check("DEMO-APP.Production.svc.cluster.LOCAL.", &["A 10.45.0.7"]);
    check("db.production.svc.cluster.local.", &["A 10.44.0.5", "A 10.44.0.6", "A 10.44.0.7"]);
    check("10-44-0-6.db.production.svc.cluster.local.", &["A 10.44.0.6"]);
    check("db-0.db.production.svc.cluster.local.", &["A 10.44.0.5"]);
    check("twin.twins.production.svc.cluster.local.", &["A 10.44.0.6", "A 10.44.1.1"]);
    check("pet.demo-app.production.svc.cluster.local.", &["A 10.44.0.9"]);
}

#[test]
fn an_endpoint_has_one_name() {
    for text in ["10-44-0-5.db.production.svc.cluster.local.", "10-45-0-7.demo-app.production.svc.cluster.local."] {
        assert_eq!(Names::new(&config()).find(&name(text).unwrap()), Known::NoSuchName, "{text}");
    }
}

#[test]
fn named_ports_lead_to_their_service_or_to_each_endpoint_once() {
    check(
        "_http._tcp.demo-app.production.svc.cluster.local.",
        &["SRV 0 100 80 demo-app.production.svc.cluster.local."],
    );
    check(
        "_ping._udp.demo-app.production.svc.cluster.local.",
        &["SRV 0 100 81 demo-app.production.svc.cluster.local."],
    );
    check(
        "_sql._tcp.db.production.svc.cluster.local.",
        &[
            "SRV 0 100 5432 10-44-0-6.db.production.svc.cluster.local.",
            "SRV 0 100 5432 DB-0.db.production.svc.cluster.local.",
            "SRV 0 100 5433 10-44-0-7.db.production.svc.cluster.local.",
        ],
    );
    check("_sql._tcp.twins.production.svc.cluster.local.", &["SRV 0 100 1 twin.twins.production.svc.cluster.local."]);
}

#[test]
fn a_service_outside_is_an_alias() {
    check("shop.outside.svc.cluster.local.", &["CNAME shop.example.com."]);
}

#[test]
fn addresses_lead_back_to_names() {
    check("7.0.45.10.in-addr.arpa.", &["PTR demo-app.production.svc.cluster.local."]);
    check("5.0.44.10.in-addr.arpa.", &["PTR DB-0.db.production.svc.cluster.local."]);
    check("9.0.44.10.in-addr.arpa.", &["PTR pet.demo-app.production.svc.cluster.local."]);
    let twice = ["PTR 10-44-0-6.db.production.svc.cluster.local.", "PTR twin.twins.production.svc.cluster.local."];
    check("6.0.44.10.in-addr.arpa.", &twice);
    let of_another_range = ["PTR 203-0-113-1.twins.production.svc.cluster.local."];
    check("1.113.0.203.in-addr.arpa.", &of_another_range);
}

#[test]
fn names_above_others_exist() {
    for (text, expected) in [
        ("svc.cluster.local.", Known::Empty),
        ("production.svc.cluster.local.", Known::Empty),
        ("outside.svc.cluster.local.", Known::Empty),
        ("_tcp.db.production.svc.cluster.local.", Known::Empty),
        ("0.44.10.in-addr.arpa.", Known::Empty),
        ("other.production.svc.cluster.local.", Known::NoSuchName),
        ("example.com.production.svc.cluster.local.", Known::NoSuchName),
        ("other.svc.cluster.local.", Known::NoSuchName),
        // As the specification has it: a headless Service without endpoints is a name that is not there.
        ("nobody.production.svc.cluster.local.", Known::NoSuchName),
        ("_sql._udp.db.production.svc.cluster.local.", Known::NoSuchName),
    ] {
        assert_eq!(Names::new(&config()).find(&name(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn the_domain_and_the_ranges_are_ours_and_nothing_else() {
    for (text, zone) in [
        ("cluster.local.", Some("cluster.local.")),
        ("other.Cluster.Local.", Some("cluster.local.")),
        ("notcluster.local.", None),
        ("example.com.", None),
        ("local.", None),
        ("1.2.44.10.in-addr.arpa.", Some("44.10.in-addr.arpa.")),
        ("44.10.in-addr.arpa.", Some("44.10.in-addr.arpa.")),
        ("10.in-addr.arpa.", None),
        ("1.15.45.10.in-addr.arpa.", Some("15.45.10.in-addr.arpa.")),
        ("1.16.45.10.in-addr.arpa.", None),
        ("45.10.in-addr.arpa.", None),
        ("1.1.168.192.in-addr.arpa.", None),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", None),
    ] {
        let found = Names::new(&config()).zone_of(&name(text).unwrap());
        assert_eq!(found, zone.and_then(name), "{text}");
    }
}

#[test]
fn a_configuration_of_an_older_engine_gives_the_names_that_it_knew() {
    let older = r#"{"namespace": "production", "name": "db", "addresses": [], "answers": ["10.44.0.5"], "ports": []}"#;
    let dns = r#"{"listen": [], "domain": "cluster.local", "forward_to": []}"#;
    let config = DataPlaneConfig {
        services: vec![serde_json::from_str(older).unwrap()],
        dns: serde_json::from_str(dns).unwrap(),
        ..DataPlaneConfig::default()
    };
    let names = Names::new(&config);
    for (text, kind) in
        [("10-44-0-5.db.production.svc.cluster.local.", RecordType::A), ("5.0.44.10.in-addr.arpa.", RecordType::PTR)]
    {
        let Known::Records([record]) = names.find(&name(text).unwrap()) else { panic!("{text} has no record") };
        assert_eq!(record.record_type(), kind);
    }
}
