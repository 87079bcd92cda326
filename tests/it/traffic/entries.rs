use end_to_end::document::{Document, NAME};
use end_to_end::machine::Machine;
use end_to_end::outside::MACHINE;
use end_to_end::run::output_of;

/// A Service for the document's pods under another name.
fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: production}}\n\
         spec: {{selector: {{app: {NAME}}}, {spec}}}\n"
    )
}

fn asked_from_outside(machine: &Machine, address: &str) -> String {
    let url = format!("http://{address}/");
    output_of(machine.outside().namespace().command("busybox").args(["wget", "-q", "-O", "-", &url]))
}

#[test]
fn a_service_is_reached_from_outside_at_a_node_port_a_load_balancers_and_an_external_address() {
    let machine = Machine::with_engine();
    let _document = Document::deployed(&machine, "v1");
    let kubectl = machine.kubectl();
    kubectl.apply(&service("node", "type: NodePort, ports: [{port: 80, targetPort: 8080}]"));
    kubectl.apply(&service("fixed", "type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 31000}]"));
    kubectl.apply(&service("balancer", "type: LoadBalancer, ports: [{port: 8080}]"));
    kubectl
        .apply(&service("external", &format!("externalIPs: [{MACHINE}], ports: [{{port: 8081, targetPort: 8080}}]")));
    kubectl.wait_for("service/balancer -n production", ".status.loadBalancer.ingress[0].ip", MACHINE);
    let node_port = kubectl.run("get service node -n production -o jsonpath={.spec.ports[0].nodePort}");
    for port in [&node_port[..], "31000", "8080", "8081"] {
        let answer = asked_from_outside(&machine, &format!("{MACHINE}:{port}"));
        assert!(answer.starts_with("version v1\n"), "at {port}: {answer}");
    }
    let taken = kubectl.attempt_apply(&service("third", "type: NodePort, ports: [{port: 80, nodePort: 31000}]"));
    assert!(taken.stderr.contains("31000: provided port is already allocated"), "{}", taken.stderr);
    kubectl.run("delete service fixed -n production");
    kubectl.apply(&service("third", "type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 31000}]"));
    machine.down();
}
