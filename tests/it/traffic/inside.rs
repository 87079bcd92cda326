use end_to_end::document::{Document, NAME};
use end_to_end::images::SHELL;
use end_to_end::machine::Machine;
use end_to_end::run::output_of;

/// A pod that asks a Service, under three names, from inside.
fn asking_pod(name: &str, namespace: &str) -> String {
    let asks = ["$NAME", "$NAME.production.svc", "$NAME.production.svc.cluster.local"];
    let asks = asks.map(|host| format!("wget -q -O - http://{host}/?nonce=from-inside")).join(" && ");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  restartPolicy: Never\n  \
         containers:\n  - name: ask\n    image: {SHELL}\n    env: [{{name: NAME, value: {NAME}}}]\n    \
         args: [\"-c\", \"{asks}\"]\n"
    )
}

#[test]
fn a_service_is_reached_by_its_names_from_a_pod_and_by_its_address_from_the_host() {
    let machine = Machine::with_engine();
    let _document = Document::deployed(&machine, "v1");
    let kubectl = machine.kubectl();
    kubectl.apply(&asking_pod("asker", "production"));
    kubectl.wait_for("pod/asker -n production", ".status.phase", "Succeeded");
    let answers = kubectl.run("logs asker -n production");
    assert_eq!(answers.matches("version v1\n").count(), 3, "{answers}");
    assert_eq!(answers.matches("nonce from-inside").count(), 3, "{answers}");
    let address = machine.service_address(NAME);
    let from_host = output_of(machine.namespace().command("busybox").args([
        "wget",
        "-q",
        "-O",
        "-",
        &format!("http://{address}/"),
    ]));
    assert!(from_host.starts_with("version v1\n"), "{from_host}");
    machine.down();
}

#[test]
fn a_pod_that_calls_its_own_service_is_answered() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: self}}\nspec: {{selector: {{app: self}}, ports: [{{port: 80, targetPort: 8080}}]}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: self, labels: {{app: self}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    \
         image: {SHELL}\n    command: [\"/bin/sh\", \"-c\", \"/app VERSION=itself & until wget -q -O - http://self.default/?nonce=own; do sleep 1; done; wait\"]\n    \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
    ));
    kubectl.run("wait pod/self --for=condition=Ready --timeout=60s");
    let mut said = String::new();
    while !said.contains("nonce own") {
        said = kubectl.run("logs self");
    }
    machine.down();
}
