use super::*;

#[track_caller]
fn check(body: Value, pointer: &str, expected: Value) {
    let object = created(body);
    assert_eq!(object.pointer(pointer), Some(&expected), "{pointer} of {object}");
}

#[test]
fn a_minimal_pod_is_completed() {
    check(
        pod(json!({"containers": [{"name": "c", "image": "app"}]})),
        "/spec",
        json!({
            "containers": [{
                "name": "c", "image": "app", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "enableServiceLinks": true, "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "securityContext": {}, "schedulerName": "default-scheduler",
            "serviceAccountName": "default", "serviceAccount": "default", "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority", "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            ],
        }),
    );
    let minimal = pod(json!({"containers": [{"name": "c", "image": "app"}]}));
    check(minimal, "/status", json!({"phase": "Pending", "qosClass": "BestEffort"}));
}

#[test]
fn parts_of_a_pod_are_completed() {
    let container = |fields: Value| {
        let mut container = json!({"name": "c", "image": "app:1"});
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        pod(json!({"containers": [container]}))
    };
    let probe = json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    let mut http_probe = probe.clone();
    http_probe["httpGet"] = json!({"port": 80, "path": "/", "scheme": "HTTP"});
    let mut grpc_probe = probe;
    grpc_probe["grpc"] = json!({"port": 9, "service": ""});
    let table = [
        (
            container(json!({"livenessProbe": {"httpGet": {"port": 80}}})),
            "/spec/containers/0/livenessProbe",
            http_probe,
        ),
        (container(json!({"livenessProbe": {"grpc": {"port": 9}}})), "/spec/containers/0/livenessProbe", grpc_probe),
        (
            container(json!({"ports": [{"containerPort": 80}]})),
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "protocol": "TCP"}]),
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": 0.1}}})),
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "1Gi"}}),
        ),
        (
            pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80}]}], "hostNetwork": true})),
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]),
        ),
        (
            pod(json!({"volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "x"}}]})),
            "/spec/volumes",
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "x", "defaultMode": 420}}]),
        ),
    ];
    for (body, pointer, expected) in table {
        check(body, pointer, expected);
    }
}

#[test]
fn a_deployment_gets_the_default_strategy() {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    check(deployment(json!({})), "/spec/strategy", rolling);
    check(deployment(json!({"strategy": {"type": "Recreate"}})), "/spec/strategy", json!({"type": "Recreate"}));
    check(
        deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 2}}})),
        "/spec/strategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": "25%"}}),
    );
    check(deployment(json!({})), "/spec/replicas", json!(1));
    check(deployment(json!({})), "/spec/progressDeadlineSeconds", json!(600));
    check(deployment(json!({})), "/spec/revisionHistoryLimit", json!(10));
    check(deployment(json!({})), "/status", json!({}));
    let object = created(deployment(json!({})));
    assert_eq!(object.pointer("/spec/template/spec/enableServiceLinks"), None);
}

#[test]
fn a_service_is_completed_by_its_type() {
    check(
        service(json!({"ports": [{"port": 80}], "type": "LoadBalancer"})),
        "/spec",
        json!({
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "LoadBalancer", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
        }),
    );
    check(
        service(json!({"externalName": "example.test", "type": "ExternalName"})),
        "/spec",
        json!({"externalName": "example.test", "type": "ExternalName", "sessionAffinity": "None"}),
    );
    check(service(json!({"clusterIP": "None", "ports": [{"port": 80}]})), "/spec/clusterIPs", json!(["None"]));
    check(
        service(json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP"})),
        "/spec/sessionAffinityConfig",
        json!({"clientIP": {"timeoutSeconds": 10800}}),
    );
}

#[test]
fn other_kinds_are_completed() {
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "a"}});
    check(namespace.clone(), "/metadata/labels", json!({"kubernetes.io/metadata.name": "a"}));
    check(namespace.clone(), "/spec", json!({"finalizers": ["kubernetes"]}));
    check(namespace, "/status", json!({"phase": "Active"}));
    let secret =
        json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"u": "eA=="}, "stringData": {"u": "u", "p": "p"}});
    check(secret.clone(), "/data", json!({"u": "dQ==", "p": "cA=="}));
    check(secret, "/type", json!("Opaque"));
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    check(scaler.clone(), "/spec/minReplicas", json!(1));
    check(scaler.clone(), "/spec/metrics/0/resource/target/averageUtilization", json!(80));
    check(scaler, "/status", json!({"currentMetrics": null, "desiredReplicas": 0}));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"}, "addressType": "IPv4",
        "endpoints": [], "ports": [{"port": 80}],
    });
    check(slice.clone(), "/endpoints", Value::Null);
    check(slice, "/ports", json!([{"port": 80, "name": "", "protocol": "TCP"}]));
}

#[test]
fn a_policy_is_about_what_its_rules_say() {
    let types = |spec: Value, expected: Value| check(network_policy(spec), "/spec/policyTypes", expected);
    types(json!({}), json!(["Ingress"]));
    types(json!({"egress": []}), json!(["Ingress"]));
    types(json!({"egress": [{}]}), json!(["Ingress", "Egress"]));
    types(json!({"policyTypes": ["Egress"], "ingress": [{}]}), json!(["Egress"]));
    let whole = network_policy(json!({"egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": "web"}]}]}));
    check(
        whole.clone(),
        "/spec/egress/0/ports",
        json!([{"port": 53, "protocol": "UDP"}, {"port": "web", "protocol": "TCP"}]),
    );
    check(whole, "/spec/podSelector", json!({}));
    let without_spec =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}});
    check(without_spec, "/spec", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let with_status = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"podSelector": {}},
    });
    assert_eq!(created(with_status).get("status"), None);
}

#[test]
fn defaulting_twice_changes_nothing_more() {
    let bodies = [
        pod(
            json!({"containers": [{"name": "c", "image": "app", "livenessProbe": {"httpGet": {"port": 1}}}], "volumes": [{"name": "v"}]}),
        ),
        deployment(json!({})),
        service(json!({"ports": [{"port": 80}], "type": "NodePort"})),
        json!({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}}),
        json!({"kind": "Namespace", "metadata": {"name": "a"}}),
        network_policy(json!({"ingress": [{"ports": [{}]}]})),
    ];
    for body in bodies {
        let once = created(body);
        let (kind, mut twice) = decoded(once.clone());
        (kind.default)(&mut twice);
        assert_eq!(twice, once);
    }
}
