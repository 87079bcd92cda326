//! What a container finds: its configuration, its volumes, and the limits of what it may do.

use std::path::Path;

use end_to_end::images::SHELL;
use end_to_end::kubectl::Kubectl;
use end_to_end::machine::Machine;

/// What a shell says in a pod with this `container` and `spec`.
pub(super) fn said_by(kubectl: &Kubectl<'_>, name: &str, script: &str, container: &str, spec: &str) -> String {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{spec}  containers:\n  - name: shell\n    \
         image: {SHELL}\n    args: [\"-c\", \"{script}\"]\n{container}"
    ));
    kubectl.wait_for(&format!("pod/{name}"), ".status.phase", "Succeeded");
    kubectl.run(&format!("logs {name}"))
}

/// With version 2 of cgroups nothing restricts devices, so that MKNOD is not among them.
pub(super) fn default_capabilities() -> &'static str {
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if is_v2 { "CapBnd:\t00000000a00425fb" } else { "CapBnd:\t00000000a80425fb" }
}

#[test]
fn configuration_reaches_a_container_as_environment_and_as_files() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.run("create configmap settings --from-literal=colour=green --from-literal=motto=onwards");
    kubectl.run("create secret generic keys --from-literal=token=hunter2");
    let container = "    env:\n    - {name: PLAIN, value: as-it-is}\n    \
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}\n    \
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}\n    \
        envFrom: [{configMapRef: {name: settings}}]\n    \
        volumeMounts: [{name: settings, mountPath: /etc/settings}, {name: keys, mountPath: /etc/keys}, {name: scratch, mountPath: /scratch}]\n";
    let spec = "  volumes:\n  - {name: settings, configMap: {name: settings}}\n  - {name: keys, secret: {secretName: keys}}\n  - {name: scratch, emptyDir: {}}\n";
    let script = "echo $PLAIN $COLOUR $TOKEN $motto; cat /etc/settings/motto /etc/keys/token; touch /scratch/mark && ls /scratch";
    assert_eq!(
        said_by(&kubectl, "configured", script, container, spec),
        "as-it-is green hunter2 onwards\nonwardshunter2mark\n"
    );
    machine.down();
}

#[test]
fn a_container_may_do_no_more_than_the_default_capabilities_and_seccomp_allow() {
    let machine = Machine::with_engine();
    let script = "cat /proc/self/status; echo x > /proc/sys/kernel/hostname; ls /dev; true";
    let said = said_by(&machine.kubectl(), "confined", script, "", "");
    for line in [default_capabilities(), "NoNewPrivs:\t0", "Seccomp:\t2"] {
        assert!(said.contains(line), "{line:?} is missing in\n{said}");
    }
    assert!(said.contains("/proc/sys/kernel/hostname: Read-only file system"), "{said}");
    assert!(!said.contains("vda") && !said.contains("mem\n") && said.contains("null"), "devices:\n{said}");
    machine.down();
}

#[test]
fn an_exec_probe_decides_readiness() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: probed}}\nspec:\n  containers:\n  - name: shell\n    image: {SHELL}\n    \
         args: [\"-c\", \"sleep 3; touch /tmp-ready; sleep 600\"]\n    \
         readinessProbe: {{exec: {{command: [cat, /tmp-ready]}}, periodSeconds: 1}}\n  terminationGracePeriodSeconds: 1\n"
    ));
    kubectl.wait_for("pod/probed", ".status.phase", "Running");
    assert_eq!(kubectl.run("get pod probed -o jsonpath={.status.containerStatuses[0].ready}"), "false");
    kubectl.run("wait pod/probed --for=condition=Ready --timeout=60s");
    assert!(kubectl.run("events --for pod/probed").contains("Readiness probe failed"));
    machine.down();
}
