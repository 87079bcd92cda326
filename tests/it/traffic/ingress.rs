use std::process::Stdio;

use end_to_end::document::{Document, NAME};
use end_to_end::machine::Machine;
use end_to_end::outside::{MACHINE, assert_nothing_lost};
use end_to_end::processes;
use end_to_end::run::output_of;

fn ingress(more: &str, tls: &str) -> String {
    let backend = format!("backend: {{service: {{name: {NAME}, port: {{number: 80}}}}}}");
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, namespace: production}}\n\
         spec: {{ingressClassName: segue, {tls} rules: [\
         {{http: {{paths: [{{path: /, pathType: Prefix, {backend}}}]}}}}{more}]}}\n"
    )
}

/// Puts a new certificate of its own into Secret `web`.
fn certify(machine: &Machine) {
    let made = rcgen::generate_simple_self_signed([MACHINE.to_owned()]).expect("a certificate");
    let text = |text: String| text.replace('\n', "\n    ");
    machine.kubectl().apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: web, namespace: production}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        text(made.cert.pem()),
        text(made.signing_key.serialize_pem())
    ));
}

/// What is answered over TLS; kubectl can ask any server.
fn asked_over_tls(machine: &Machine) -> String {
    let mut client = machine.outside().namespace().command(machine.kubectl().program());
    let server = format!("https://{MACHINE}");
    // Without a name it would ask for one.
    output_of(client.args(["--server", &server, "--insecure-skip-tls-verify", "--token=none", "get", "--raw", "/"]))
}

#[test]
fn a_port_that_another_program_holds_is_told_on_the_ingress() {
    let machine = Machine::with_engine();
    let mut other = machine.namespace().command("busybox");
    let mut other = other.args(["nc", "-l", "-p", "80"]).stdin(Stdio::null()).spawn().expect("busybox was installed");
    let is_taken = "until ss --listening --tcp --numeric | grep --quiet :80; do sleep 0.05; done";
    output_of(machine.namespace().command("bash").args(["-c", is_taken]));
    let kubectl = machine.kubectl();
    kubectl.run("create namespace production");
    kubectl.apply(&ingress("", ""));
    let event = "get event -n production --field-selector reason=ListenFailed,involvedObject.kind=Ingress -o name";
    // Each question takes kubectl a tenth of a second.
    assert!((0..600).any(|_| !kubectl.run(event).is_empty()), "nobody says that the port is taken");
    assert_eq!(kubectl.run("get ingress web -n production -o jsonpath={.status.loadBalancer}"), "{}");
    processes::oldest(machine.namespace(), "busybox").kill();
    other.wait().expect("a child of ours");
    kubectl.wait_for("ingress/web -n production", ".status.loadBalancer.ingress[0].ip", MACHINE);
    machine.down();
}

#[test]
fn changes_of_rules_and_certificates_fail_no_request() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let kubectl = machine.kubectl();
    kubectl.apply(&ingress("", ""));
    kubectl.wait_for("ingress/web -n production", ".status.loadBalancer.ingress[0].ip", MACHINE);
    let table = kubectl.run("get ingress -n production");
    assert!(table.contains("segue") && table.contains(MACHINE), "{table}");
    let mut load = machine.outside().load(MACHINE.parse().expect("an address"));
    load.answered(240);

    let other = ", {host: other.test, http: {paths: [{path: /, pathType: Exact, \
                 backend: {service: {name: gone, port: {number: 80}}}}]}}";
    kubectl.apply(&ingress(other, "tls: [{secretName: web}],"));
    load.answered(120);
    for _ in 0..2 {
        certify(&machine);
        load.answered(120);
    }
    assert!(asked_over_tls(&machine).starts_with("version v1\n"));
    kubectl.run("patch secret web -n production --type=merge -p {\"stringData\":{\"tls.key\":\"torn\"}}");
    let warnings = "get events -n production --field-selector involvedObject.name=web,reason=CertificateUnusable";
    while !kubectl.run(warnings).contains("Secret production/web") {}
    assert!(asked_over_tls(&machine).starts_with("version v1\n"), "with the last certificate that was whole");
    kubectl.apply(&ingress("", "tls: [{secretName: web}],"));
    document.roll_to("v2");
    load.answered(240);
    assert!(asked_over_tls(&machine).starts_with("version v2\n"));
    assert_nothing_lost(&load.stop(), &["v1", "v2"]);
    machine.down();
}
