//! Every state that a user meets is caused for real, and shown as Kubernetes shows it.

use end_to_end::images::{APP, SHELL};
use end_to_end::kubectl::Kubectl;
use end_to_end::machine::Machine;
use serde_json::Value;

fn apply_pod(kubectl: &Kubectl<'_>, name: &str, image: &str, container: &str, spec: &str) {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: app, image: '{image}'{container}}}]{spec}}}\n"
    ));
}

fn container_status(kubectl: &Kubectl<'_>, pod: &str) -> Value {
    kubectl.json(&format!("get pod {pod}"))["status"]["containerStatuses"][0].clone()
}

fn events_of(kubectl: &Kubectl<'_>, pod: &str) -> String {
    kubectl.run(&format!("events --for pod/{pod}"))
}

const WAITING: &str = ".status.containerStatuses[0].state.waiting.reason";

#[test]
fn an_app_that_crashes_is_in_crash_loop_back_off_and_its_last_words_are_kept() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    apply_pod(&kubectl, "crasher", &format!("{APP}:crashes"), "", "");
    kubectl.wait_for("pod/crasher", WAITING, "CrashLoopBackOff");
    let status = container_status(&kubectl, "crasher");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1, "{status}");
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error", "{status}");
    assert!(kubectl.run("get pods").contains("0/1     CrashLoopBackOff"), "{}", kubectl.run("get pods"));
    assert!(kubectl.run("logs crasher --previous").contains("this version crashes"));
    assert!(events_of(&kubectl, "crasher").contains("Back-off restarting failed container app in pod crasher"));
    machine.down();
}

#[test]
fn what_a_container_said_last_is_in_its_status() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let pod = |name: &str, script: &str, more: &str| {
        let container = format!(", args: [-c, '{script}']{more}");
        apply_pod(&kubectl, name, SHELL, &container, ", restartPolicy: Never, securityContext: {runAsUser: 1000}");
        kubectl.wait_for(&format!("pod/{name}"), ".status.phase", "Failed");
        container_status(&kubectl, name)["state"]["terminated"].clone()
    };
    let written = pod("writes", "echo out of paint > /dev/termination-log; exit 3", "");
    assert_eq!((&written["message"], &written["exitCode"]), (&"out of paint\n".into(), &3.into()), "{written}");
    let elsewhere = pod("elsewhere", "echo -n gone > /last; exit 3", ", terminationMessagePath: /last");
    assert_eq!(elsewhere["message"], "gone", "{elsewhere}");
    let falls_back = ", terminationMessagePolicy: FallbackToLogsOnError";
    let logged = pod("logs", "echo one; echo two; exit 3", falls_back);
    assert_eq!(logged["message"], "one\ntwo\n", "{logged}");
    machine.down();
}

#[test]
fn a_pod_that_takes_too_much_of_the_disk_is_evicted_after_it_was_drained() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let volume = ", volumes: [{name: scratch, emptyDir: {sizeLimit: 1Mi}}], terminationGracePeriodSeconds: 1";
    let writes = ", args: [-c, 'sleep 2; dd if=/dev/zero of=/scratch/big bs=1M count=3; sleep 600'], volumeMounts: [{name: scratch, mountPath: /scratch}]";
    apply_pod(&kubectl, "greedy", SHELL, writes, volume);
    kubectl.wait_for("pod/greedy", ".status.phase", "Failed");
    let status = kubectl.json("get pod greedy")["status"].clone();
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ";
    assert_eq!((&status["reason"], &status["message"]), (&"Evicted".into(), &message.into()), "{status}");
    let conditions = status["conditions"].as_array().expect("conditions");
    let reason_of = |type_: &str| conditions.iter().find(|it| it["type"] == type_).map(|it| it["reason"].clone());
    assert_eq!(reason_of("DisruptionTarget"), Some("TerminationByKubelet".into()), "{status}");
    assert_eq!(reason_of("segue.dev/Drained"), Some("NotRouted".into()), "{status}");
    assert!(events_of(&kubectl, "greedy").contains("Evicted"), "{}", events_of(&kubectl, "greedy"));
    machine.down();
}

#[test]
fn a_pod_sets_the_kernel_for_itself_and_for_nobody_else() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let sysctl =
        |name: &str| format!(", restartPolicy: Never, securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}}");
    let prints = ", args: [-c, 'cat /proc/sys/net/ipv4/tcp_fin_timeout']";
    apply_pod(&kubectl, "safe", SHELL, prints, &sysctl("net.ipv4.tcp_fin_timeout"));
    kubectl.wait_for("pod/safe", ".status.phase", "Succeeded");
    assert_eq!(kubectl.run("logs safe"), "1\n");
    apply_pod(&kubectl, "unsafe", SHELL, prints, &sysctl("kernel.msgmax"));
    kubectl.wait_for("pod/unsafe", ".status.phase", "Failed");
    let status = kubectl.json("get pod unsafe")["status"].clone();
    assert_eq!(status["reason"], "SysctlForbidden", "{status}");
    assert_eq!(status["message"], "forbidden sysctl: \"kernel.msgmax\" not allowlisted", "{status}");
    machine.down();
}

#[test]
fn an_image_without_its_tag_or_its_host_is_in_image_pull_back_off() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let images = [
        ("no-tag", "registry.example.com/tailscale-mesh-zero-downtime-deployment:no-such-tag"),
        ("no-host", "no-such-host.invalid/app:v1"),
    ];
    for (pod, image) in images {
        apply_pod(&kubectl, pod, image, "", "");
    }
    for (pod, image) in images {
        kubectl.wait_for(&format!("pod/{pod}"), WAITING, "ImagePullBackOff");
        let events = events_of(&kubectl, pod);
        for sentence in [
            format!("Failed to pull image \"{image}\""),
            "Error: ErrImagePull".to_owned(),
            format!("Back-off pulling image \"{image}\""),
        ] {
            assert!(events.contains(&sentence), "{sentence:?} is missing in\n{events}");
        }
    }
    machine.down();
}

#[test]
fn an_app_over_its_memory_limit_is_oom_killed_with_137() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let hog = ", env: [{name: MEMORY_HOG, value: '256'}], resources: {limits: {memory: 64Mi}}";
    apply_pod(&kubectl, "hog", &format!("{APP}:v1"), hog, ", restartPolicy: Never");
    kubectl.wait_for("pod/hog", ".status.phase", "Failed");
    let status = container_status(&kubectl, "hog");
    assert_eq!(status["state"]["terminated"]["reason"], "OOMKilled", "{status}");
    assert_eq!(status["state"]["terminated"]["exitCode"], 137, "{status}");
    assert!(kubectl.run("get pods").contains("OOMKilled"), "{}", kubectl.run("get pods"));
    machine.down();
}

#[test]
fn an_app_that_gets_sick_is_restarted_by_its_liveness_probe() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let probe = ", livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 2}";
    apply_pod(&kubectl, "sick", &format!("{APP}:gets-sick"), probe, "");
    kubectl.wait_for("pod/sick", ".status.containerStatuses[0].restartCount", "1");
    let events = events_of(&kubectl, "sick");
    assert!(events.contains("Liveness probe failed: HTTP probe failed with statuscode: 503"), "{events}");
    assert!(events.contains("Container app failed liveness probe, will be restarted"), "{events}");
    machine.down();
}

#[test]
fn a_probe_over_grpc_is_answered_by_the_health_protocol() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let late = ", env: [{name: READY_AFTER_MS, value: '3000'}], readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}";
    apply_pod(&kubectl, "late", &format!("{APP}:v1"), late, "");
    kubectl.run("wait pod/late --for=condition=Ready --timeout=60s");
    let events = events_of(&kubectl, "late");
    assert!(events.contains("Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")"), "{events}");
    let deaf = ", livenessProbe: {grpc: {port: 8081}, periodSeconds: 1, failureThreshold: 1}";
    apply_pod(&kubectl, "deaf", &format!("{APP}:v1"), deaf, "");
    kubectl.wait_for("pod/deaf", ".status.containerStatuses[0].restartCount", "1");
    assert!(events_of(&kubectl, "deaf").contains("failed to connect service"), "{}", events_of(&kubectl, "deaf"));
    machine.down();
}

#[test]
fn hooks_run_after_the_start_and_before_the_stop_and_their_failures_are_told() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    let hooks = ", command: [sleep, '1000'], lifecycle: {postStart: {exec: {command: [sh, -c, 'sleep 3; echo hook >/hooked']}}, \
                 preStop: {exec: {command: [sh, -c, 'exit 5']}}}";
    apply_pod(&kubectl, "hooked", SHELL, hooks, ", terminationGracePeriodSeconds: 1");
    kubectl.wait_for("pod/hooked", WAITING, "ContainerCreating");
    kubectl.run("wait pod/hooked --for=condition=Ready --timeout=60s");
    assert_eq!(kubectl.run("exec hooked -- cat /hooked"), "hook\n");
    kubectl.run("delete pod hooked");
    let events = kubectl.run("get events --field-selector=involvedObject.name=hooked");
    assert!(events.contains("FailedPreStopHook") && events.contains("exited with 5"), "{events}");

    let failing = ", command: [sleep, '1000'], lifecycle: {postStart: {exec: {command: [sh, -c, 'echo no; exit 4']}}}";
    apply_pod(&kubectl, "failing", SHELL, failing, ", terminationGracePeriodSeconds: 1");
    kubectl.wait_for("pod/failing", ".status.containerStatuses[0].restartCount", "1");
    let events = events_of(&kubectl, "failing");
    assert!(events.contains("FailedPostStartHook") && events.contains("exited with 4: no"), "{events}");
    machine.down();
}

#[test]
fn a_pod_that_does_not_fit_is_pending_and_says_why() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    apply_pod(&kubectl, "giant", &format!("{APP}:v1"), ", resources: {requests: {cpu: '1000'}}", "");
    kubectl.wait_for("pod/giant", ".status.conditions[?(@.type==\"PodScheduled\")].reason", "Unschedulable");
    assert_eq!(kubectl.run("get pod giant -o jsonpath={.status.phase}"), "Pending");
    let events = events_of(&kubectl, "giant");
    assert!(events.contains("FailedScheduling") && events.contains("Insufficient cpu"), "{events}");
    machine.down();
}

#[test]
fn an_app_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    apply_pod(&kubectl, "stubborn", &format!("{APP}:ignores-sigterm"), "", ", terminationGracePeriodSeconds: 2");
    kubectl.run("wait pod/stubborn --for=condition=Ready --timeout=60s");
    let started = std::time::Instant::now();
    kubectl.run("delete pod stubborn");
    let took = started.elapsed().as_secs_f64();
    assert!((2.0..8.0).contains(&took), "a grace period of 2 s, not {took:.1} s");
    machine.down();
}
