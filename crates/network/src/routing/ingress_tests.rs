use serde_json::{Value, json};

use super::*;
use crate::routing::plan::tests::{Cluster, plan, service};

fn class(name: &str, controller: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"controller": controller}})
}

fn ingress_of(name: &str, created: u8, spec: Value) -> Value {
    json!({
        "metadata": {"namespace": "production", "name": name, "uid": format!("u-{name}"), "resourceVersion": "3",
                     "creationTimestamp": format!("2026-01-01T00:00:0{created}Z")},
        "spec": spec,
    })
}

fn path(path: &str, service: &str, port: Value) -> Value {
    let backend = json!({"service": {"name": service, "port": port}});
    json!({"path": path, "pathType": "Prefix", "backend": backend})
}

fn cluster(ingresses: Vec<Value>) -> Cluster {
    Cluster {
        services: vec![service("web", "10.45.0.7"), service("api", "10.45.0.8")],
        ingress_classes: vec![class("segue", "segue.dev/ingress"), class("nginx", "k8s.io/ingress-nginx")],
        ingresses,
        ..Cluster::default()
    }
}

/// `host path -> backend` of every rule.
fn rules(cluster: &Cluster) -> Vec<String> {
    let plan = plan(&cluster.snapshot(), &[].into());
    let rules = plan.ingress.rules.iter();
    let shown = |rule: &Rule<Backend>| {
        let at = rule.backend.at.map_or("nowhere".to_owned(), |at| at.to_string());
        format!("{} {} -> {} at {at}", rule.host, rule.path, rule.backend.service)
    };
    rules.map(shown).collect()
}

#[test]
fn rules_lead_to_services_by_number_or_name_of_their_port() {
    let paths = json!([
        path("/", "web", json!({"number": 80})),
        path("/api", "api", json!({"name": "http"})),
        path("/gone", "gone", json!({"number": 80})),
        path("/other", "web", json!({"number": 81})),
    ]);
    let spec = json!({"ingressClassName": "segue", "rules": [{"host": "a.test", "http": {"paths": paths}}]});
    assert_eq!(
        rules(&cluster(vec![ingress_of("one", 1, spec)])),
        [
            "a.test / -> production/web at 10.45.0.7:80",
            "a.test /api -> production/api at 10.45.0.8:80",
            "a.test /gone -> production/gone at nowhere",
            "a.test /other -> production/web at nowhere",
        ]
    );
}

#[test]
fn only_ingresses_of_our_class_are_served_and_the_oldest_first() {
    let spec = |class: Value, service: &str| json!({"ingressClassName": class, "rules": [{"http": {"paths": [path("/", service, json!({"number": 80}))]}}]});
    let mut annotated = ingress_of("c", 3, spec(json!(null), "api"));
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "segue"});
    let ingresses = vec![
        ingress_of("a", 2, spec(json!("segue"), "api")),
        ingress_of("b", 1, spec(json!("segue"), "web")),
        annotated,
        ingress_of("d", 0, spec(json!("nginx"), "gone")),
        ingress_of("e", 0, spec(json!(null), "gone")),
    ];
    assert_eq!(
        rules(&cluster(ingresses)),
        [
            " / -> production/web at 10.45.0.7:80",
            " / -> production/api at 10.45.0.8:80",
            " / -> production/api at 10.45.0.8:80",
        ]
    );
}

#[test]
fn sockets_are_open_only_while_somebody_asks_for_them() {
    let asked = |cluster: &Cluster| {
        let ingress = plan(&cluster.snapshot(), &[].into()).ingress;
        (ingress.http.is_some(), ingress.https.is_some())
    };
    assert_eq!(asked(&cluster(vec![])), (false, false));
    let spec = json!({
        "ingressClassName": "segue", "tls": [{"hosts": ["a.test"], "secretName": "cert"}],
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
    });
    let mut with_tls = cluster(vec![ingress_of("one", 1, spec)]);
    assert_eq!(asked(&with_tls), (true, false), "there is no such Secret yet");
    with_tls.secrets = vec![json!({
        "metadata": {"namespace": "production", "name": "cert"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": "Y2hhaW4=", "tls.key": "a2V5"},
    })];
    assert_eq!(asked(&with_tls), (true, true));
    let plan = plan(&with_tls.snapshot(), &[].into());
    let expected = Certificate {
        secret: "production/cert".to_owned(),
        hosts: vec!["a.test".to_owned()],
        chain: "chain".to_owned(),
        key: "key".to_owned(),
    };
    assert_eq!(plan.ingress.certificates, [expected]);
    assert_eq!(plan.ingress.default.unwrap().at, Some(([10, 45, 0, 7], 80).into()));
}

#[test]
fn an_address_is_written_once_connections_are_taken() {
    let spec =
        json!({"ingressClassName": "segue", "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}});
    let mut cluster = cluster(vec![ingress_of("one", 1, spec)]);
    let written = |cluster: &Cluster, is_open: bool| {
        let statuses = statuses(&cluster.snapshot(), &|_: &Listener| is_open);
        statuses.into_iter().map(|status| (status.name, status.address.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(written(&cluster, false), []);
    assert_eq!(written(&cluster, true), [("one".to_owned(), "192.0.2.1".to_owned())]);
    cluster.ingresses[0]["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert_eq!(written(&cluster, true), []);
}

#[test]
fn a_host_without_paths_goes_to_the_default_backend() {
    let spec = json!({
        "ingressClassName": "segue", "rules": [{"host": "a.test"}],
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
    });
    assert_eq!(rules(&cluster(vec![ingress_of("one", 1, spec)])), ["a.test / -> production/web at 10.45.0.7:80"]);
}
