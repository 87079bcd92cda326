//! What a pod's volumes show, and to whom.

use end_to_end::images::SHELL;
use end_to_end::kubectl::Kubectl;
use end_to_end::machine::Machine;
use end_to_end::run::output_of;

use crate::containers::said_by;

#[test]
fn what_is_mounted_follows_its_configmap_its_secret_and_the_pods_labels() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let set = |colour: &str| {
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: {colour}}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: keys}}\nstringData: {{token: {colour}-token}}\n"
        ));
    };
    set("green");
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: watcher, labels: {{stage: green}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: shell\n    image: {SHELL}\n    args: [-c, 'sleep 600']\n    volumeMounts: [{{name: all, mountPath: /all}}, {{name: own, mountPath: /own}}]\n  volumes:\n  \
         - {{name: own, emptyDir: {{}}}}\n  \
         - name: all\n    projected:\n      sources:\n      - configMap: {{name: settings}}\n      - secret: {{name: keys}}\n      \
         - downwardAPI: {{items: [{{path: stage, fieldRef: {{fieldPath: \"metadata.labels['stage']\"}}}}]}}\n"
    ));
    kubectl.wait_for("pod/watcher", ".status.phase", "Running");
    let wait_until_it_reads = |expected: &str| {
        let shown = "$(cat /all/colour /all/token /all/stage)";
        let script = format!(
            "for i in $(seq 300); do [ \"{shown}\" = {expected} ] && exit 0; sleep 0.1; done; echo {shown}; exit 1"
        );
        output_of(kubectl.command().args(["exec", "watcher", "--", "sh", "-c", &script]));
    };
    wait_until_it_reads("greengreen-tokengreen");
    kubectl.run("exec watcher -- busybox chmod 0700 /own");
    set("blue");
    kubectl.run("label pod watcher --overwrite stage=blue");
    wait_until_it_reads("blueblue-tokenblue");
    // What changes while no engine runs is shown by the next one.
    machine.kill_engine();
    machine.up();
    set("red");
    kubectl.run("label pod watcher --overwrite stage=red");
    wait_until_it_reads("redred-tokenred");
    kubectl.run("delete configmap settings");
    wait_until_it_reads("redred-tokenred");
    assert_eq!(kubectl.json("get pod watcher")["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(
        kubectl.run("exec watcher -- busybox stat -c %a /own"),
        "700\n",
        "what a container writes to was touched"
    );
    machine.down();
}

#[test]
fn a_part_of_a_volume_can_be_mounted_and_no_link_leads_out_of_it() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let pod = |name: &str, prepare: &str, sub_path: &str, script: &str| {
        let spec = format!(
            "  initContainers:\n  - {{name: prepare, image: {SHELL}, args: [-c, '{prepare}'], volumeMounts: [{{name: v, mountPath: /v}}]}}\n  \
             volumes: [{{name: v, emptyDir: {{}}}}]\n"
        );
        let container = format!(
            "    env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n    \
             volumeMounts: [{{name: v, mountPath: /part, {sub_path}}}, {{name: v, mountPath: /whole}}]\n"
        );
        said_by(&kubectl, name, script, &container, &spec)
    };
    let written = "echo made > /part/file; cat /whole/deep/er/file";
    assert_eq!(pod("made", "true", "subPath: deep/er", written), "made\n");
    assert_eq!(
        pod("named", "true", "subPathExpr: $(POD)/x", "echo made > /part/file; cat /whole/named/x/file"),
        "made\n"
    );
    let single = pod("single", "echo one > /v/one", "subPath: one", "cat /part");
    assert_eq!(single, "one\n");
    // The link means the volume's own /etc, since the volume is all that it can see.
    assert_eq!(
        pod("linked", "ln -s /etc /v/out; mkdir /v/etc; touch /v/etc/mine", "subPath: out", "ls /part"),
        "mine\n"
    );
    machine.down();
}

fn with_group(kubectl: &Kubectl<'_>, name: &str, script: &str) -> String {
    let spec = "  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}\n  volumes: [{name: keys, secret: {secretName: keys, defaultMode: 0400}}, {name: scratch, emptyDir: {}}]\n";
    let container = "    volumeMounts: [{name: keys, mountPath: /keys}, {name: scratch, mountPath: /scratch}]\n";
    said_by(kubectl, name, script, container, spec)
}

#[test]
fn the_group_of_a_pod_owns_its_volumes() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create secret generic keys --from-literal=token=hunter2");
    let said = with_group(
        &kubectl,
        "grouped",
        "cat /keys/token; touch /scratch/x; stat -L -c %g:%a /scratch/x /scratch /keys/token",
    );
    assert_eq!(said, "hunter22000:644\n2000:2777\n2000:440\n");
    machine.down();
}
