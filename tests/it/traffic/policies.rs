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

/// Everything in `production` is shut, but for DNS at the pod `echo`, which only friends may ask.
const SHUT: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: production}\n\
    spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n---\n\
    apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: in, namespace: production}\n\
    spec:\n  podSelector: {matchLabels: {app: echo}}\n  ingress:\n  - ports: [{port: http}]\n    \
    from: [{podSelector: {matchLabels: {role: friend}}}]\n---\n\
    apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: out, namespace: production}\n\
    spec:\n  podSelector: {matchLabels: {role: friend}}\n  policyTypes: [Egress]\n  egress:\n  \
    - to: [{podSelector: {matchLabels: {app: echo}}}]\n";

/// A pod that may be asked, and whose first deed is to ask what it may not.
const ECHO: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: echo, namespace: production, labels: {app: echo}}\nspec:\n  \
    terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: {SHELL}\n    \
    command: [/bin/sh, -c, 'wget -q -O - http://{OPEN}:8080/ && echo broken out; exec /app VERSION=v1']\n    \
    ports: [{name: http, containerPort: 8080}]\n    \
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: opaque, namespace: production}\n\
    spec: {selector: {app: echo}, ports: [{name: tcp, port: 9000, targetPort: http}]}\n";

/// A pod that asks at these places once each and says what came of it.
fn asking_once(name: &str, role: &str, places: &[&str]) -> String {
    let ask = |place: &&str| format!("wget -q -O /dev/null http://{place}/ && echo {place} yes || echo {place} no");
    let asks = places.iter().map(ask).collect::<Vec<_>>().join("; ");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: production, labels: {{role: {role}}}}}\nspec:\n  \
         restartPolicy: Never\n  containers: [{{name: ask, image: {SHELL}, command: [/bin/sh, -c, '{asks}']}}]\n"
    )
}

#[test]
fn a_guarded_pod_is_guarded_in_the_kernel_from_its_first_packet_on() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create namespace production");
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: open}}\nspec: {{containers: [{{name: app, image: {SHELL}, command: [/app]}}], terminationGracePeriodSeconds: 1}}\n"
    ));
    kubectl.run("wait pod/open --for=condition=Ready --timeout=60s");
    let address = |pod: &str| kubectl.run(&format!("get {pod} -o jsonpath={{.status.podIP}}"));
    let open = address("pod/open");
    let asked_by_host = |place: &str| {
        let ask = format!("busybox wget -q -O - http://{place}/ 2>&1; true");
        output_of(machine.namespace().command("sh").args(["-c", &ask]))
    };
    assert!(asked_by_host(&format!("{open}:8080")).contains("version"), "it answers while nothing is forbidden");
    kubectl.apply(SHUT);
    kubectl.apply(&ECHO.replace("{SHELL}", SHELL).replace("{OPEN}", &open));
    kubectl.run("wait pod/echo -n production --for=condition=Ready --timeout=60s");
    let echo = address("pod/echo -n production");
    let logs = kubectl.run("logs echo -n production");
    assert!(!logs.contains("broken out"), "its first packet was free: {logs}");

    let service = format!("{}:9000", kubectl.run("get service opaque -n production -o jsonpath={.spec.clusterIP}"));
    let (direct, elsewhere, metrics) = (format!("{echo}:8080"), format!("{open}:8080"), format!("{echo}:9090"));
    let places = [&direct[..], &service, "opaque.production:9000", &metrics, &elsewhere];
    kubectl.apply(&asking_once("friend", "friend", &places));
    kubectl.apply(&asking_once("stranger", "stranger", &places));
    let said = |pod: &str| {
        kubectl.wait_for(&format!("pod/{pod} -n production"), ".status.phase", "Succeeded");
        let logs = kubectl.run(&format!("logs {pod} -n production"));
        let said = logs.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, said)| said.to_owned());
        said.filter(|said| said == "yes" || said == "no").collect::<Vec<_>>()
    };
    assert_eq!(said("friend"), ["yes", "yes", "yes", "no", "no"], "of {places:?}");
    assert_eq!(said("stranger"), ["no"; 5], "of {places:?}");
    assert!(!asked_by_host(&direct).contains("version v1"), "the machine itself passes only through Services");
    assert!(asked_by_host(&service).contains("version v1"));
    kubectl.run("delete netpol --all -n production");
    while !asked_by_host(&direct).contains("version v1") {}
    machine.down();
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
