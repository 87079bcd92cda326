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
