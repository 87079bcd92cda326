use super::*;
use serde_json::json;

fn cells(pod: Value) -> String {
    let summary = summary(&pod);
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    format!("{}/{} {} {}", summary.ready, summary.total, summary.status, summary.restarts_cell(now))
}

fn pod(phase: &str, containers: Value) -> Value {
    let count = containers.as_array().unwrap().len();
    let spec: Vec<_> = (0..count.max(1)).map(|index| json!({"name": format!("c{index}")})).collect();
    json!({"metadata": {}, "spec": {"containers": spec}, "status": {"phase": phase, "containerStatuses": containers}})
}

fn running() -> Value {
    json!({"ready": true, "state": {"running": {}}})
}

#[test]
fn status_is_what_the_containers_say() {
    let waiting = |reason: &str| json!({"ready": false, "state": {"waiting": {"reason": reason}}});
    let ended = |state: Value| json!({"ready": false, "state": {"terminated": state}});
    let table = [
        (pod("Pending", json!([])), "0/1 Pending 0"),
        (pod("Pending", json!([waiting("ContainerCreating")])), "0/1 ContainerCreating 0"),
        (pod("Running", json!([running()])), "1/1 Running 0"),
        (pod("Running", json!([{"ready": false, "state": {"running": {}}}])), "0/1 Running 0"),
        (pod("Pending", json!([waiting("ErrImagePull")])), "0/1 ErrImagePull 0"),
        (pod("Pending", json!([waiting("ImagePullBackOff"), running()])), "1/2 ImagePullBackOff 0"),
        (pod("Succeeded", json!([ended(json!({"exitCode": 0, "reason": "Completed"}))])), "0/1 Completed 0"),
        (pod("Failed", json!([ended(json!({"exitCode": 1, "reason": "Error"}))])), "0/1 Error 0"),
        (pod("Failed", json!([ended(json!({"exitCode": 137, "reason": "OOMKilled"}))])), "0/1 OOMKilled 0"),
        (pod("Failed", json!([ended(json!({"exitCode": 3}))])), "0/1 ExitCode:3 0"),
        (pod("Failed", json!([ended(json!({"exitCode": 137, "signal": 9}))])), "0/1 Signal:9 0"),
        (pod("Running", json!([ended(json!({"exitCode": 0, "reason": "Completed"})), running()])), "1/2 NotReady 0"),
    ];
    for (pod, expected) in table {
        assert_eq!(cells(pod.clone()), expected, "{pod}");
    }
}

#[test]
fn restarts_say_when_the_last_one_was() {
    let mut container = json!({
        "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:55Z"}},
    });
    assert_eq!(cells(pod("Running", json!([container]))), "0/1 CrashLoopBackOff 3 (5s ago)");
    container["lastState"] = json!({});
    assert_eq!(cells(pod("Running", json!([container]))), "0/1 CrashLoopBackOff 3");
}

#[test]
fn a_reason_of_the_pod_itself_comes_first_and_deletion_last() {
    let mut evicted = pod("Failed", json!([]));
    evicted["status"]["reason"] = json!("Evicted");
    assert_eq!(cells(evicted), "0/1 Evicted 0");
    let mut deleted = pod("Running", json!([running()]));
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cells(deleted), "1/1 Terminating 0");
    let mut finished = pod("Succeeded", json!([{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]));
    finished["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cells(finished), "0/1 Completed 0");
}

fn with_init(init: Value, statuses: Value) -> Value {
    let mut pod = pod("Pending", json!([{"ready": false, "state": {"waiting": {"reason": "PodInitializing"}}}]));
    pod["spec"]["initContainers"] = init;
    pod["status"]["initContainerStatuses"] = statuses;
    pod
}

#[test]
fn init_containers_come_before_the_others() {
    let two = json!([{"name": "i"}, {"name": "j"}]);
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    let table = [
        (json!([{"name": "i", "state": {"running": {}}}]), "0/1 Init:0/2 0"),
        (json!([done, {"name": "j", "state": {"running": {}}}]), "0/1 Init:1/2 0"),
        (json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]), "0/1 Init:1/2 0"),
        (json!([{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]), "0/1 Init:ImagePullBackOff 0"),
        (json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]), "0/1 Init:Error 0"),
        (json!([{"name": "i", "state": {"terminated": {"exitCode": 4}}}]), "0/1 Init:ExitCode:4 0"),
        (
            json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
            "0/1 Init:CrashLoopBackOff 2",
        ),
        (json!([done, {"name": "j", "state": {"terminated": {"exitCode": 0}}}]), "0/1 PodInitializing 0"),
    ];
    for (statuses, expected) in table {
        assert_eq!(cells(with_init(two.clone(), statuses.clone())), expected, "{statuses}");
    }
}

#[test]
fn init_containers_that_keep_running_count_as_containers() {
    let sidecar = json!([{"name": "s", "restartPolicy": "Always"}]);
    let started = json!([{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}]);
    assert_eq!(cells(with_init(sidecar, started)), "1/2 PodInitializing 1");
}
