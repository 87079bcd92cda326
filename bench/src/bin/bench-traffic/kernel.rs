//! TCP through the kernel: a Service whose port is opaque beside a bare rule of nftables, both in front of one pod.

use std::net::SocketAddr;

use end_to_end::images::APP;
use end_to_end::machine::Machine;
use end_to_end::run::{output_of, run};

use super::measure::{Connections, wrk};

/// For documentation (RFC 5737); the bare rule takes connections to it.
const BARE: &str = "198.51.100.2";
const PORT: u16 = 9000;
const CONNECTIONS: u32 = 32;

/// Requests a second through the Service and through the bare rule, in turns, each at its best.
pub(crate) fn beside_a_bare_rule(machine: &Machine, kind: Connections, rounds: usize) -> (f64, f64) {
    let (service, bare) = (service(machine), bare_rule(machine));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(wrk(machine, service, kind, CONNECTIONS).1);
        theirs.push(wrk(machine, bare, kind, CONNECTIONS).1);
    }
    (super::best(ours), super::best(theirs))
}

/// Where the Service is, once the kernel balances it.
fn service(machine: &Machine) -> SocketAddr {
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: opaque}}\n\
         spec: {{selector: {{app: opaque}}, ports: [{{name: tcp, port: {PORT}, targetPort: 8080}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: opaque, labels: {{app: opaque}}}}\n\
         spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: app, image: \"{APP}:v1\", \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}}}]}}\n"
    ));
    kubectl.run("wait pod/opaque --for=condition=Ready --timeout=60s");
    let address = kubectl.run("get service opaque -o jsonpath={.spec.clusterIP}");
    let rules = || output_of(machine.namespace().command("nft").args(["list", "ruleset"]));
    while !rules().contains(&format!("{address} . tcp . {PORT}")) {}
    SocketAddr::new(address.parse().expect("a Service has an address"), PORT)
}

fn bare_rule(machine: &Machine) -> SocketAddr {
    let pod = machine.kubectl().run("get pod opaque -o jsonpath={.status.podIP}");
    let ip = ["address", "replace", &format!("{BARE}/32"), "dev", "lo"];
    output_of(machine.namespace().command("ip").args(ip));
    let rules = format!(
        "table ip bare {{}}\ndelete table ip bare\ntable ip bare {{ chain output {{ type nat hook output priority -90; \
         ip daddr {BARE} tcp dport {PORT} dnat to {pod}:8080; }}; }}\n"
    );
    let said = run(machine.namespace().command("nft").args(["-f", "-"]), &rules);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    SocketAddr::new(BARE.parse().expect("an address"), PORT)
}
