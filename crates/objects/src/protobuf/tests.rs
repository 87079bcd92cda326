use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A body, and the JSON that says the same.
macro_rules! recorded {
    ($name:literal) => {{
        let body: &[u8] = include_bytes!(concat!("../../testdata/protobuf/", $name, ".bin"));
        ($name, body, include_str!(concat!("../../testdata/protobuf/", $name, ".json")))
    }};
}

#[test]
fn fields_of_a_pod_spec_become_json() {
    let entry = |key: &[u8], value: &[u8]| [bytes(1, key), bytes(2, value)].concat();
    let table = [
        (vec![], json!({})),
        (bytes(3, b"Never"), json!({"restartPolicy": "Never"})),
        (number(11, 1), json!({"hostNetwork": true})),
        (number(4, 30), json!({"terminationGracePeriodSeconds": 30})),
        (number(25, -1), json!({"priority": -1})),
        (bytes(7, &entry(b"disk", b"ssd")), json!({"nodeSelector": {"disk": "ssd"}})),
        (bytes(7, &bytes(1, b"disk")), json!({"nodeSelector": {"disk": ""}})),
        (bytes(32, &entry(b"cpu", &bytes(1, b"500m"))), json!({"overhead": {"cpu": "500m"}})),
        (bytes(32, &entry(b"cpu", b"")), json!({"overhead": {"cpu": "0"}})),
        (bytes(14, &[number(4, 7), number(4, 0)].concat()), json!({"securityContext": {"supplementalGroups": [7, 0]}})),
        (bytes(14, &bytes(4, &[7, 0x80, 0x01])), json!({"securityContext": {"supplementalGroups": [7, 128]}})),
        (bytes(23, &[bytes(2, b"a"), bytes(2, b"b")].concat()), json!({"hostAliases": [{"hostnames": ["a", "b"]}]})),
    ];
    for (message, expected) in table {
        assert_eq!(spec(&message), Ok(expected), "{message:?}");
    }
}

#[test]
fn messages_that_json_has_in_line_stand_among_the_fields() {
    let volume = [bytes(1, b"v"), bytes(2, &bytes(19, &bytes(1, &bytes(1, b"settings"))))].concat();
    assert_eq!(spec(&bytes(1, &volume)), Ok(json!({"volumes": [{"name": "v", "configMap": {"name": "settings"}}]})));

    let port = |message: &[u8]| bytes(10, &[bytes(1, &bytes(2, &bytes(2, message))), number(4, 5)].concat());
    let probe = |port: Value| json!({"livenessProbe": {"httpGet": {"port": port}, "periodSeconds": 5}});
    let table = [
        ([number(1, 0), number(2, 8080), bytes(3, b"")].concat(), json!(8080)),
        ([number(1, 1), number(2, 0), bytes(3, b"web")].concat(), json!("web")),
        (vec![], json!(0)),
    ];
    for (message, expected) in table {
        let container = spec(&bytes(2, &port(&message))).map(|spec| spec["containers"][0].clone());
        assert_eq!(container, Ok(probe(expected)), "{message:?}");
    }
}

#[test]
fn times_and_embedded_json_are_read() {
    let table = [
        (bytes(8, b""), json!({})),
        (bytes(8, &[number(1, 0), number(2, 0)].concat()), json!({"creationTimestamp": "1970-01-01T00:00:00Z"})),
        (bytes(8, &[number(1, 60), number(2, 9)].concat()), json!({"creationTimestamp": "1970-01-01T00:01:00Z"})),
        (bytes(17, &bytes(7, &bytes(1, br#"{"f:a":{}}"#))), json!({"managedFields": [{"fieldsV1": {"f:a": {}}}]})),
    ];
    for (message, expected) in table {
        assert_eq!(read("Secret", &bytes(1, &message)).map(|value| value["metadata"].clone()), Ok(expected));
    }

    let event = read("Event", &bytes(10, &[number(1, 1), number(2, 1_234_567)].concat()));
    assert_eq!(event.map(|value| value["eventTime"].clone()), Ok(json!("1970-01-01T00:00:01.001234Z")));
    let secret = read("Secret", &bytes(2, &[bytes(1, b"key"), bytes(2, b"\xff\x00")].concat()));
    assert_eq!(secret.map(|value| value["data"].clone()), Ok(json!({"key": "/wA="})));
}

#[test]
fn an_empty_value_is_left_out_where_it_says_nothing() {
    let table = [
        (bytes(16, b""), json!({})),
        (number(11, 0), json!({})),
        (number(21, 0), json!({"automountServiceAccountToken": false})),
        (number(4, 0), json!({"terminationGracePeriodSeconds": 0})),
        (bytes(29, b""), json!({"runtimeClassName": ""})),
        (bytes(14, b""), json!({"securityContext": {}})),
        ([bytes(16, b"a"), bytes(16, b"")].concat(), json!({})),
    ];
    for (message, expected) in table {
        assert_eq!(spec(&message), Ok(expected), "{message:?}");
    }
}

#[test]
fn what_comes_twice_is_replaced_or_merged() {
    let twice = |first: Vec<u8>, second: Vec<u8>| spec(&[first, second].concat());
    assert_eq!(twice(bytes(3, b"Never"), bytes(3, b"Always")), Ok(json!({"restartPolicy": "Always"})));
    let merged = twice(bytes(14, &number(2, 1)), bytes(14, &number(6, 2)));
    assert_eq!(merged, Ok(json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2}})));
}

#[test]
fn unknown_field_numbers_are_skipped() {
    let unknown = [bytes(900, b"new"), number(901, 1), vec![0xad, 0x3f, 1, 2, 3, 4], bytes(3, b"Never")].concat();
    assert_eq!(spec(&unknown), Ok(json!({"restartPolicy": "Never"})));
}

#[test]
fn bodies_that_say_nothing_sensible_are_refused() {
    let wrong = |field: &str| ProtobufError::WrongEncoding { field: field.into() };
    let pod = |message: &[u8]| body("v1", "Pod", &bytes(2, message));
    let table = [
        (b"{}".to_vec(), ProtobufError::NoPrefix),
        (b"k8s\0\x0a\x05".to_vec(), ProtobufError::CutShort),
        (b"k8s\0".to_vec(), ProtobufError::UnknownKind { api_version: String::new(), kind: String::new() }),
        (
            body("example.com/v1", "Pod", b""),
            ProtobufError::UnknownKind { api_version: "example.com/v1".into(), kind: "Pod".into() },
        ),
        ([body("v1", "Pod", b""), bytes(3, b"gzip")].concat(), ProtobufError::ContentEncoding("gzip".into())),
        (pod(&number(3, 1)), wrong("PodSpec.restartPolicy")),
        (pod(&bytes(11, b"")), wrong("PodSpec.hostNetwork")),
        (pod(&number(25, 1 << 31)), wrong("PodSpec.priority")),
        (pod(&bytes(3, b"\xff")), ProtobufError::NotText { field: "PodSpec.restartPolicy".into() }),
        (pod(&[0x1b, 0x1c]), ProtobufError::WireType(3)),
        (
            body("v1", "Pod", &bytes(1, &bytes(8, &number(1, i64::MAX)))),
            ProtobufError::NoTime { field: "ObjectMeta.creationTimestamp".into() },
        ),
        (
            body("v1", "Pod", &bytes(1, &bytes(17, &bytes(7, &bytes(1, b"{"))))),
            ProtobufError::NotJson { field: "ManagedFieldsEntry.fieldsV1".into() },
        ),
    ];
    for (body, expected) in table {
        assert_eq!(parse(&body), Err(expected), "{body:?}");
    }
}

#[test]
fn depth_is_limited() {
    let read = |levels| {
        let (shapes, numbers) = (schema::of("io.k8s.api.core.v1.PodSpec"), fields::of("io.k8s.api.core.v1.PodSpec"));
        let message = bytes(2, &bytes(15, &bytes(1, b"")));
        Decoder::with_levels(levels).read_message(shapes.unwrap(), numbers.unwrap(), &message, &mut Map::new())
    };
    assert_eq!(read(4), Ok(()));
    assert_eq!(read(3), Err(ProtobufError::TooDeep(3)));
}

#[test]
fn kinds_are_found_by_the_names_that_clients_send() {
    // What can't be written is never sent.
    for kind in crate::kinds::all().iter().filter(|kind| !kind.is_computed) {
        assert_eq!(type_name(&kind.api_version(), kind.kind), kind.type_name);
    }
    let delete_options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    assert_eq!(type_name("apps/v1", "DeleteOptions"), delete_options);
    assert_eq!(type_name("rbac.authorization.k8s.io/v1", "Role"), "io.k8s.api.rbac.v1.Role");
}

/// Bodies that kubectl 1.33 and 1.37 send alike, with the JSON that the same command prints for a dry run. `pod-copy`
/// and `delete-options` come from `kubectl debug --copy-to` and `kubectl drain`, which print none: theirs says what
/// these commands were told to send.
#[test]
fn bodies_of_kubectl_say_what_it_prints() {
    let recorded = [
        recorded!("configmap"),
        recorded!("delete-options"),
        recorded!("deployment"),
        recorded!("horizontalpodautoscaler"),
        recorded!("namespace"),
        recorded!("pod-copy"),
        recorded!("secret"),
        recorded!("service-clusterip"),
        recorded!("service-nodeport"),
        recorded!("serviceaccount"),
    ];
    for (name, body, printed) in recorded {
        let mut expected: Value = serde_json::from_str(printed).unwrap();
        remove_nulls(&mut expected);
        assert_eq!(parse(body).map(|parsed| parsed.value), Ok(expected), "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&message);
        let _ = read("Pod", &message);
    }

    #[test]
    fn a_damaged_body_is_read_or_refused(at in 0..1200_usize, byte in any::<u8>(), length in 0..1327_usize) {
        let mut body = include_bytes!("../../testdata/protobuf/pod-copy.bin").to_vec();
        body[at] = byte;
        let _ = parse(&body);
        let _ = parse(&body[..length]);
    }
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is read of a Pod's spec.
fn spec(message: &[u8]) -> Result<Value, ProtobufError> {
    read("Pod", &bytes(2, message)).map(|mut value| value["spec"].take())
}

/// What is read of an object of a kind in the core group.
fn read(kind: &str, message: &[u8]) -> Result<Value, ProtobufError> {
    parse(&body("v1", kind, message)).map(|parsed| parsed.value)
}

fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [PREFIX, &bytes(1, &type_meta), &bytes(2, message)].concat()
}

/// A field that is sent with its length.
fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [&varint(field << 3 | 2), &varint(value.len() as u64), value].concat()
}

/// A field that is sent as a number.
fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
