use end_to_end::document::{Document, NAME};
use end_to_end::images::APP;
use end_to_end::kubectl::{Kubectl, Release};
use end_to_end::machine::Machine;
use end_to_end::run::run;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: plain, labels: {app: plain}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: app
    image: registry.example.com/tailscale-mesh-zero-downtime-deployment:v1
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";

#[test]
fn a_new_kubectl_reads_writes_and_waits() {
    reads_writes_and_waits(Release::New);
}

#[test]
fn an_old_kubectl_reads_writes_and_waits() {
    reads_writes_and_waits(Release::Old);
}

fn reads_writes_and_waits(release: Release) {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl_of(release);
    assert!(kubectl.run("version").contains("Server Version: v1.36"), "{}", kubectl.run("version"));
    assert!(kubectl.run("get nodes").contains(" Ready "), "{}", kubectl.run("get nodes"));
    kubectl.apply(POD);
    kubectl.run("wait pod/plain --for=condition=Ready --timeout=60s");
    pod_is_shown_in_every_form(&kubectl);
    assert!(kubectl.run("logs plain").contains("listens on port 8080"));
    assert!(kubectl.run("logs plain --tail=1 --timestamps").starts_with("20"), "a timestamp comes first");

    let again = kubectl.apply(POD);
    assert!(again.contains("pod/plain unchanged"), "{again}");
    let labelled = kubectl.apply(&POD.replace("{app: plain}", "{app: plain, tier: front}"));
    assert!(labelled.contains("pod/plain configured"), "{labelled}");
    assert!(kubectl.run("get pods -l tier=front -o name").contains("pod/plain"));
    assert_eq!(kubectl.run("get pods -l tier=back -o name"), "");

    asks_what_there_is(&kubectl);
    what_is_only_tried_changes_nothing(&kubectl);
    kubectl.run("delete pod plain --grace-period=1");
    assert!(kubectl.fails("get pod plain").contains("pods \"plain\" not found"));
    machine.down();
}

fn what_is_only_tried_changes_nothing(kubectl: &Kubectl<'_>) {
    kubectl.run("create configmap tried --from-literal=a=b");
    for tried in [
        "delete configmap tried --dry-run=server",
        "delete configmaps --all --dry-run=server",
        "delete namespace default --dry-run=server",
        "label configmap tried x=y --dry-run=server",
        "create configmap other --dry-run=server",
    ] {
        kubectl.run(tried);
    }
    assert_eq!(kubectl.run("get configmap tried -o jsonpath={.metadata.labels}{.data.a}"), "b");
    assert!(kubectl.fails("get configmap other").contains("not found"));
    assert_eq!(kubectl.run("get namespace default -o jsonpath={.status.phase}"), "Active");
    kubectl.run("delete configmap tried");
}

fn asks_what_there_is(kubectl: &Kubectl<'_>) {
    let resources = kubectl.run("api-resources --namespaced=true -o name");
    for resource in ["pods", "deployments.apps", "leases.coordination.k8s.io", "servicetraffic.traffic.segue.dev"] {
        assert!(resources.lines().any(|line| line == resource), "{resource} is missing in\n{resources}");
    }
    let explained = kubectl.run("explain pod.spec.containers.readinessProbe.httpGet.path");
    assert!(explained.contains("FIELD: path <string>"), "{explained}");
    let mut live = kubectl.json("get pod plain");
    live["metadata"]["labels"]["tier"] = "back".into();
    let changed = run(kubectl.command().args(["diff", "-f", "-"]), &live.to_string());
    assert!(!changed.success && changed.stdout.contains("+    tier: back"), "{}{}", changed.stdout, changed.stderr);
    live["metadata"]["labels"]["tier"] = "front".into();
    let same = run(kubectl.command().args(["diff", "-f", "-"]), &live.to_string());
    assert!(same.success, "{}{}", same.stdout, same.stderr);
    assert_eq!(kubectl.run("get pods -l tier=back -o name"), "", "a question changes nothing");
}

fn pod_is_shown_in_every_form(kubectl: &Kubectl<'_>) {
    let table = kubectl.run("get pods");
    assert!(
        table.lines().next().is_some_and(|head| head.starts_with("NAME    READY   STATUS    RESTARTS   AGE")),
        "{table}"
    );
    assert!(table.contains("plain   1/1     Running   0 "), "{table}");
    assert!(kubectl.run("get pods -o wide").contains("10.44."), "an address of the pod range");
    assert!(kubectl.run("get pod plain -o yaml").contains("phase: Running"));
    assert_eq!(kubectl.json("get pod plain")["metadata"]["name"], "plain");
    assert_eq!(kubectl.run("get pod plain -o jsonpath={.status.phase}"), "Running");
    let described = kubectl.run("describe pod plain");
    for line in ["Status:           Running", "Ready:          True", "Scheduled", "Pulled", "Started"] {
        assert!(described.contains(line), "{line:?} is missing in\n{described}");
    }
}

#[test]
fn a_new_kubectl_manages_rollouts() {
    manages_rollouts(Release::New);
}

#[test]
fn an_old_kubectl_manages_rollouts() {
    manages_rollouts(Release::Old);
}

fn manages_rollouts(release: Release) {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let kubectl = machine.kubectl_of(release);
    let rollout = |verb: &str| kubectl.run(&format!("rollout {verb} deployment/{NAME} -n production"));

    let history = rollout("history");
    assert!(history.contains("REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n"), "{history}");
    let first = kubectl.run(&format!("rollout history deployment/{NAME} -n production --revision=1"));
    assert!(first.contains(&format!("Image:\t{APP}:latest")), "{first}");

    let before = document.standing();
    rollout("pause");
    document.set_image("v2");
    let paused = kubectl.fails(&format!("rollout undo deployment/{NAME} -n production"));
    assert!(paused.contains("paused"), "{paused}");
    let observed = kubectl.json(&format!("get deployment {NAME} -n production"))["metadata"]["generation"].to_string();
    kubectl.wait_for(&format!("deployment/{NAME} -n production"), ".status.observedGeneration", &observed);
    assert_eq!(document.standing(), before, "a paused Deployment does not roll");
    rollout("resume");
    document.rolled_out();
    document.assert_declared("v2", 3);

    let before = document.standing();
    rollout("restart");
    document.rolled_out();
    document.assert_declared("v2", 3);
    assert!(document.standing().keys().all(|uid| !before.contains_key(uid)), "a restart replaces every pod");

    kubectl.run(&format!("rollout undo deployment/{NAME} -n production --to-revision=2"));
    document.rolled_out();
    document.assert_declared("v1", 3);
    kubectl.run(&format!("scale deployment/{NAME} -n production --replicas=1"));
    kubectl.wait_for(&format!("deployment/{NAME} -n production"), ".status.replicas", "1");
    document.assert_declared("v1", 1);

    let described = kubectl.run(&format!("describe deployment {NAME} -n production"));
    assert!(described.contains("1 desired | 1 updated | 1 total | 1 available | 0 unavailable"), "{described}");
    kubectl.run(&format!("delete deployment {NAME} -n production --cascade=foreground"));
    assert_eq!(kubectl.run("get pods,replicasets -n production -o name"), "", "what a Deployment owns goes with it");
    machine.down();
}

#[test]
fn a_watch_shows_a_pod_come_and_go() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let watch = std::thread::scope(|scope| {
        let watching = scope.spawn(|| kubectl.attempt("get pods -w --request-timeout=25s"));
        kubectl.apply(POD);
        kubectl.run("wait pod/plain --for=condition=Ready --timeout=60s");
        kubectl.run("delete pod plain --grace-period=1");
        watching.join().expect("the watch ends by itself")
    });
    let order = ["Pending", "ContainerCreating", "0/1     Running", "1/1     Running", "Terminating"];
    let places: Vec<_> = order.iter().map(|state| watch.stdout.find(state)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{order:?} in this order:\n{}", watch.stdout);
    machine.down();
}

#[test]
fn a_manifest_that_is_wrong_gets_the_field_and_changes_nothing() {
    let machine = Machine::with_engine();
    for release in [Release::New, Release::Old] {
        let kubectl = machine.kubectl_of(release);
        let cases = [
            (
                "terminationGracePeriodSeconds: 5",
                "terminationGracePeriodSecond: 5",
                "unknown field \"spec.terminationGracePeriodSecond\"",
            ),
            ("name: app\n", "nane: app\n", "unknown field \"spec.containers[0].nane\""),
            (
                "path: /ready, port: 8080",
                "path: /ready, port: 80800",
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 80800",
            ),
            ("{name: plain,", "{name: Plain,", "metadata.name: Invalid value: \"Plain\""),
        ];
        for (right, wrong, sentence) in cases {
            let said = kubectl.attempt_apply(&POD.replace(right, wrong));
            assert!(
                !said.success && said.stderr.contains(sentence),
                "{sentence:?} is missing:\n{}{}",
                said.stdout,
                said.stderr
            );
        }
        assert_eq!(kubectl.run("get pods -o name"), "", "what was refused is not there");
        for (group, kind) in [("apps/v1", "StatefulSet"), ("batch/v1", "CronJob")] {
            let said =
                kubectl.attempt_apply(&format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: plain}}\n"));
            let sentence = format!("no matches for kind \"{kind}\" in version \"{group}\"");
            assert!(!said.success && said.stderr.contains(&sentence), "{sentence:?} is missing:\n{}", said.stderr);
        }
    }
    machine.down();
}
