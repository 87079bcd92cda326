//! What a container is given beyond the usual, and what it shares with its pod and its machine.

use std::fs;

use end_to_end::images::{APP, SHELL};
use end_to_end::machine::Machine;
use end_to_end::run::output_of;

use crate::containers::{default_capabilities, said_by};

#[test]
fn a_security_context_says_what_a_container_may_do() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let profiles = machine.data_dir().join("seccomp");
    fs::create_dir_all(&profiles).expect("the machine's own directory");
    let no_mkdir = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(profiles.join("no-mkdir.json"), no_mkdir).expect("the machine's own directory");
    let script = "grep -E 'NoNewPrivs|Seccomp:|CapBnd' /proc/self/status; mkdir /new; echo made $?; hostname other; echo named $?; ls /dev | wc -l";
    let said = |name: &str, context: &str| {
        let container = format!("    securityContext: {context}\n");
        said_by(&kubectl, name, script, &container, "")
    };
    let table = [
        ("refused", "{allowPrivilegeEscalation: false}", vec!["NoNewPrivs:\t1", "Seccomp:\t2", "made 0", "named 1"]),
        (
            "unconfined",
            "{seccompProfile: {type: Unconfined}}",
            vec!["NoNewPrivs:\t0", "Seccomp:\t0", default_capabilities()],
        ),
        (
            "profile",
            "{seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}}",
            vec!["Seccomp:\t2", default_capabilities(), "No space left on device", "made 1"],
        ),
        ("privileged", "{privileged: true}", vec!["Seccomp:\t0", "CapBnd:\t000001ff", "named 0"]),
    ];
    for (name, context, lines) in table {
        let said = said(name, context);
        for line in lines {
            assert!(said.contains(line), "{line:?} is missing of {name} in\n{said}");
        }
    }
    machine.down();
}

#[test]
fn a_program_gains_privileges_only_where_that_is_allowed() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let becomes = |name: &str, allowed: bool| {
        let prepare = format!(
            "  initContainers:\n  - name: prepare\n    image: {SHELL}\n    args: [\"-c\", \"cp /bin/busybox /shared && chmod 4755 /shared/busybox\"]\n    \
             securityContext: {{runAsUser: 0}}\n    volumeMounts: [{{name: shared, mountPath: /shared}}]\n  volumes: [{{name: shared, emptyDir: {{}}}}]\n"
        );
        let container = format!(
            "    securityContext: {{runAsUser: 1000, allowPrivilegeEscalation: {allowed}}}\n    volumeMounts: [{{name: shared, mountPath: /shared}}]\n"
        );
        said_by(&kubectl, name, "/shared/busybox su -c id nobody; true", &container, &prepare)
    };
    let not_root = "su: must be suid to work properly\n";
    assert_eq!(becomes("stays", false), not_root);
    assert_ne!(becomes("gains", true), not_root);
    machine.down();
}

#[test]
fn containers_see_each_others_processes_where_the_pod_shares_them() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: shared}}\nspec:\n  shareProcessNamespace: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: one, image: {SHELL}, args: [-c, 'sleep 1111 & wait']}}\n  - {{name: other, image: {SHELL}, args: [-c, 'sleep 2222']}}\n"
    ));
    kubectl.wait_for("pod/shared", ".status.phase", "Running");
    let processes = kubectl.run("exec shared -c one -- busybox ps");
    for process in ["shim pause", "sleep 1111", "sleep 2222"] {
        assert!(processes.contains(process), "{process:?} is missing in\n{processes}");
    }
    // What a container leaves behind ends with it, although its first process was not the namespace's.
    let first =
        processes.lines().find(|line| line.contains("/bin/sh -c sleep 1111")).expect("the first process of one");
    let pid = first.split_whitespace().next().expect("a process has a number");
    kubectl.run(&format!("exec shared -c other -- busybox kill -9 {pid}"));
    kubectl.wait_for("pod/shared", ".status.containerStatuses[?(@.name==\"one\")].restartCount", "1");
    kubectl.wait_for("pod/shared", ".status.containerStatuses[?(@.name==\"one\")].ready", "true");
    let processes = kubectl.run("exec shared -c other -- busybox ps");
    assert_eq!(processes.matches("sleep 1111").count(), 2, "{processes}");
    kubectl.run("delete pod shared");
    machine.down();
}

#[test]
fn a_pod_may_see_the_machines_processes_and_share_its_ipc() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let script = "busybox readlink /proc/self/ns/ipc; busybox ps";
    let own = said_by(&kubectl, "own", script, "", "");
    let shares = said_by(&kubectl, "shares", script, "", "  hostPID: true\n  hostIPC: true\n");
    let ipc = fs::read_link(machine.namespace().proc("ns/ipc")).expect("the first process lives");
    let ipc = ipc.to_str().expect("a name");
    assert!(shares.starts_with(ipc) && !own.starts_with(ipc), "{ipc} is shared by neither or both:\n{shares}{own}");
    assert!(shares.contains("segue proxy") && !own.contains("segue proxy"), "{shares}{own}");
    machine.down();
}

#[test]
fn a_pod_names_hosts_and_nameservers_of_its_own() {
    let machine = Machine::with_engine();
    let spec = "  hostAliases: [{ip: 192.0.2.7, hostnames: [printer, printer.office]}]\n  dnsPolicy: None\n  \
                dnsConfig: {nameservers: [192.0.2.53], searches: [office.example], options: [{name: ndots, value: '2'}]}\n  hostname: named\n";
    let said = said_by(&machine.kubectl(), "named", "cat /etc/hosts /etc/resolv.conf; busybox hostname", "", spec);
    for line in [
        "192.0.2.7\tprinter\tprinter.office",
        "nameserver 192.0.2.53",
        "search office.example",
        "options ndots:2",
        "\nnamed\n",
    ] {
        assert!(said.contains(line), "{line:?} is missing in\n{said}");
    }
    machine.down();
}

#[test]
fn a_pod_may_be_in_the_machines_own_network() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: host, labels: {{app: host}}}}\nspec: {{hostNetwork: true, containers: [{{name: app, image: '{APP}:v1', \
         ports: [{{containerPort: 8080}}], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: host}}\nspec: {{selector: {{app: host}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    ));
    kubectl.wait_for("pod/host", ".status.conditions[?(@.type==\"Ready\")].status", "True");
    let status = kubectl.json("get pod host")["status"].clone();
    assert_eq!(status["podIP"], status["hostIP"], "{status}");
    let service = kubectl.json("get service host")["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    for address in [service, "127.0.0.1:8080".to_owned()] {
        let mut curl = machine.namespace().command("curl");
        let said = output_of(curl.args(["--silent", "--fail", "--max-time", "5", &format!("http://{address}/")]));
        assert!(said.contains("v1"), "{address}: {said}");
    }
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: second}}\nspec: {{hostNetwork: true, containers: [{{name: app, image: '{APP}:v1', ports: [{{containerPort: 8080}}]}}]}}\n"
    ));
    kubectl.wait_for("pod/second", ".status.conditions[?(@.type==\"PodScheduled\")].reason", "Unschedulable");
    // An engine that comes later takes it over as it is.
    machine.kill_engine();
    machine.up();
    kubectl.wait_for("pod/host", ".status.conditions[?(@.type==\"Ready\")].status", "True");
    assert_eq!(kubectl.json("get pod host")["status"]["containerStatuses"][0]["restartCount"], 0);
    machine.down();
}

#[test]
fn a_port_of_the_machine_may_lead_to_a_pod() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let pod = |name: &str| {
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: app, image: '{APP}:v1', \
             ports: [{{containerPort: 8080, hostPort: 8088}}], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}\n"
        ));
    };
    pod("first");
    kubectl.wait_for("pod/first", ".status.conditions[?(@.type==\"Ready\")].status", "True");
    let host = kubectl.json("get pod first")["status"]["hostIP"].as_str().expect("an address").to_owned();
    let ask = |address: &str| {
        let mut curl = machine.namespace().command("curl");
        output_of(curl.args([
            "--silent",
            "--fail",
            "--retry",
            "20",
            "--retry-connrefused",
            "--retry-delay",
            "1",
            &format!("http://{address}:8088/"),
        ]))
    };
    for address in [host.as_str(), "127.0.0.1"] {
        assert!(ask(address).contains("v1"), "{address}");
    }
    pod("second");
    kubectl.wait_for("pod/second", ".status.conditions[?(@.type==\"PodScheduled\")].reason", "Unschedulable");
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports";
    assert!(kubectl.run("events --for pod/second").contains(message), "{}", kubectl.run("events --for pod/second"));
    kubectl.run("delete pod first");
    kubectl.wait_for("pod/second", ".status.conditions[?(@.type==\"Ready\")].status", "True");
    assert!(ask(&host).contains("v1"));
    machine.down();
}
