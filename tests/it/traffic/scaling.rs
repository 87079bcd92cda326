use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;

#[test]
fn scaling_from_3_to_10_and_back_fails_no_request() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1-exit");
    let mut load = document.load();
    load.answered(240);
    document.scale(10);
    document.assert_declared("v1-exit", 10);
    load.answered(480);
    document.scale(3);
    document.assert_declared("v1-exit", 3);
    load.answered(240);
    let report = load.stop();
    assert_nothing_lost(&report, &["v1-exit"]);
    assert_eq!(report.by_pod.len(), 10, "every pod answered some: {report}");
    machine.down();
}

#[test]
fn deleting_every_pod_one_after_the_other_fails_no_request() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1-exit");
    let mut load = document.load();
    load.answered(240);
    let before = document.standing();
    for pod in before.values() {
        machine.kubectl().run(&format!("delete pod {} -n production", pod.name));
        document.rolled_out();
    }
    let after = document.standing();
    assert!(before.keys().all(|uid| !after.contains_key(uid)), "deleted pods came back: {after:#?}");
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1-exit"]);
    machine.down();
}

#[test]
fn deleting_all_pods_at_once_waits_for_their_replacements() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let mut load = document.load();
    load.answered(240);
    machine.kubectl().run("delete pods --all -n production");
    document.rolled_out();
    document.assert_declared("v1", 3);
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1"]);
    machine.down();
}

#[test]
fn draining_the_node_evicts_as_many_pods_as_the_budget_allows_and_fails_no_request() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let document = Document::deployed(&machine, "v1-exit");
    kubectl.apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: app, namespace: production}\n\
         spec: {minAvailable: 2, selector: {matchLabels: {app: tailscale-mesh-zero-downtime-deployment}}}\n",
    );
    let budget = "poddisruptionbudget/app -n production";
    kubectl.wait_for(budget, ".status.disruptionsAllowed", "1");
    let mut load = document.load();
    load.answered(240);
    let node = kubectl.run("get nodes -o name");
    let drain = format!("drain {} --ignore-daemonsets --delete-emptydir-data --timeout=15s", node.trim());
    let said = kubectl.fails(&drain);
    assert!(said.contains("Cannot evict pod as it would violate the pod's disruption budget"), "{said}");
    load.answered(240);
    kubectl.wait_for(budget, ".status.currentHealthy", "2");
    kubectl.run(&format!("uncordon {}", node.trim()));
    document.rolled_out();
    kubectl.wait_for(budget, ".status.disruptionsAllowed", "1");
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1-exit"]);
    machine.down();
}
