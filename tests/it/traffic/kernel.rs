use std::net::Ipv4Addr;
use std::time::Duration;

use end_to_end::document::{Document, NAME};
use end_to_end::images::SHELL;
use end_to_end::machine::Machine;
use end_to_end::outside::{self, MACHINE, assert_nothing_lost};
use end_to_end::processes;
use end_to_end::run::output_of;
use tools::datagrams;
use tools::load::{Plan, Way};

const OPAQUE: u16 = 9000;
const NODE_PORT: u16 = 31_053;

/// Everybody may ask, and nobody but who asked may be spoken to.
const SHUT: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: production}\n\
    spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]}\n";

/// The document's pods over UDP and opaque TCP.
fn balanced_by_the_kernel(machine: &Machine) -> Ipv4Addr {
    machine.kubectl().apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kernel, namespace: production}}\nspec:\n  type: NodePort\n  \
         selector: {{app: {NAME}}}\n  ports:\n  \
         - {{name: dns, protocol: UDP, port: 53, targetPort: 8080, nodePort: {NODE_PORT}}}\n  \
         - {{name: tcp, port: {OPAQUE}, targetPort: 8080}}\n"
    ));
    let address = machine.service_address("kernel");
    in_force(machine, &format!("{address} . udp . 53"));
    address
}

/// Waits until the kernel has a place among its rules.
fn in_force(machine: &Machine, place: &str) {
    let rules = || output_of(machine.namespace().command("nft").args(["list", "ruleset"]));
    while !rules().contains(place) {}
}

fn questions(target: (Ipv4Addr, u16)) -> datagrams::Plan {
    datagrams::Plan { target: target.into(), clients: 8, pause: Duration::from_millis(40) }
}

fn new_connections(address: Ipv4Addr) -> Plan {
    Plan { target: (address, OPAQUE).into(), ways: vec![Way::NewConnection], ..outside::plan(address) }
}

#[test]
fn rolling_updates_of_an_app_that_drains_lose_nothing_that_the_kernel_balances() {
    rolls_back_and_forth(["v1", "v2"], "");
}

#[test]
fn rolling_updates_of_an_app_that_exits_at_once_lose_nothing_that_the_kernel_balances() {
    rolls_back_and_forth(["v1-exit", "v2-exit"], SHUT);
}

fn rolls_back_and_forth(versions: [&str; 2], policy: &str) {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, versions[0]);
    let address = balanced_by_the_kernel(&machine);
    if !policy.is_empty() {
        machine.kubectl().apply(policy);
    }
    let mut asked = machine.outside().ask(&questions((address, 53)));
    let mut asked_at_the_node = machine.outside().ask(&questions((MACHINE.parse().expect("an address"), NODE_PORT)));
    let mut load = machine.outside().send(&new_connections(address));
    for update in 1..=3 {
        load.answered(240);
        document.roll_to(versions[update % 2]);
        document.settled();
    }
    load.answered(240);
    asked.answered(100);
    asked_at_the_node.answered(100);
    for report in [asked.stop(), asked_at_the_node.stop()] {
        assert_eq!(report.lost, 0, "{report}");
        assert_eq!(report.by_version.keys().collect::<Vec<_>>(), versions, "{report}");
    }
    assert_nothing_lost(&load.stop(), &versions);
    machine.down();
}

#[test]
fn what_the_kernel_balances_goes_on_while_engine_and_proxy_are_killed() {
    let machine = Machine::with_engine();
    let _document = Document::deployed(&machine, "v1");
    let address = balanced_by_the_kernel(&machine);
    let mut asked = machine.outside().ask(&questions((address, 53)));
    let mut load = machine.outside().send(&new_connections(address));
    load.answered(240);
    machine.kill_engine();
    for proxy in processes::in_role(machine.namespace(), "proxy") {
        proxy.kill();
    }
    load.answered(240);
    machine.up();
    load.answered(240);
    asked.answered(100);
    let report = asked.stop();
    assert_eq!(report.lost, 0, "{report}");
    assert_nothing_lost(&load.stop(), &["v1"]);
    machine.down();
}

#[test]
fn the_kernel_serves_the_host_and_a_pod_that_calls_its_own_service() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: self}}\nspec: {{selector: {{app: self}}, ports: [{{name: tcp, port: {OPAQUE}, targetPort: 8080}}]}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: self, labels: {{app: self}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    \
         image: {SHELL}\n    command: [\"/bin/sh\", \"-c\", \"/app VERSION=itself & while true; do wget -q -O - http://self.default:{OPAQUE}/?nonce=own; sleep 1; done\"]\n    \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
    ));
    kubectl.run("wait pod/self --for=condition=Ready --timeout=60s");
    let address = kubectl.run("get service self -o jsonpath={.spec.clusterIP}");
    in_force(&machine, &format!("{address} . tcp . {OPAQUE}"));
    let answered = || kubectl.run("logs self").matches("nonce own").count();
    let before = answered();
    // One may have been under way through the proxy.
    while answered() < before + 2 {}
    let url = format!("http://{address}:{OPAQUE}/");
    let from_host = output_of(machine.namespace().command("busybox").args(["wget", "-q", "-O", "-", &url]));
    assert!(from_host.starts_with("version itself\n"), "{from_host}");
    machine.down();
}
