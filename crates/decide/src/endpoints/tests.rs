use super::*;
use serde_json::{Value, json};

fn service(more: Value) -> Service {
    let mut value = json!({
        "metadata": {"namespace": "n", "name": "web", "uid": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

/// A ready pod with an address, changed by merging `more`.
fn pod(name: &str, more: Value) -> Pod {
    let mut value = json!({
        "metadata": {"namespace": "n", "name": name, "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "machine", "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {
            "phase": "Running", "podIP": "10.44.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
        },
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
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

/// What the API makes of the steps.
fn applied(mut slices: Vec<EndpointSlice>, steps: Vec<Step>) -> Vec<EndpointSlice> {
    for step in steps {
        match step {
            Step::Create(slice) => {
                let mut slice = *slice;
                slice.metadata.name = Some(format!("web-{}", slices.len()));
                slices.push(slice);
            }
            Step::Update(slice) => {
                let found = slices.iter_mut().find(|it| it.metadata.name == slice.metadata.name).unwrap();
                *found = *slice;
            }
            Step::Delete { slice } => slices.retain(|it| it.metadata.name.as_ref() != Some(&slice.name)),
        }
    }
    slices
}

fn slices(service: &Service, pods: &[Pod]) -> Vec<EndpointSlice> {
    applied(Vec::new(), next_steps(service, pods, &[]).steps)
}

fn conditions(service: &Service, pod: Pod) -> [bool; 3] {
    let slices = slices(service, &[pod]);
    let conditions = slices[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    [conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap()]
}

#[test]
fn conditions_are_kubernetes_own() {
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}});
    let evicted = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"},
        {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
         "lastTransitionTime": "1970-01-01T00:00:00Z"},
    ]}});
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let publishing = json!({"spec": {"publishNotReadyAddresses": true}});
    let table = [
        ("ready", json!({}), json!({}), [true, true, false]),
        ("not ready", json!({}), unready.clone(), [false, false, false]),
        ("terminating, but Ready", json!({}), going.clone(), [false, true, true]),
        ("evicted by its node, but Ready", json!({}), evicted, [false, true, true]),
        ("not ready, but published", publishing.clone(), unready, [true, false, false]),
        ("terminating, but published", publishing, going, [true, true, true]),
    ];
    for (what, service_more, pod_more, expected) in table {
        assert_eq!(conditions(&service(service_more), pod("p", pod_more)), expected, "{what}");
    }
}

#[test]
fn a_slice_is_as_kubernetes_makes_it() {
    let steps = next_steps(&service(json!({})), &[pod("p", json!({}))], &[]).steps;
    let [Step::Create(slice)] = steps.as_slice() else { panic!("{steps:?}") };
    let expected = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": "web-", "namespace": "n",
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:05Z"},
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": ["10.44.0.1"],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "machine",
            "targetRef": {"kind": "Pod", "namespace": "n", "name": "p", "uid": "p"},
        }],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    assert_eq!(serde_json::to_value(slice).unwrap(), expected);
}

#[test]
fn pods_without_address_or_end_are_no_endpoints() {
    let pods = [
        pod("waits", json!({"status": {"podIP": null}})),
        pod("ended", json!({"status": {"phase": "Succeeded"}})),
        pod("other", json!({"metadata": {"labels": {"app": "other"}}})),
    ];
    let decision = next_steps(&service(json!({})), &pods, &[]);
    assert_eq!(decision.waiting_on, [WaitingOn::PodAddress { pod: "waits".to_owned() }]);
    let slices = applied(Vec::new(), decision.steps);
    assert_eq!(slices.len(), 1);
    assert_eq!((&slices[0].endpoints, &slices[0].ports), (&None, &None));
}

#[test]
fn services_that_others_fill_are_left_alone() {
    for more in [json!({"spec": {"selector": null}}), json!({"spec": {"type": "ExternalName"}})] {
        assert_eq!(next_steps(&service(more), &[pod("p", json!({}))], &[]).steps, []);
    }
}

#[test]
fn a_hostname_is_its_subdomains() {
    let table = [
        (json!({"hostname": "web-0", "subdomain": "web"}), Some("web-0")),
        (json!({"hostname": "web-0", "subdomain": "other"}), None),
        (json!({"hostname": "web-0"}), None),
        (json!({"subdomain": "web"}), None),
        (json!({"hostname": "", "subdomain": "web"}), None),
    ];
    for (spec, expected) in table {
        let slices = slices(&service(json!({})), &[pod("p", json!({"spec": spec}))]);
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].hostname.as_deref(), expected, "{spec}");
    }
}

#[test]
fn a_headless_service_says_so() {
    let slices = slices(&service(json!({"spec": {"clusterIP": "None"}})), &[]);
    assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["service.kubernetes.io/headless"], "");
}

#[test]
fn a_named_port_is_each_pods_own() {
    let by_name = service(json!({"spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}]}}));
    let other_port =
        json!({"spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 9000}]}]}});
    let no_port = json!({"spec": {"containers": [{"name": "app"}]}});
    let pods = [pod("a", json!({})), pod("b", other_port), pod("c", no_port)];
    let slices = slices(&by_name, &pods);
    let ports: Vec<_> =
        slices.iter().map(|slice| slice.ports.as_ref().unwrap().first().and_then(|it| it.port)).collect();
    assert_eq!(ports, [Some(8080), Some(9000), None]);
}

#[test]
fn a_slice_that_is_right_is_not_written() {
    let service = service(json!({}));
    let pods = [pod("a", json!({})), pod("b", json!({}))];
    let existing = slices(&service, &pods);
    assert_eq!(next_steps(&service, &pods, &existing).steps, []);
    let existing = slices(&service, &[]);
    assert_eq!(next_steps(&service, &[], &existing).steps, []);
}

#[test]
fn the_empty_slice_is_filled_and_emptied_under_its_name() {
    let service = service(json!({}));
    let pods = [pod("a", json!({}))];
    let empty = slices(&service, &[]);
    let filled = applied(empty.clone(), next_steps(&service, &pods, &empty).steps);
    assert_eq!(filled.len(), 1);
    assert_eq!(filled[0].metadata.name, empty[0].metadata.name);
    assert_eq!(filled[0].endpoints.as_ref().map(Vec::len), Some(1));
    let emptied = applied(filled.clone(), next_steps(&service, &[], &filled).steps);
    assert_eq!((emptied.len(), &emptied[0].endpoints), (1, &None));
}

#[test]
fn a_hundred_endpoints_fill_a_slice_and_a_change_rewrites_one() {
    let service = service(json!({}));
    let name = |index: usize| format!("pod-{index:03}");
    let mut pods: Vec<_> = (0..230).map(|index| pod(&name(index), json!({}))).collect();
    let existing = slices(&service, &pods);
    let sizes: Vec<_> = existing.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 30]);

    pods[150] = pod(&name(150), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z"}}));
    let steps = next_steps(&service, &pods, &existing).steps;
    assert_eq!(steps.len(), 1, "{}", steps.len());
    assert_eq!(steps[0].to_string(), "update EndpointSlice web-1 to 100 endpoints");

    pods.remove(3);
    let existing = applied(existing, steps);
    let steps = next_steps(&service, &pods, &existing).steps;
    assert_eq!(steps.iter().map(Step::to_string).collect::<Vec<_>>(), ["update EndpointSlice web-0 to 99 endpoints"]);
}

#[test]
fn the_time_of_the_last_change_never_goes_back() {
    let service = service(json!({}));
    let existing = slices(&service, &[pod("a", json!({}))]);
    let steps = next_steps(&service, &[], &existing).steps;
    let [Step::Update(slice)] = steps.as_slice() else { panic!("{steps:?}") };
    let annotations = slice.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["endpoints.kubernetes.io/last-change-trigger-time"], "2026-01-01T00:00:05Z");
}
