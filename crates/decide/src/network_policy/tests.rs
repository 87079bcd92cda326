use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;

/// `web` and `db` run in `shop`, `scraper` in `watch`, `stranger` in `other`.
const WEB: &str = "10.44.0.1";
const DB: &str = "10.44.0.2";
const SCRAPER: &str = "10.44.0.3";
const STRANGER: &str = "10.44.0.4";
const OUTSIDE: &str = "203.0.113.9";

fn pod(namespace: &str, name: &str, address: &str, port: u16) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "main", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": address},
    })
}

fn pods() -> Vec<Value> {
    vec![
        pod("shop", "web", WEB, 8080),
        pod("shop", "db", DB, 5432),
        pod("watch", "scraper", SCRAPER, 9090),
        pod("other", "stranger", STRANGER, 80),
    ]
}

/// A policy in `shop` about some pods.
fn policy(app: &str, mut spec: Value) -> Value {
    spec["podSelector"] = labels(app);
    json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
}

fn labels(app: &str) -> Value {
    if app.is_empty() { json!({}) } else { json!({"matchLabels": {"app": app}}) }
}

fn ingress(app: &str, rules: Value) -> Value {
    policy(app, json!({"policyTypes": ["Ingress"], "ingress": rules}))
}

fn egress(app: &str, rules: Value) -> Value {
    policy(app, json!({"policyTypes": ["Egress"], "egress": rules}))
}

fn namespaced(team: &str) -> Value {
    json!({"matchLabels": {"team": team}})
}

fn compiled(policies: &[Value], pods: &[Value]) -> Policies {
    let read = |pod: &Value| serde_json::from_value::<Pod>(pod.clone()).unwrap();
    let pods: Vec<Pod> = pods.iter().map(read).collect();
    let policies: Vec<NetworkPolicy> =
        policies.iter().map(|policy| serde_json::from_value(policy.clone()).unwrap()).collect();
    let namespaces = [("shop", "sales"), ("watch", "operations"), ("other", "sales")]
        .map(|(name, team)| json!({"metadata": {"name": name, "labels": {"team": team}}}));
    let namespaces: Vec<Namespace> = namespaces.into_iter().map(|one| serde_json::from_value(one).unwrap()).collect();
    compile(&policies, &pods, &namespaces)
}

fn tcp(from: &str, to: &str, port: u16) -> Flow {
    Flow { from: from.parse().unwrap(), to: to.parse().unwrap(), protocol: Protocol::Tcp, port }
}

#[track_caller]
fn check(policies: &[Value], flows: &[(&str, &str, u16, bool)]) {
    let compiled = compiled(policies, &pods());
    for (from, to, port, expected) in flows {
        assert_eq!(compiled.allows(&tcp(from, to, *port)), *expected, "{from} to {to}:{port} under {compiled:#?}");
    }
}

#[test]
fn without_a_policy_everything_passes() {
    check(&[], &[(WEB, DB, 5432, true), (OUTSIDE, WEB, 8080, true), (WEB, OUTSIDE, 443, true)]);
    assert!(compiled(&[], &pods()).is_empty());
    assert!(compiled(&[ingress("nobody", json!([]))], &pods()).is_empty(), "it selects no pod");
}

#[test]
fn a_policy_without_rules_denies() {
    for rules in [json!([]), Value::Null] {
        check(
            &[ingress("", rules.clone())],
            &[(WEB, DB, 5432, false), (OUTSIDE, WEB, 8080, false), (WEB, OUTSIDE, 443, true), (WEB, SCRAPER, 1, true)],
        );
        check(
            &[egress("", rules)],
            &[(WEB, DB, 5432, false), (OUTSIDE, WEB, 8080, true), (WEB, OUTSIDE, 443, false), (SCRAPER, WEB, 1, true)],
        );
    }
    check(&[ingress("", json!([])), egress("", json!([]))], &[(WEB, WEB, 8080, true), (WEB, DB, 8080, false)]);
}

#[test]
fn a_rule_without_peers_or_ports_is_about_all() {
    check(&[ingress("db", json!([{}]))], &[(OUTSIDE, DB, 1, true), (WEB, DB, 5432, true)]);
    check(&[ingress("db", json!([{"from": [], "ports": []}]))], &[(OUTSIDE, DB, 1, true)]);
    check(&[egress("db", json!([{}]))], &[(DB, OUTSIDE, 1, true)]);
}

#[test]
fn a_policy_is_about_what_its_rules_say() {
    let silent = policy("db", json!({"ingress": [{}]}));
    check(&[silent], &[(OUTSIDE, DB, 1, true), (DB, OUTSIDE, 1, true)]);
    let with_egress = policy("db", json!({"egress": [{"ports": [{"port": 53}]}]}));
    check(&[with_egress], &[(OUTSIDE, DB, 1, false), (DB, OUTSIDE, 53, true), (DB, OUTSIDE, 1, false)]);
    let egress_only = policy("db", json!({"policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": {}}]}]}));
    check(&[egress_only], &[(OUTSIDE, DB, 1, true), (DB, OUTSIDE, 1, false)]);
}

#[test]
fn peers_are_pods_of_the_namespace_of_others_or_of_both() {
    let from = |peer: Value| ingress("db", json!([{"from": [peer]}]));
    let table = [
        (json!({"podSelector": labels("web")}), [true, false, false, false]),
        (json!({"podSelector": {}}), [true, false, false, false]),
        (json!({"podSelector": labels("stranger")}), [false; 4]),
        (json!({"namespaceSelector": namespaced("operations")}), [false, true, false, false]),
        (json!({"namespaceSelector": namespaced("sales")}), [true, false, true, false]),
        (json!({"namespaceSelector": {}}), [true, true, true, false]),
        (
            json!({"namespaceSelector": namespaced("sales"), "podSelector": labels("stranger")}),
            [false, false, true, false],
        ),
        (json!({"namespaceSelector": namespaced("operations"), "podSelector": labels("web")}), [false; 4]),
        (json!({"ipBlock": {"cidr": "203.0.113.0/24"}}), [false, false, false, true]),
        (
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.44.0.0/30", "203.0.113.0/24"]}}),
            [false, false, true, false],
        ),
        (json!({"ipBlock": {"cidr": "2001:db8::/32"}}), [false; 4]),
    ];
    for (peer, expected) in table {
        let flows: Vec<_> = [WEB, SCRAPER, STRANGER, OUTSIDE]
            .into_iter()
            .zip(expected)
            .map(|(from, so)| (from, DB, 5432, so))
            .collect();
        check(&[from(peer)], &flows);
    }
    let several =
        ingress("db", json!([{"from": [{"podSelector": labels("web")}, {"ipBlock": {"cidr": "203.0.113.9/32"}}]}]));
    check(&[several], &[(WEB, DB, 1, true), (OUTSIDE, DB, 1, true), (SCRAPER, DB, 1, false)]);
}

#[test]
fn ports_are_numbers_ranges_names_and_protocols() {
    let ports = |ports: Value| ingress("", json!([{"ports": ports}]));
    check(&[ports(json!([{"port": 80}]))], &[(OUTSIDE, WEB, 80, true), (OUTSIDE, WEB, 81, false)]);
    check(
        &[ports(json!([{"port": 8000, "endPort": 8100}, {"port": 1}]))],
        &[
            (OUTSIDE, WEB, 7999, false),
            (OUTSIDE, WEB, 8000, true),
            (OUTSIDE, WEB, 8100, true),
            (OUTSIDE, WEB, 8101, false),
            (OUTSIDE, WEB, 1, true),
        ],
    );
    check(&[ports(json!([{"protocol": "TCP"}]))], &[(OUTSIDE, WEB, 1, true), (OUTSIDE, WEB, 65535, true)]);
    check(&[ports(json!([{"protocol": "UDP", "port": 80}]))], &[(OUTSIDE, WEB, 80, false)]);
    check(
        &[ports(json!([{"port": "main"}]))],
        &[
            (OUTSIDE, WEB, 8080, true),
            (OUTSIDE, WEB, 5432, false),
            (OUTSIDE, DB, 5432, true),
            (OUTSIDE, DB, 8080, false),
        ],
    );
    check(&[ports(json!([{"port": "missing"}]))], &[(OUTSIDE, WEB, 8080, false)]);
    check(&[ports(json!([{"port": "main", "protocol": "UDP"}]))], &[(OUTSIDE, WEB, 8080, false)]);
    let udp = compiled(&[ports(json!([{"protocol": "UDP", "port": 53}]))], &pods());
    let flow = Flow { protocol: Protocol::Udp, ..tcp(OUTSIDE, WEB, 53) };
    assert!(udp.allows(&flow) && !udp.allows(&Flow { protocol: Protocol::Sctp, ..flow }));
}

#[test]
fn a_name_of_a_port_is_the_peers_when_pods_go_out() {
    let main = |to: Value| egress("web", json!([{"to": to, "ports": [{"port": "main"}]}]));
    check(
        &[main(json!([{"namespaceSelector": {}}]))],
        &[(WEB, DB, 5432, true), (WEB, DB, 8080, false), (WEB, SCRAPER, 9090, true), (WEB, SCRAPER, 5432, false)],
    );
    check(&[main(json!([]))], &[(WEB, DB, 5432, true), (WEB, OUTSIDE, 8080, false)]);
}

#[test]
fn both_sides_must_allow_and_policies_add_up() {
    let to_db = egress("web", json!([{"to": [{"podSelector": labels("db")}]}]));
    let from_web = ingress("db", json!([{"from": [{"podSelector": labels("web")}]}]));
    let from_scraper = ingress("db", json!([{"from": [{"namespaceSelector": namespaced("operations")}]}]));
    let nobody = ingress("db", json!([]));
    check(&[to_db.clone(), nobody.clone()], &[(WEB, DB, 5432, false), (WEB, OUTSIDE, 443, false)]);
    check(&[to_db.clone(), from_web.clone()], &[(WEB, DB, 5432, true), (SCRAPER, DB, 5432, false)]);
    check(&[from_web, from_scraper, nobody], &[(WEB, DB, 1, true), (SCRAPER, DB, 1, true), (STRANGER, DB, 1, false)]);
    check(&[to_db], &[(DB, WEB, 8080, true)]);
}

#[test]
fn only_pods_with_an_address_of_their_own_are_known() {
    let changed = |change: fn(&mut Value)| {
        let mut web = pod("shop", "web", WEB, 8080);
        change(&mut web);
        let policies = compiled(
            &[ingress("web", json!([])), ingress("db", json!([{"from": [{"podSelector": {}}]}]))],
            &[web, pod("shop", "db", DB, 5432)],
        );
        [policies.allows(&tcp(OUTSIDE, WEB, 8080)), policies.allows(&tcp(WEB, DB, 5432))]
    };
    assert_eq!(changed(|_| ()), [false, true]);
    assert_eq!(changed(|pod| pod["spec"]["hostNetwork"] = json!(true)), [true, false]);
    assert_eq!(changed(|pod| pod["status"]["phase"] = json!("Succeeded")), [true, false]);
    assert_eq!(changed(|pod| pod["status"]["podIP"] = Value::Null), [true, false]);
    assert_eq!(changed(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")), [false, true]);
}

#[test]
fn addresses_of_ipv6_are_ipv4_in_disguise_or_outside() {
    let mapped = format!("::ffff:{WEB}");
    check(
        &[ingress("db", json!([{"from": [{"podSelector": labels("web")}]}]))],
        &[(&mapped, DB, 5432, true), ("::ffff:10.44.0.4", DB, 5432, false), ("2001:db8::1", DB, 5432, false)],
    );
    check(&[ingress("db", json!([{}]))], &[("2001:db8::1", DB, 5432, true)]);
    check(&[ingress("web", json!([]))], &[(&mapped, WEB, 8080, true)]);
}

#[test]
fn the_result_is_small_and_the_same_in_any_order() {
    let rule = json!([{"from": [{"podSelector": labels("web")}, {"podSelector": labels("web")}], "ports": [{"port": 2}, {"port": 1}, {"port": 2}]}]);
    let policies = [ingress("db", rule.clone()), ingress("db", rule), egress("web", json!([{}]))];
    let backwards: Vec<Value> = policies.iter().rev().cloned().collect();
    let pods_backwards: Vec<Value> = pods().into_iter().rev().collect();
    let compiled_once = compiled(&policies, &pods());
    assert_eq!(compiled_once, compiled(&backwards, &pods_backwards));
    assert_eq!(compiled_once.ingress.len(), 1);
    assert_eq!(compiled_once.ingress[0].ports, [Ports { protocol: Protocol::Tcp, from: 1, to: 2 }]);
    let sent = serde_json::to_string(&compiled_once).unwrap();
    assert_eq!(serde_json::from_str::<Policies>(&sent).unwrap(), compiled_once);
}
