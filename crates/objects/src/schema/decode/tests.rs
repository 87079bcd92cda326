use super::*;
use crate::kinds;
use serde_json::json;

fn decoded(kind: &str, mut value: Value) -> Result<(Value, Vec<String>), String> {
    let kind = kinds::all().iter().find(|found| found.kind == kind).unwrap();
    match decode(kind, &mut value) {
        Ok(unknown) => Ok((value, unknown)),
        Err(error) => Err(error.to_string()),
    }
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn unknown_fields_are_named_with_their_path_and_removed() {
    let body = pod(json!({"foo": 1, "containers": [{"name": "c", "image": "x", "bar": {}}]}));
    let (value, unknown) = decoded("Pod", body).unwrap();
    assert_eq!(unknown, ["unknown field \"spec.foo\"", "unknown field \"spec.containers[0].bar\""]);
    assert_eq!(value, pod(json!({"containers": [{"name": "c", "image": "x"}]})));
}

#[test]
fn wrong_types_are_refused_in_the_real_servers_words() {
    let deployment = |spec: Value| json!({"metadata": {"name": "web"}, "spec": spec});
    let table = [
        (
            "Deployment",
            deployment(json!({"replicas": "three"})),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
             struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "Deployment",
            deployment(json!({"template": {"spec": {"containers": {}}}})),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal object into Go \
             struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            "ConfigMap",
            json!({"metadata": {"name": true}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct \
             field ObjectMeta.metadata.name of type string",
        ),
        (
            "Pod",
            pod(json!({"containers": [{"resources": {"limits": {"cpu": "lots"}}}]})),
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "ConfigMap",
            json!({"binaryData": {"k": "***"}}),
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: illegal base64 data at input byte 0",
        ),
        (
            "Secret",
            json!({"data": {"k": "not base64!"}}),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 3",
        ),
    ];
    for (kind, body, expected) in table {
        assert_eq!(decoded(kind, body.clone()).unwrap_err(), expected, "{body}");
    }
}

#[test]
fn numbers_must_fit_their_fields() {
    for replicas in [json!(2_147_483_648_i64), json!(1.5), json!(1.0), json!(true), json!([])] {
        assert!(decoded("Deployment", json!({"spec": {"replicas": replicas}})).is_err());
    }
    let grace = |seconds: Value| decoded("Pod", pod(json!({"terminationGracePeriodSeconds": seconds})));
    assert!(grace(json!(2_147_483_648_i64)).is_ok());
    assert!(grace(json!(9.3e18)).is_err());
    let surge =
        |count: Value| decoded("Deployment", json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": count}}}}));
    assert!(surge(json!("25%")).is_ok() && surge(json!(1)).is_ok());
    assert!(surge(json!(true)).is_err());
}

#[test]
fn values_get_their_canonical_form() {
    let body = pod(json!({
        "containers": [{"name": "c", "resources": {"requests": {"cpu": 0.1, "memory": "1000k"}}}],
        "nodeName": null, "volumes": [], "nodeSelector": {}, "hostNetwork": false, "automountServiceAccountToken": false,
        "securityContext": {}, "activeDeadlineSeconds": 0, "hostname": "",
    }));
    let (value, _) = decoded("Pod", body).unwrap();
    assert_eq!(
        value,
        pod(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1M"}}}],
            "automountServiceAccountToken": false, "securityContext": {}, "activeDeadlineSeconds": 0,
        }))
    );
    let (event, _) = decoded(
        "Event",
        json!({"eventTime": "2026-01-01T01:00:00.5+01:00", "firstTimestamp": "2026-01-01T00:00:00.9Z", "message": ""}),
    )
    .unwrap();
    assert_eq!(event["eventTime"], json!("2026-01-01T00:00:00.500000Z"));
    assert_eq!(event["firstTimestamp"], json!("2026-01-01T00:00:00Z"));
}

#[test]
fn nulls_in_maps_and_lists_are_empty_values() {
    let (value, _) = decoded("ConfigMap", json!({"data": {"k": null}, "binaryData": null})).unwrap();
    assert_eq!(value, json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": ""}}));
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    assert!(decoded("Pod", json!([])).unwrap_err().ends_with("cannot unmarshal array into Go value of type v1.Pod"));
}
