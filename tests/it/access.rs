use end_to_end::images::SHELL;
use end_to_end::kubectl::{Kubectl, Release};
use end_to_end::machine::{LISTEN, Machine};
use end_to_end::run::run;

const FORBIDDEN_PODS: &str = "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\"";

#[test]
fn whoever_is_granted_nothing_may_do_nothing_and_nobody_grants_what_is_not_theirs() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create namespace shop");
    assert!(kubectl.fails("get pods -n shop --as bob").contains(FORBIDDEN_PODS));
    for kubectl in [Release::New, Release::Old].map(|release| machine.kubectl_of(release)) {
        kubectl.run("create role reader -n shop --verb=get,list --resource=pods,pods/log");
        kubectl.run("create rolebinding bob-reads -n shop --role=reader --user=bob");
        a_reader_reads(&kubectl);
        kubectl.run("delete rolebinding/bob-reads role/reader -n shop");
        assert!(kubectl.fails("get pods -n shop --as bob").contains(FORBIDDEN_PODS), "it was taken away");
    }
    whoever_rules_a_namespace_grants_within_it(&kubectl);
    nobody_rules_more_by_the_label_of_a_role(&kubectl);
    accounts_and_groups_are_whom_bindings_name(&kubectl);
    a_role_can_be_put_into_others(&kubectl);
    machine.down();
}

fn a_reader_reads(kubectl: &Kubectl<'_>) {
    let may = |what: &str| kubectl.attempt(&format!("auth can-i {what} --as bob")).stdout.trim() == "yes";
    let asked = ["get pods -n shop", "get pods/log -n shop", "delete pods -n shop", "get secrets -n shop", "get pods"];
    assert_eq!(asked.map(may), [true, true, false, false, false]);
    assert!(kubectl.run("get pods -n shop --as bob").is_empty());
    assert!(kubectl.fails("get pods -A --as bob").contains("at the cluster scope"));
    let all = kubectl.run("auth can-i --list -n shop --as bob");
    assert!(all.lines().any(|line| line.starts_with("pods/log ") && line.contains("[get list]")), "{all}");
    assert!(kubectl.run("auth whoami --as bob --as-group dev").contains("[dev system:authenticated]"));
}

fn whoever_rules_a_namespace_grants_within_it(kubectl: &Kubectl<'_>) {
    kubectl.run("create rolebinding max-rules -n shop --clusterrole=admin --user=max");
    kubectl.run("create rolebinding tom-views -n shop --clusterrole=view --user=tom --as max");
    kubectl.run("get deployments -n shop --as tom");
    for more in [
        "rolebinding all -n shop --clusterrole=cluster-admin --user=max",
        "role all -n shop --verb=get --resource=nodes",
    ] {
        let refused = kubectl.fails(&format!("create {more} --as max"));
        assert!(refused.contains("is attempting to grant RBAC permissions not currently held"), "{refused}");
    }
    let patched = "patch role reads -n shop --type=json --as max";
    kubectl.run("create role reads -n shop --verb=get --resource=pods --as max");
    let all = r#"-p=[{"op":"replace","path":"/rules/0/verbs","value":["escalate"]}]"#;
    assert!(kubectl.fails(&format!("{patched} {all}")).contains("not currently held"));
    assert!(kubectl.fails("get pods -n default --as max").contains("forbidden"));
}

fn nobody_rules_more_by_the_label_of_a_role(kubectl: &Kubectl<'_>) {
    kubectl.run("create clusterrole labels --verb=get,patch --resource=clusterroles");
    kubectl.run("create clusterrolebinding eve-labels --clusterrole=labels --user=eve");
    kubectl.run("create clusterrolebinding eve-views --clusterrole=view --user=eve");
    let label = "label clusterrole cluster-admin rbac.authorization.k8s.io/aggregate-to-view=true --as eve";
    assert!(kubectl.fails(label).contains("not currently held"));
    kubectl.run("label clusterrole labels team=eve --as eve");
    assert!(kubectl.fails("get secrets -A --as eve").contains("forbidden"));
}

fn accounts_and_groups_are_whom_bindings_name(kubectl: &Kubectl<'_>) {
    kubectl.run("create rolebinding robots -n shop --clusterrole=view --serviceaccount=shop:robot");
    kubectl.run("get pods -n shop --as system:serviceaccount:shop:robot");
    assert!(kubectl.fails("get pods -n shop --as system:serviceaccount:default:robot").contains("forbidden"));
    kubectl.run("create clusterrolebinding devs --clusterrole=view --group=dev");
    kubectl.run("get pods -A --as ann --as-group dev");
    assert!(kubectl.fails("get secrets -A --as ann --as-group dev").contains("forbidden"));
}

fn a_role_can_be_put_into_others(kubectl: &Kubectl<'_>) {
    kubectl.run("create clusterrolebinding eve-edits --clusterrole=edit --user=eve");
    assert_eq!(kubectl.attempt("auth can-i get nodes --as eve").stdout.trim(), "no");
    kubectl.run("create clusterrole nodes --verb=get,list --resource=nodes");
    kubectl.run("label clusterrole nodes rbac.authorization.k8s.io/aggregate-to-view=true");
    // By way of view, which is put into edit.
    let reads_nodes = ".rules[?(@.resources[0]=='nodes')].verbs[0]";
    kubectl.wait_for("clusterrole/edit", reads_nodes, "get");
    kubectl.run("get nodes --as eve");
}

#[test]
fn a_service_account_shows_its_token_and_may_do_what_it_is_granted() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create serviceaccount robot");
    kubectl.run("create role reader --verb=get,list --resource=configmaps");
    kubectl.run("create rolebinding reads --role=reader --serviceaccount=default:robot");
    let token = kubectl.run("create token robot --duration=10m");
    let server = format!("--server=https://{LISTEN}");
    let ask = |token: &str, asked: &str| {
        let mut command = kubectl.command();
        command.env("KUBECONFIG", "/dev/null").args(["--insecure-skip-tls-verify", &server, "--token", token.trim()]);
        run(command.args(asked.split(' ')), "")
    };
    let said = ask(&token, "auth whoami");
    assert!(said.stdout.contains("system:serviceaccount:default:robot"), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("system:serviceaccounts:default"), "{}", said.stdout);
    assert!(ask(&token, "get configmaps").success);
    let refused = ask(&token, "get secrets");
    assert!(refused.stderr.contains("system:serviceaccount:default:robot"), "{}", refused.stderr);
    let short = run(kubectl.command().args("create token robot --duration=1m".split(' ')), "");
    assert!(short.stderr.contains("10 minutes"), "{}", short.stderr);

    let review = format!(
        r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {{"token": "{}"}}}}"#,
        token.trim()
    );
    let reviewed = run(kubectl.command().args(["create", "-o", "yaml", "-f", "-"]), &review).stdout;
    assert!(reviewed.contains("authenticated: true"), "{reviewed}");

    // A token for somebody else is none here, and each ends with its account.
    let other = kubectl.run("create token robot --audience=vault");
    assert!(ask(&other, "get configmaps").stderr.contains("Unauthorized"));
    assert!(ask(&token.replace('.', ".A"), "get configmaps").stderr.contains("Unauthorized"));
    kubectl.run("delete serviceaccount robot");
    kubectl.run("create serviceaccount robot");
    assert!(ask(&token, "get configmaps").stderr.contains("Unauthorized"));
    machine.down();
}

const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 1
  containers: [{name: shell, image: SHELL, args: [-c, 'sleep 1000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: silent}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  containers: [{name: shell, image: SHELL, args: [-c, 'sleep 1000']}]
"#;

#[test]
fn a_pod_asks_the_api_with_its_own_token_and_learns_who_it_is() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    assert!(
        kubectl.attempt_apply(&CLIENT.replace("SHELL", SHELL)).stderr.contains("serviceaccount \"robot\" not found")
    );
    kubectl.run("create serviceaccount robot");
    kubectl.run("create role reader --verb=get,list --resource=configmaps");
    kubectl.run("create rolebinding reads --role=reader --serviceaccount=default:robot");
    kubectl.run("create configmap found --from-literal=a=b");
    kubectl.apply(&CLIENT.replace("SHELL", SHELL));
    kubectl.run("wait pod/client pod/silent --for=condition=Ready --timeout=60s");
    let inside = |pod: &str, script: &str| run(kubectl.command().args(["exec", pod, "--", "sh", "-c", script]), "");

    let mounted = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(inside("client", &format!("cat {mounted}/namespace")).stdout, "default");
    assert!(inside("client", &format!("head -1 {mounted}/ca.crt")).stdout.contains("BEGIN CERTIFICATE"));
    assert!(!inside("silent", &format!("cat {mounted}/token")).success);
    for pod in ["client", "silent"] {
        assert!(inside(pod, "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT").stdout.ends_with(":443\n"));
    }
    // What is asked over the Service's name shows a certificate of that name.
    let token = inside("client", &format!("cat {mounted}/token")).stdout;
    let root = kubectl.run("get configmap kube-root-ca.crt -o jsonpath={.data.ca\\.crt}");
    let authority = machine.directory().join("root.crt");
    std::fs::write(&authority, root).expect("a directory of the test");
    let address = kubectl.run("get service kubernetes -o jsonpath={.spec.clusterIP}");
    let ask = |host: &str, what: &str| {
        let mut curl = machine.namespace().in_network("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--cacert"]).arg(&authority);
        curl.args(["--resolve", &format!("kubernetes.default.svc:443:{address}")]);
        curl.args(["--header", &format!("Authorization: Bearer {token}"), &format!("https://{host}/{what}")]);
        run(&mut curl, "").stdout
    };
    for host in ["kubernetes.default.svc", &address] {
        assert!(ask(host, "api/v1/namespaces/default/configmaps").contains("found"), "{host}");
        assert!(ask(host, "api/v1/namespaces/default/secrets").contains("Forbidden"), "{host}");
    }
    // The pod itself reaches it, over its own network.
    let said = inside("client", "echo hello | busybox nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT");
    assert!(said.success, "{}{}", said.stdout, said.stderr);
    // Deleted, as with everything else of the namespace, it is there again, at the address that pods were told.
    kubectl.run("delete service kubernetes");
    kubectl.run("wait service/kubernetes --for=create --timeout=60s");
    assert_eq!(kubectl.run("get service kubernetes -o jsonpath={.spec.clusterIP}"), address);
    kubectl.run("delete pod client");
    assert!(ask(&address, "api/v1/namespaces/default/configmaps").contains("Unauthorized"), "the pod is gone");
    machine.down();
}

/// Connects twice, speaks HTTP/2 on the first connection and asks nothing, goes on asking on the second, and says what
/// became of each once the first is closed.
const IDLING: &str = "
import http.client, socket, ssl, sys, threading
host, port = sys.argv[1].rsplit(':', 1)
context = ssl._create_unverified_context()
asking = http.client.HTTPSConnection(host, int(port), context=context, timeout=100)
asking.connect()
known = asking.sock
context.set_alpn_protocols(['h2'])
silent = context.wrap_socket(socket.create_connection((host, int(port)), timeout=100))
silent.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
closed = threading.Event()
def wait():
    while silent.recv(1000):
        pass
    closed.set()
threading.Thread(target=wait, daemon=True).start()
while True:
    is_last = closed.wait(3)
    asking.request('GET', '/version', headers={'Authorization': 'Bearer ' + sys.argv[2]})
    answer = asking.getresponse()
    answer.read()
    if is_last or answer.status != 200 or asking.sock is not known:
        break
print(silent.selected_alpn_protocol(), is_last, answer.status, asking.sock is known)
";

#[test]
fn a_connection_on_which_nobody_makes_himself_known_is_closed() {
    let machine = Machine::with_engine();
    let token = machine.kubectl().run("create token default");
    let mut idling = machine.namespace().in_network("python3");
    let said = run(idling.args(["-c", IDLING, LISTEN, token.trim()]), "");
    assert_eq!(said.stdout.trim(), "h2 True 200 True", "{}", said.stderr);
    machine.down();
}
