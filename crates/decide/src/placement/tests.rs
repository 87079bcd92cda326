use super::*;
use serde_json::{Value, json};

fn node(more: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": "machine", "labels": {"disk": "ssd", "cores": "8"}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut value = json!({
        "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"},
        "spec": {"containers": []},
    });
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn asking(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn bound(name: &str, spec: Value) -> Pod {
    let mut pod = pod(name, spec);
    pod.spec.as_mut().unwrap().node_name = Some("machine".to_owned());
    pod
}

fn placed(nodes: &[Node], pods: &[Pod]) -> Vec<String> {
    next_steps(nodes, pods, Timestamp::UNIX_EPOCH).steps.iter().map(Step::to_string).collect()
}

#[test]
fn a_pod_fits_or_hears_why_in_kubernetes_words() {
    let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let soft = json!({"spec": {"taints": [{"key": "gpu", "effect": "PreferNoSchedule"}]}});
    let cordon = json!({"spec": {"unschedulable": true}});
    let tolerating = |toleration: Value| json!({"tolerations": [toleration]});
    let affinity = |operator: &str, key: &str, values: Value| {
        let requirement = json!({"key": key, "operator": operator, "values": values});
        let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [requirement]}]});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
    };
    let port = || json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let sidecars_port = |policy: &str| {
        let mut init = port()["containers"].clone();
        init[0]["restartPolicy"] = json!(policy);
        json!({"containers": [], "initContainers": init})
    };
    let nothing = || json!({});
    let no_labels = "node(s) didn't match Pod's node affinity/selector";
    let table = [
        (nothing(), nothing(), ""),
        (nothing(), asking("2", "4Gi"), "Insufficient cpu, Insufficient memory"),
        (nothing(), asking("1500m", "1Gi"), ""),
        (nothing(), asking("1501m", "1Gi"), "Insufficient cpu"),
        (nothing(), asking("1", "3585Mi"), "Insufficient memory"),
        (nothing(), json!({"nodeSelector": {"disk": "ssd"}}), ""),
        (nothing(), json!({"nodeSelector": {"disk": "hdd"}}), no_labels),
        (nothing(), affinity("In", "disk", json!(["ssd", "nvme"])), ""),
        (nothing(), affinity("NotIn", "disk", json!(["ssd"])), no_labels),
        (nothing(), affinity("Exists", "gpu", json!([])), no_labels),
        (nothing(), affinity("DoesNotExist", "gpu", json!([])), ""),
        (nothing(), affinity("Gt", "cores", json!(["4"])), ""),
        (nothing(), affinity("Lt", "cores", json!(["4"])), no_labels),
        (nothing(), port(), "node(s) didn't have free ports for the requested pod ports"),
        (nothing(), sidecars_port("Always"), "node(s) didn't have free ports for the requested pod ports"),
        (nothing(), sidecars_port("OnFailure"), ""),
        (taint.clone(), nothing(), "node(s) had untolerated taint {gpu: yes}"),
        (taint.clone(), tolerating(json!({"key": "gpu", "operator": "Exists"})), ""),
        (taint.clone(), tolerating(json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"})), ""),
        (taint.clone(), tolerating(json!({"key": "gpu", "value": "no"})), "node(s) had untolerated taint {gpu: yes}"),
        (taint, tolerating(json!({"operator": "Exists"})), ""),
        (soft, nothing(), ""),
        (cordon.clone(), nothing(), "node(s) were unschedulable"),
        (cordon, tolerating(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})), ""),
    ];
    for (node_more, spec, expected) in table {
        let mut taken = asking("500m", "512Mi");
        taken["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
        let on_node = bound("other", taken);
        let found = fits(&pod("p", spec.clone()), &node(node_more), &[&on_node]).err().unwrap_or_default();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.join(", "), expected, "{spec}");
    }
}

#[test]
fn the_sentence_is_kubernetes_own() {
    let selecting = pod("p", json!({"nodeSelector": {"no": "such"}}));
    assert_eq!(
        placed(&[node(json!({}))], &[selecting]),
        ["mark Pod p as unschedulable: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
          no new claims to deallocate, preemption: 0/1 nodes are available: \
          1 Preemption is not helpful for scheduling."]
    );
    assert_eq!(
        placed(&[node(json!({}))], &[pod("p", asking("9", "9Gi"))]),
        ["mark Pod p as unschedulable: 0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. \
          no new claims to deallocate, preemption: 0/1 nodes are available: \
          1 No preemption victims found for incoming pod."]
    );
    assert_eq!(
        placed(&[], &[pod("p", json!({}))]),
        ["mark Pod p as unschedulable: no nodes available to schedule pods"]
    );
}

#[test]
fn the_oldest_is_placed_first_and_takes_its_room() {
    let created = |name: &str, second: &str| {
        let mut pod = pod(name, asking("1500m", "1Gi"));
        let time = format!("2026-01-01T00:00:{second}Z").parse().unwrap();
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
        pod
    };
    let found = placed(&[node(json!({}))], &[created("young", "02"), created("old", "01")]);
    assert_eq!(found[0], "bind Pod old to Node machine");
    assert!(found[1].starts_with("mark Pod young as unschedulable: 0/1 nodes are available: 1 Insufficient cpu."));
}

#[test]
fn finished_pods_leave_their_room_and_terminating_ones_keep_it() {
    let whole = || asking("2", "1Gi");
    let mut finished = bound("finished", whole());
    finished.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    assert_eq!(placed(&[node(json!({}))], &[finished, pod("p", whole())]), ["bind Pod p to Node machine"]);

    let mut going = bound("going", whole());
    going.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
    let decision = next_steps(&[node(json!({}))], &[going, pod("p", whole())], Timestamp::UNIX_EPOCH);
    assert_eq!(decision.waiting_on.len(), 1);
}

#[test]
fn a_node_takes_so_many_pods() {
    let pods: Vec<_> =
        ["a", "b", "c"].map(|name| bound(name, json!({}))).into_iter().chain([pod("d", json!({}))]).collect();
    assert!(placed(&[node(json!({}))], &pods)[0].contains("1 Too many pods."));
}

#[test]
fn a_pod_that_says_so_already_is_not_marked_again() {
    let nodes = [node(json!({"spec": {"unschedulable": true}}))];
    let mut waiting = pod("p", json!({}));
    let steps = next_steps(&nodes, std::slice::from_ref(&waiting), Timestamp::UNIX_EPOCH).steps;
    let [Step::MarkUnschedulable { condition, .. }] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("False", Some("Unschedulable")));
    waiting.status.get_or_insert_default().conditions = Some(vec![condition.as_ref().clone()]);
    assert_eq!(next_steps(&nodes, &[waiting], Timestamp::UNIX_EPOCH).steps, []);
}

#[test]
fn pods_for_other_schedulers_and_gated_pods_are_left_alone() {
    let other = pod("other", json!({"schedulerName": "mine"}));
    let gated = pod("gated", json!({"schedulingGates": [{"name": "wait"}]}));
    assert_eq!(placed(&[node(json!({}))], &[other, gated]), Vec::<String>::new());
}
