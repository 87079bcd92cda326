use super::*;

#[track_caller]
fn check(kind: &str, object: Value, expected: Value) {
    let kind = all().iter().find(|found| found.kind == kind).unwrap();
    let now = "2026-01-01T00:01:40Z".parse().unwrap();
    assert_eq!(Value::from((kind.row)(&object, now)), expected, "{object}");
}

fn meta() -> Value {
    json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"})
}

#[test]
fn workloads_show_their_pods() {
    let mut object = deployment(json!({"replicas": 3}));
    object["metadata"] = meta();
    object["status"] = json!({"replicas": 4, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2});
    check("Deployment", object.clone(), json!(["x", "2/3", 1, 2, "100s", "c", "app", "app=web"]));
    check("ReplicaSet", object, json!(["x", 3, 4, 2, "100s", "c", "app", "app=web"]));
}

#[test]
fn pods_show_address_and_node() {
    let object = json!({
        "metadata": meta(),
        "spec": {"nodeName": "here", "containers": [{"name": "c"}], "readinessGates": [{"conditionType": "x/gate"}]},
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.44.0.7"}],
            "containerStatuses": [{"ready": true, "restartCount": 0, "state": {"running": {}}}],
        },
    });
    check("Pod", object, json!(["x", "1/1", "Running", "0", "100s", "10.44.0.7", "here", "<none>", "0/1"]));
}

#[test]
fn services_show_addresses_and_ports() {
    let spec = |spec: Value| json!({"metadata": meta(), "spec": spec});
    check(
        "Service",
        spec(json!({"type": "NodePort", "clusterIP": "10.45.0.1", "selector": {"b": "2", "a": "1"}, "ports": [
            {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
        ]})),
        json!(["x", "NodePort", "10.45.0.1", "<none>", "80:30080/TCP,53/UDP", "100s", "a=1,b=2"]),
    );
    check(
        "Service",
        spec(json!({"type": "LoadBalancer", "clusterIP": "10.45.0.1", "ports": []})),
        json!(["x", "LoadBalancer", "10.45.0.1", "<pending>", "<none>", "100s", "<none>"]),
    );
    check(
        "Service",
        spec(json!({"type": "ExternalName", "externalName": "example.test"})),
        json!(["x", "ExternalName", "<none>", "example.test", "<none>", "100s", "<none>"]),
    );
}

#[test]
fn nodes_show_their_state_and_what_they_run() {
    let object = json!({
        "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "segue://1"},
        },
    });
    check(
        "Node",
        object,
        json!([
            "x",
            "Ready,SchedulingDisabled",
            "control-plane",
            "100s",
            "v1",
            "192.0.2.1",
            "<none>",
            "Debian",
            "6.1",
            "segue://1"
        ]),
    );
}

#[test]
fn events_show_when_and_to_whom() {
    let object = json!({
        "metadata": meta(), "type": "Warning", "reason": "BackOff", "message": " Back-off restarting \n", "count": 4,
        "firstTimestamp": "2026-01-01T00:00:40Z", "lastTimestamp": "2026-01-01T00:01:30Z",
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        "source": {"component": "kubelet", "host": "here"},
    });
    check(
        "Event",
        object,
        json!([
            "10s",
            "Warning",
            "BackOff",
            "pod/p",
            "spec.containers{c}",
            "kubelet, here",
            "Back-off restarting",
            "60s",
            4,
            "x"
        ]),
    );
    let series = json!({
        "metadata": meta(), "eventTime": "2026-01-01T00:00:40.000000Z", "reportingComponent": "me", "reportingInstance": "one",
        "series": {"count": 7, "lastObservedTime": "2026-01-01T00:01:35.000000Z"}, "involvedObject": {"kind": "Node"},
    });
    check("Event", series, json!(["5s", "", "", "node", "", "me, one", "", "60s", 7, "x"]));
}

#[test]
fn scalers_show_what_is_measured_and_wanted() {
    let mut object = json!({
        "metadata": meta(),
        "spec": {"minReplicas": 3, "maxReplicas": 20, "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
        ]},
        "status": {"currentReplicas": 3},
    });
    let kind = "HorizontalPodAutoscaler";
    check(kind, object.clone(), json!(["x", "Deployment/web", "cpu: <unknown>/70%", "3", 20, 3, "100s"]));
    object["status"]["currentMetrics"] =
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}]);
    check(kind, object, json!(["x", "Deployment/web", "cpu: 12%/70%", "3", 20, 3, "100s"]));
}

#[test]
fn endpoint_slices_show_some_addresses() {
    let endpoint = |last: u8| json!({"addresses": [format!("10.44.0.{last}")]});
    let object = json!({
        "metadata": meta(), "addressType": "IPv4", "ports": [{"port": 80}, {"name": "any"}],
        "endpoints": [endpoint(1), endpoint(2), endpoint(3), endpoint(4)],
    });
    check("EndpointSlice", object, json!(["x", "IPv4", "80,any", "10.44.0.1,10.44.0.2,10.44.0.3 + 1 more...", "100s"]));
    let empty = json!({"metadata": meta(), "addressType": "IPv4", "ports": null, "endpoints": null});
    check("EndpointSlice", empty, json!(["x", "IPv4", "<unset>", "<unset>", "100s"]));
}

#[test]
fn policies_show_whom_they_are_about() {
    let object = |selector: Value| json!({"metadata": meta(), "spec": {"podSelector": selector}});
    check("NetworkPolicy", object(json!({})), json!(["x", "<none>", "100s"]));
    let selector =
        json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "canary", "operator": "DoesNotExist"}]});
    check("NetworkPolicy", object(selector), json!(["x", "app=web,!canary", "100s"]));
}

#[test]
fn bindings_show_whom_they_are_about() {
    let object = json!({
        "metadata": meta(), "roleRef": {"kind": "Role", "name": "reader"},
        "subjects": [
            {"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"}, {"kind": "Group", "name": "dev"},
            {"kind": "ServiceAccount", "name": "robot", "namespace": "n"},
        ],
    });
    check("RoleBinding", object, json!(["x", "Role/reader", "100s", "ann, bob", "dev", "n/robot"]));
    check("Role", json!({"metadata": meta()}), json!(["x", "2026-01-01T00:00:00Z"]));
}
