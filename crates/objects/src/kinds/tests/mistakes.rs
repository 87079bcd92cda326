use super::*;

#[track_caller]
fn check(table: Vec<(Value, Vec<&str>)>) {
    for (body, expected) in table {
        assert_eq!(mistakes(body.clone()), expected, "{body}");
    }
}

fn container(fields: Value) -> Value {
    let mut container = json!({"name": "c", "image": "app"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    pod(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

#[test]
fn containers_need_names_images_and_possible_ports() {
    let two = |ports: Value| container(json!({"ports": ports}));
    check(vec![
        (container(json!({})), vec![]),
        (pod(json!({})), vec!["Required spec.containers"]),
        (pod(json!({"containers": [{"name": "c"}]})), vec!["Required spec.containers[0].image"]),
        (pod(json!({"containers": [{"image": "x"}]})), vec!["Required spec.containers[0].name"]),
        (container(json!({"name": "Bad"})), vec!["Invalid spec.containers[0].name"]),
        (container(json!({"image": " app"})), vec!["Invalid spec.containers[0].image"]),
        (container(json!({"imagePullPolicy": "Maybe"})), vec!["NotSupported spec.containers[0].imagePullPolicy"]),
        (two(json!([{"containerPort": 0}])), vec!["Required spec.containers[0].ports[0].containerPort"]),
        (two(json!([{"containerPort": 70000}])), vec!["Invalid spec.containers[0].ports[0].containerPort"]),
        (
            two(json!([{"containerPort": 80, "protocol": "X"}])),
            vec!["NotSupported spec.containers[0].ports[0].protocol"],
        ),
        (
            two(json!([{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}])),
            vec!["Duplicate spec.containers[0].ports[1].name"],
        ),
        (
            pod(json!({"containers": [{"name": "c", "image": "x"}], "initContainers": [{"name": "c", "image": "x"}]})),
            vec!["Duplicate spec.initContainers[0].name"],
        ),
    ]);
}

#[test]
fn probes_hooks_and_environment_must_make_sense() {
    let probe = |probe: Value| container(json!({"livenessProbe": probe}));
    let env = |variable: Value| container(json!({"env": [variable]}));
    let field = "spec.containers[0]";
    let port = &*format!("Invalid {field}.livenessProbe.httpGet.port");
    check(vec![
        (probe(json!({"httpGet": {"port": "UPPER_CASE"}})), vec![port, port]),
        (probe(json!({"httpGet": {"port": 0}})), vec![port]),
        (
            probe(json!({"httpGet": {"port": 1, "scheme": "ftp"}})),
            vec!["NotSupported spec.containers[0].livenessProbe.httpGet.scheme"],
        ),
        (probe(json!({})), vec!["Required spec.containers[0].livenessProbe"]),
        (
            probe(json!({"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}})),
            vec!["Forbidden spec.containers[0].livenessProbe.tcpSocket"],
        ),
        (
            probe(json!({"exec": {"command": ["x"]}, "successThreshold": 2})),
            vec!["Invalid spec.containers[0].livenessProbe.successThreshold"],
        ),
        (
            container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
            vec!["Invalid spec.containers[0].lifecycle.preStop.sleep.seconds"],
        ),
        (env(json!({"name": "", "value": "x"})), vec!["Required spec.containers[0].env[0].name"]),
        (env(json!({"name": "A=B"})), vec!["Invalid spec.containers[0].env[0].name"]),
        (
            env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
            vec!["Invalid spec.containers[0].env[0].valueFrom"],
        ),
        (env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}})), vec![]),
        (
            env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.containers"}}})),
            vec!["NotSupported spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"],
        ),
        (
            env(json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}})),
            vec!["Required spec.containers[0].env[0].valueFrom.secretKeyRef.key"],
        ),
    ]);
}

#[test]
fn volumes_resources_and_policies_must_make_sense() {
    let mount = |mount: Value| container(json!({"volumeMounts": [mount]}));
    let resources = |resources: Value| container(json!({"resources": resources}));
    let with = |fields: Value| {
        let mut body = container(json!({}));
        body["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    check(vec![
        (mount(json!({"name": "v", "mountPath": "/v"})), vec![]),
        (mount(json!({"name": "w", "mountPath": "/v"})), vec!["NotFound spec.containers[0].volumeMounts[0].name"]),
        (mount(json!({"name": "v"})), vec!["Required spec.containers[0].volumeMounts[0].mountPath"]),
        (
            mount(json!({"name": "v", "mountPath": "/v", "subPath": "../x"})),
            vec!["Invalid spec.containers[0].volumeMounts[0].subPath"],
        ),
        (
            with(json!({"volumes": [{"name": "v", "emptyDir": {}, "configMap": {"name": "x"}}]})),
            vec!["Forbidden spec.volumes[0].configMap"],
        ),
        (
            with(
                json!({"volumes": [{"name": "v", "configMap": {"name": "x", "items": [{"key": "k", "path": "/abs"}]}}]}),
            ),
            vec!["Invalid spec.volumes[0].configMap.items[0].path"],
        ),
        (
            resources(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            vec!["Invalid spec.containers[0].resources.requests"],
        ),
        (
            resources(json!({"limits": {"memory": "-1"}})),
            vec![
                "Invalid spec.containers[0].resources.limits[memory]",
                "Invalid spec.containers[0].resources.requests[memory]",
            ],
        ),
        (with(json!({"restartPolicy": "Sometimes"})), vec!["NotSupported spec.restartPolicy"]),
        (with(json!({"dnsPolicy": "X"})), vec!["NotSupported spec.dnsPolicy"]),
        (with(json!({"terminationGracePeriodSeconds": -1})), vec!["Invalid spec.terminationGracePeriodSeconds"]),
        (with(json!({"securityContext": {"runAsUser": -1}})), vec!["Invalid spec.securityContext.runAsUser"]),
        (
            with(json!({"tolerations": [{"effect": "X", "operator": "Exists"}]})),
            vec!["NotSupported spec.tolerations[0].effect"],
        ),
    ]);
}

#[test]
fn deployments_need_a_selector_that_finds_their_pods_and_a_possible_strategy() {
    let rolling = |counts: Value| deployment(json!({"strategy": {"rollingUpdate": counts}}));
    check(vec![
        (deployment(json!({})), vec![]),
        (
            deployment(json!({"selector": {"matchLabels": {"app": "other"}}})),
            vec!["Invalid spec.template.metadata.labels"],
        ),
        (deployment(json!({"selector": {}})), vec!["Invalid spec.selector"]),
        (deployment(json!({"selector": null})), vec!["Required spec.selector"]),
        (deployment(json!({"strategy": {"type": "X"}})), vec!["NotSupported spec.strategy"]),
        (
            deployment(json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}})),
            vec!["Forbidden spec.strategy.rollingUpdate"],
        ),
        (rolling(json!({"maxSurge": "abc"})), vec!["Invalid spec.strategy.rollingUpdate.maxSurge"]),
        (rolling(json!({"maxUnavailable": "101%"})), vec!["Invalid spec.strategy.rollingUpdate.maxUnavailable"]),
        (
            rolling(json!({"maxSurge": 0, "maxUnavailable": "0%"})),
            vec!["Invalid spec.strategy.rollingUpdate.maxUnavailable"],
        ),
        (
            deployment(json!({"minReadySeconds": 10, "progressDeadlineSeconds": 5})),
            vec!["Invalid spec.progressDeadlineSeconds"],
        ),
        (
            deployment(json!({"replicas": -1, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"restartPolicy": "Never", "containers": [
                    {"name": "Bad"}, {"name": "x", "image": "x", "ports": [{"containerPort": 0}]},
                ]},
            }})),
            vec![
                "Invalid spec.replicas",
                "Invalid spec.template.spec.containers[0].name",
                "Required spec.template.spec.containers[0].image",
                "Required spec.template.spec.containers[1].ports[0].containerPort",
                "NotSupported spec.template.spec.restartPolicy",
            ],
        ),
    ]);
}

#[test]
fn what_a_service_says_of_its_traffic_must_be_understood() {
    let said = |key: &str, value: &str| {
        let mut service = service(json!({"ports": [{"name": "raw", "port": 9000}, {"name": "amqp", "port": 5672}]}));
        service["metadata"]["annotations"] = json!({ key: value });
        mistakes(service)
    };
    for (key, good, bad) in [
        ("segue.dev/proxy-protocol", "v2", "v3"),
        ("segue.dev/sticky-cookie", "pod", "my pod"),
        ("segue.dev/max-request-body", "10Mi", "much"),
        ("segue.dev/max-request-body", "1", "0"),
        ("segue.dev/opaque-ports", "9000, amqp", "9000,http"),
    ] {
        assert_eq!(said(key, good), [""; 0], "{key}: {good}");
        let reason = if key == "segue.dev/proxy-protocol" { "NotSupported" } else { "Invalid" };
        assert_eq!(said(key, bad), [format!("{reason} metadata.annotations[{key}]")], "{key}: {bad}");
    }
}

#[test]
fn services_need_possible_ports_and_addresses() {
    check(vec![
        (service(json!({})), vec!["Required spec.ports"]),
        (
            service(json!({"ports": [{"port": 0}]})),
            vec!["Invalid spec.ports[0].port", "Invalid spec.ports[0].targetPort"],
        ),
        (
            service(json!({"ports": [{"port": 80}, {"port": 81}]})),
            vec!["Required spec.ports[0].name", "Required spec.ports[1].name"],
        ),
        (
            service(json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]})),
            vec!["Duplicate spec.ports[1]"],
        ),
        (service(json!({"ports": [{"port": 80}], "type": "X"})), vec!["NotSupported spec.type"]),
        (service(json!({"ports": [{"port": 80}], "clusterIP": "1.2.3"})), vec!["Invalid spec.clusterIPs[0]"]),
        (service(json!({"type": "ExternalName"})), vec!["Required spec.externalName"]),
        (
            service(json!({"ports": [{"port": 80, "nodePort": 80}], "type": "NodePort"})),
            vec!["Invalid spec.ports[0].nodePort"],
        ),
        (service(json!({"clusterIP": "None"})), vec![]),
    ]);
}

#[test]
fn other_kinds_have_rules_of_their_own() {
    let config_map = |data: Value| json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let secret = |kind: &str, data: Value| json!({"kind": "Secret", "metadata": {"name": "s"}, "type": kind, "stringData": data});
    let slice = |addresses: Value| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"},
            "addressType": "IPv4", "endpoints": [{"addresses": addresses}],
        })
    };
    let scaler = |least: i64, most: i64| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"minReplicas": least, "maxReplicas": most, "scaleTargetRef": {"kind": "Deployment", "name": "web"}},
        })
    };
    check(vec![
        (config_map(json!({"bad key": "v"})), vec!["Invalid data[bad key]"]),
        (config_map(json!({"..": "v"})), vec!["Invalid data[..]"]),
        (config_map(json!({"k": "x".repeat(2 << 20)})), vec!["TooLong "]),
        (secret("kubernetes.io/tls", json!({})), vec!["Required data[tls.crt]", "Required data[tls.key]"]),
        (
            secret("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "x"})),
            vec!["Invalid data[.dockerconfigjson]"],
        ),
        (slice(json!(["10.0.0.1"])), vec![]),
        (slice(json!(["x"])), vec!["Invalid endpoints[0].addresses[0]"]),
        (slice(json!([])), vec!["Required endpoints[0].addresses"]),
        (slice(json!(["127.0.0.1"])), vec!["Invalid endpoints[0].addresses[0]"]),
        (scaler(5, 2), vec!["Invalid spec.maxReplicas", "Invalid spec.scaleTargetRef.apiVersion"]),
        (json!({"kind": "Namespace", "metadata": {"name": "a.b"}}), vec!["Invalid metadata.name"]),
    ]);
}

#[test]
fn policies_need_possible_ports_and_peers() {
    let port = |port: Value| network_policy(json!({"ingress": [{"ports": [port]}]}));
    let peer = |peer: Value| network_policy(json!({"egress": [{"to": [peer]}]}));
    let block = |block: Value| peer(json!({"ipBlock": block}));
    let selector = |expression: Value| json!({"matchExpressions": [expression]});
    check(vec![
        (network_policy(json!({"ingress": [{}], "egress": [{}], "policyTypes": ["Egress", "Ingress"]})), vec![]),
        (port(json!({})), vec![]),
        (port(json!({"protocol": "SCTP"})), vec![]),
        (port(json!({"protocol": "ICMP"})), vec!["NotSupported spec.ingress[0].ports[0].protocol"]),
        (port(json!({"port": "web"})), vec![]),
        (port(json!({"port": "Web"})), vec!["Invalid spec.ingress[0].ports[0].port"]),
        (port(json!({"port": 0})), vec!["Invalid spec.ingress[0].ports[0].port"]),
        (port(json!({"port": 65536})), vec!["Invalid spec.ingress[0].ports[0].port"]),
        (port(json!({"port": 80, "endPort": 80})), vec![]),
        (port(json!({"port": 80, "endPort": 79})), vec!["Invalid spec.ingress[0].ports[0].endPort"]),
        (port(json!({"port": 80, "endPort": 65536})), vec!["Invalid spec.ingress[0].ports[0].endPort"]),
        (port(json!({"port": "web", "endPort": 90})), vec!["Invalid spec.ingress[0].ports[0].endPort"]),
        (port(json!({"endPort": 90})), vec!["Invalid spec.ingress[0].ports[0].endPort"]),
        (peer(json!({})), vec!["Required spec.egress[0].to[0]"]),
        (peer(json!({"podSelector": {}, "namespaceSelector": {}})), vec![]),
        (peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})), vec!["Forbidden spec.egress[0].to[0]"]),
        (
            peer(json!({"podSelector": {"matchLabels": {"bad key": "v"}}})),
            vec!["Invalid spec.egress[0].to[0].podSelector.matchLabels"],
        ),
        (
            peer(json!({"namespaceSelector": selector(json!({"key": "team", "operator": "In"}))})),
            vec!["Required spec.egress[0].to[0].namespaceSelector.matchExpressions[0].values"],
        ),
        (
            peer(json!({"podSelector": selector(json!({"key": "a", "operator": "In", "values": ["b c"]}))})),
            vec!["Invalid spec.egress[0].to[0].podSelector.matchExpressions[0].values[0]"],
        ),
        (block(json!({"cidr": "10.1.2.3/8", "except": ["10.44.0.0/16"]})), vec![]),
        (block(json!({"cidr": "2001:db8::/32", "except": ["2001:db8::/64"]})), vec![]),
        (block(json!({"cidr": ""})), vec!["Required spec.egress[0].to[0].ipBlock.cidr"]),
        (block(json!({"cidr": "10.0.0.0"})), vec!["Invalid spec.egress[0].to[0].ipBlock.cidr"]),
        (
            block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "11.0.0.0/16", "x"]})),
            vec![
                "Invalid spec.egress[0].to[0].ipBlock.except[0]",
                "Invalid spec.egress[0].to[0].ipBlock.except[1]",
                "Invalid spec.egress[0].to[0].ipBlock.except[2]",
            ],
        ),
        (network_policy(json!({"policyTypes": ["Both"]})), vec!["NotSupported spec.policyTypes[0]"]),
        (network_policy(json!({"policyTypes": ["Ingress", "Ingress", "Ingress"]})), vec!["Invalid spec.policyTypes"]),
        (
            network_policy(json!({"podSelector": selector(json!({"key": "a", "operator": "Equals"}))})),
            vec!["Invalid spec.podSelector.matchExpressions[0].operator"],
        ),
    ]);
}

#[test]
fn a_drain_deadline_must_be_a_duration() {
    let with_deadline = |deadline: &str| {
        let mut body = container(json!({}));
        body["metadata"]["annotations"] = json!({"segue.dev/drain-deadline": deadline});
        body
    };
    let wrong = vec!["Invalid metadata.annotations[segue.dev/drain-deadline]"];
    check(vec![(with_deadline("1m30s"), vec![]), (with_deadline("45"), vec![]), (with_deadline("soon"), wrong)]);
}

#[test]
fn what_is_allowed_but_hardly_meant_is_warned_of() {
    let twice = json!([{"containerPort": 80}, {"containerPort": 80}]);
    let object = created(container(json!({"ports": twice})));
    let kind = find_kind("", "v1", "Pod").unwrap();
    assert_eq!(
        (kind.warnings)(&object),
        ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"]
    );
}

#[test]
fn roles_and_bindings_say_who_may_do_what_to_what() {
    let object = |kind: &str, fields: Value| {
        let mut object =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "a:b"}});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        object
    };
    let rule = |kind: &str, rule: Value| object(kind, json!({"rules": [rule]}));
    let binding = |kind: &str, role: &str, subject: Value| {
        object(kind, json!({"roleRef": {"kind": role, "name": "r"}, "subjects": [subject]}))
    };
    let user = || json!({"kind": "User", "name": "bob"});
    let account = || json!({"kind": "ServiceAccount", "name": "robot"});
    let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
    let path = json!({"verbs": ["get"], "nonResourceURLs": ["/x"]});
    let both = json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]});
    check(vec![
        (rule("Role", pods.clone()), vec![]),
        (rule("ClusterRole", pods), vec![]),
        (
            rule("Role", json!({"verbs": []})),
            vec!["Required rules[0].verbs", "Required rules[0].apiGroups", "Required rules[0].resources"],
        ),
        (rule("ClusterRole", path.clone()), vec![]),
        (rule("Role", path), vec!["Invalid rules[0].nonResourceURLs"]),
        (rule("ClusterRole", both), vec!["Invalid rules[0].nonResourceURLs"]),
        (object("ClusterRole", json!({"aggregationRule": {}})), vec!["Required aggregationRule.clusterRoleSelectors"]),
        (binding("RoleBinding", "Role", user()), vec![]),
        (binding("RoleBinding", "ClusterRole", account()), vec![]),
        (binding("RoleBinding", "User", user()), vec!["NotSupported roleRef.kind"]),
        (binding("ClusterRoleBinding", "Role", user()), vec!["NotSupported roleRef.kind"]),
        (binding("ClusterRoleBinding", "ClusterRole", account()), vec!["Required subjects[0].namespace"]),
        (binding("RoleBinding", "Role", json!({"kind": "Robot", "name": "r"})), vec!["NotSupported subjects[0].kind"]),
        (binding("RoleBinding", "Role", json!({"kind": "User", "name": ""})), vec!["Required subjects[0].name"]),
    ]);
}
