//! Event: something that happened to an object.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::add_type;
use crate::json::{child, fill, integer, text};
use crate::kind::{Column, Kind, PLAIN, Scope};
use crate::metadata;
use crate::table::{self, column, wide};
use crate::validation::{At, Cause};

pub(super) const KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    type_name: "io.k8s.api.core.v1.Event",
    add_types: add_type::<Event>,
    default,
    validate,
    columns: COLUMNS,
    row,
    field_labels,
    ..PLAIN
};

const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "When it last happened."),
    column("Type", "string", "Normal, or Warning."),
    column("Reason", "string", "One word for what happened."),
    column("Object", "string", "What it happened to."),
    wide("Subobject", "string", "The part of the object."),
    wide("Source", "string", "Who reported it."),
    column("Message", "string", "What happened."),
    wide("First Seen", "string", "When it first happened."),
    wide("Count", "string", "How often it happened."),
    Column { priority: 1, ..table::NAME },
];

/// Fields that the real server writes even when they are empty.
fn default(object: &mut Value) {
    for name in ["eventTime", "firstTimestamp", "lastTimestamp"] {
        fill(object, name, Value::Null);
    }
    for name in ["reportingComponent", "reportingInstance"] {
        fill(object, name, "");
    }
    for name in ["metadata", "source", "involvedObject"] {
        child(object, name);
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, Scope::Namespaced, metadata::dns_subdomain_faults);
    let involved = At::root(object).field("involvedObject").field("namespace");
    let expected = match text(object, "/metadata/namespace") {
        "default" if involved.is_empty() => "",
        namespace => namespace,
    };
    if involved.text() != expected {
        causes.push(involved.invalid_as(&json!(involved.text()), "does not match event.namespace"));
    }
    causes
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let first = match text(object, "/firstTimestamp") {
        "" => table::since(text(object, "/eventTime"), now),
        time => table::since(time, now),
    };
    let last = match (text(object, "/series/lastObservedTime"), text(object, "/lastTimestamp")) {
        ("", "") => first.clone(),
        ("", time) | (time, _) => table::since(time, now),
    };
    let count = integer(object, "/series/count").or_else(|| integer(object, "/count")).unwrap_or(1);
    vec![
        json!(last),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(involved(object)),
        json!(text(object, "/involvedObject/fieldPath")),
        json!(source(object)),
        json!(text(object, "/message").trim()),
        json!(first),
        json!(count),
        table::name(object),
    ]
}

fn involved(object: &Value) -> String {
    let kind = text(object, "/involvedObject/kind").to_lowercase();
    match text(object, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(object: &Value) -> String {
    let (component, place) = match text(object, "/source/component") {
        "" => (text(object, "/reportingComponent"), text(object, "/reportingInstance")),
        component => (component, text(object, "/source/host")),
    };
    if place.is_empty() { component.to_owned() } else { format!("{component}, {place}") }
}

fn field_labels(object: &Value) -> Vec<(&'static str, String)> {
    let source = match text(object, "/source/component") {
        "" => text(object, "/reportingComponent"),
        component => component,
    };
    vec![
        ("involvedObject.kind", text(object, "/involvedObject/kind").to_owned()),
        ("involvedObject.namespace", text(object, "/involvedObject/namespace").to_owned()),
        ("involvedObject.name", text(object, "/involvedObject/name").to_owned()),
        ("involvedObject.uid", text(object, "/involvedObject/uid").to_owned()),
        ("involvedObject.apiVersion", text(object, "/involvedObject/apiVersion").to_owned()),
        ("involvedObject.resourceVersion", text(object, "/involvedObject/resourceVersion").to_owned()),
        ("involvedObject.fieldPath", text(object, "/involvedObject/fieldPath").to_owned()),
        ("reason", text(object, "/reason").to_owned()),
        ("reportingComponent", text(object, "/reportingComponent").to_owned()),
        ("source", source.to_owned()),
        ("type", text(object, "/type").to_owned()),
    ]
}
