use end_to_end::document::{Document, NAME};
use end_to_end::images::SHELL;
use end_to_end::machine::Machine;
use end_to_end::run::output_of;

/// Lets in only pods of namespace `production` that have this role.
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: production}\n\
    spec:\n  podSelector: {matchLabels: {app: tailscale-mesh-zero-downtime-deployment}}\n  ingress:\n  - ports: [{port: 8080}]\n    \
    from:\n    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: production}}\n      \
    podSelector: {matchLabels: {role: friend}}\n";

/// A pod that asks the Service until `until` stands in what it is told.
fn asking_pod(role: &str, namespace: &str, until: &str) -> String {
    let ask = format!("wget -q -O - http://{NAME}.production/ 2>&1");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {role}, namespace: {namespace}, labels: {{role: {role}}}}}\nspec:\n  \
         restartPolicy: Never\n  containers:\n  - name: ask\n    image: {SHELL}\n    command: [\"/bin/sh\", \"-c\", \
         'while true; do said=\"$({ask})\"; case \"$said\" in *\"{until}\"*) exit 0;; esac; sleep 1; done']\n"
    )
}

/// What a client outside is told, with the error if there is one.
fn asked_from_outside(machine: &Machine) -> String {
    let ask = format!("busybox wget -q -O - http://{}/ 2>&1; true", machine.service_address(NAME));
    output_of(machine.outside().namespace().command("sh").args(["-c", &ask]))
}

#[test]
fn a_policy_lets_in_whom_it_names_from_the_moment_it_is_there() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let kubectl = machine.kubectl();
    assert!(asked_from_outside(&machine).starts_with("version v1\n"));
    kubectl.apply(POLICY);
    let table = kubectl.run("get netpol -n production");
    assert!(table.contains("POD-SELECTOR") && table.contains(&format!("app={NAME}")), "{table}");
    while !asked_from_outside(&machine).contains("403 Forbidden") {}

    kubectl.apply(&asking_pod("friend", "production", "version v1"));
    kubectl.apply(&asking_pod("stranger", "production", "403 Forbidden"));
    kubectl.apply(&asking_pod("friend", "default", "403 Forbidden"));
    for pod in ["pod/friend -n production", "pod/stranger -n production", "pod/friend"] {
        kubectl.wait_for(pod, ".status.phase", "Succeeded");
    }
    let address = format!("http://{}/", machine.service_address(NAME));
    let from_host = output_of(machine.namespace().command("busybox").args(["wget", "-q", "-O", "-", &address]));
    assert!(from_host.starts_with("version v1\n"), "the machine itself is let in: {from_host}");

    document.roll_to("v2");
    assert!(asked_from_outside(&machine).contains("403 Forbidden"), "new pods are guarded too");
    kubectl.run("delete netpol guard -n production");
    while !asked_from_outside(&machine).starts_with("version v2\n") {}
    machine.down();
}
