use std::collections::{BTreeMap, BTreeSet};

use EndpointState::{Deprioritised, Ready, Withdrawn};
use decide::network_policy::{AddressSet, Allowed, Ports, Protocol};

use super::connections::{Connection, in_flight, misled, orphans};
use super::*;
use crate::config::{PodUid, Speaks};

const SERVICE: &str = "10.45.0.7:53";

fn port(transport: Transport, states: &[EndpointState]) -> BalancedPort {
    let endpoint = |(number, state): (usize, &EndpointState)| Endpoint {
        ip: format!("10.44.0.{}", number + 1).parse().unwrap(),
        port: 5353,
        pod: PodUid(format!("u{}", number + 1)),
        pod_name: format!("demo-{}", number + 1),
        pod_version: String::new(),
        state: *state,
    };
    BalancedPort {
        service: "production/demo".to_owned(),
        transport,
        places: vec![SERVICE.parse().unwrap()],
        affinity: Affinity::None,
        port: ServicePort {
            port: 53,
            node_port: Some(30_053),
            name: String::new(),
            speaks: Speaks::Opaque,
            endpoints: states.iter().enumerate().map(endpoint).collect(),
            elsewhere: Vec::new(),
        },
    }
}

fn connection(transport: Transport, to: &str, answering: &str) -> Connection {
    let state = (transport == Transport::Tcp).then_some(3);
    let [client, to, answering] = ["10.44.0.99:40000", to, answering].map(|at| at.parse().unwrap());
    Connection { transport, client, to, answering, answered: client, state, id: None }
}

fn scope() -> Scope {
    Scope { instance: "test".to_owned(), services: "10.45.0.0/16".parse().unwrap(), proxy_user: Some(64_535) }
}

#[test]
fn new_connections_go_to_what_is_ready_or_else_to_what_is_left() {
    let targets = |states: &[EndpointState]| {
        port(Transport::Udp, states).targets().iter().map(|at| at.ip().octets()[3]).collect::<Vec<_>>()
    };
    assert_eq!(targets(&[Ready, Deprioritised, Withdrawn, Ready]), [1, 4]);
    assert_eq!(targets(&[Withdrawn, Deprioritised]), [2]);
    assert!(targets(&[Withdrawn]).is_empty());
}

#[test]
fn a_port_that_leads_nowhere_is_not_in_the_table() {
    let written = script(&scope(), &[port(Transport::Tcp, &[Withdrawn]), port(Transport::Udp, &[Ready, Ready])]);
    assert!(written.contains("10.45.0.7 . udp . 53 : goto port_0"), "{written}");
    assert!(written.contains("numgen random mod 2 map { 0 : 10.44.0.1 . 5353, 1 : 10.44.0.2 . 5353 }"), "{written}");
    assert!(!written.contains("tcp"), "{written}");
    let nothing = script(&scope(), &[port(Transport::Tcp, &[])]);
    assert_eq!(nothing.lines().count(), 2, "the table is only taken away: {nothing}");
}

#[test]
fn clients_keep_their_slots_when_another_target_goes() {
    let all = port(Transport::Tcp, &[Ready; 5]).targets();
    let (before, after) = (slots(&all), slots(&all[..4]));
    let shares: Vec<usize> = (0..5).map(|target| before.iter().filter(|slot| **slot == target).count()).collect();
    assert!(shares.iter().all(|share| (30..75).contains(share)), "{shares:?} of {}", before.len());
    let moved = before.iter().zip(&after).filter(|(before, after)| **before != 4 && before != after).count();
    assert_eq!((moved, before.len(), after.len()), (0, 256, 256));
}

#[test]
fn udp_is_forgotten_once_it_leads_to_a_withdrawn_pod_or_nowhere() {
    let ports = [port(Transport::Udp, &[Ready, Deprioritised, Withdrawn])];
    let check = |to: &str, answering: &str, expected: usize| {
        let connections = [connection(Transport::Udp, to, answering)];
        assert_eq!(misled(&ports, &connections).len(), expected, "{to} {answering}");
    };
    check(SERVICE, "10.44.0.1:5353", 0);
    check(SERVICE, "10.44.0.2:5353", 0);
    check(SERVICE, "10.44.0.3:5353", 1);
    check(SERVICE, "10.44.0.4:5353", 1);
    check(SERVICE, SERVICE, 1);
    check("192.0.2.1:30053", "10.44.0.3:5353", 1);
    check("192.0.2.1:30053", "10.44.0.1:5353", 0);
    check("203.0.113.7:30053", "203.0.113.7:30053", 0);
    check("203.0.113.7:30053", "203.0.113.8:5353", 0);
    check("10.44.0.1:30053", "10.44.0.1:30053", 0);
    check("10.45.0.8:53", "10.44.0.3:5353", 0);
    assert!(misled(&ports, &[connection(Transport::Tcp, SERVICE, "10.44.0.3:5353")]).is_empty());
}

#[test]
fn open_connections_over_tcp_are_counted_for_the_pods_that_have_them() {
    let pods: BTreeMap<_, _> = [("10.44.0.1".parse().unwrap(), PodUid("u1".to_owned()))].into();
    let to_pod = |state| Connection { state, ..connection(Transport::Tcp, SERVICE, "10.44.0.1:5353") };
    let counted = |connections: &[Connection]| in_flight(&pods, connections).into_values().sum::<u32>();
    assert_eq!(counted(&[to_pod(Some(3)), to_pod(Some(5)), to_pod(Some(1))]), 3);
    assert_eq!(counted(&[to_pod(Some(7)), to_pod(Some(8)), to_pod(None)]), 0, "over, or no TCP");
    assert_eq!(counted(&[connection(Transport::Tcp, "10.44.0.1:5353", "10.44.0.1:5353")]), 0, "not passed on");
    assert_eq!(counted(&[connection(Transport::Tcp, SERVICE, "10.44.0.2:5353")]), 0, "another pod's");
}

#[test]
fn what_has_an_end_at_a_pod_that_is_gone_is_an_orphan() {
    let gone: BTreeSet<_> = ["10.44.0.1".parse().unwrap()].into();
    let connections = [
        connection(Transport::Tcp, SERVICE, "10.44.0.1:5353"),
        connection(Transport::Udp, "10.44.0.1:80", "10.44.0.1:80"),
        connection(Transport::Tcp, SERVICE, "10.44.0.2:5353"),
    ];
    assert_eq!(orphans(&gone, &connections), [&connections[0], &connections[1]]);
}

/// Whether the kernel takes it, in a network namespace of its own.
fn accepted(scripts: &[&str]) {
    let scripts = scripts.concat();
    let mut nft = std::process::Command::new("unshare");
    nft.args(["--net", "nft", "-f", "-"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = nft.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), scripts.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{scripts}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_kernel_takes_every_script() {
    let (udp, tcp) = (port(Transport::Udp, &[Ready, Ready]), port(Transport::Tcp, &[Ready]));
    let mut sticky = BalancedPort { affinity: Affinity::ClientIp, ..port(Transport::Tcp, &[Ready, Ready, Ready]) };
    sticky.places = vec!["10.45.0.8:53".parse().unwrap(), "192.0.2.1:53".parse().unwrap()];
    sticky.port.node_port = None;
    let mut outside = BalancedPort { places: Vec::new(), ..port(Transport::Udp, &[Ready]) };
    outside.port.node_port = Some(30_054);
    outside.port.endpoints[0].pod_name.clear();
    accepted(&[&script(&scope(), &[udp, tcp, sticky, outside]), &script(&scope(), &[])]);
    let moved = connection(Transport::Udp, SERVICE, "10.44.0.1:5353");
    let remapped = Connection { answered: "10.44.0.99:555".parse().unwrap(), ..moved.clone() };
    let at_another_port = Connection { to: "10.45.0.7:54".parse().unwrap(), ..moved.clone() };
    let answers = answers_script("test", &[&moved, &remapped, &at_another_port]);
    accepted(&[&answers.table, &answers.elements, &answers.table, &answers.flush, &answers.elements]);
    let one = AddressSet::from_iter(["10.44.0.1".parse::<Ipv4Addr>().unwrap()]);
    let range = |from, to| Ports { protocol: Protocol::Sctp, from, to };
    let allowed = Allowed {
        from: AddressSet::everything().without(&one),
        to: one.clone(),
        ports: vec![range(80, 80), range(90, 99)],
    };
    let policies = Policies { ingress_isolated: one, ingress: vec![allowed], ..Policies::default() };
    accepted(&[
        &policies::script("test_policies", &policies, None),
        &policies::script("test_policies", &policies, Some(1)),
    ]);
}
