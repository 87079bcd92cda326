//! Mistakes in the environment of a container.

use serde_json::json;

use crate::kinds::config_map::check_key as check_data_key;
use crate::metadata::{dns_subdomain_faults, qualified_name_faults};
use crate::validation::{At, Cause};

const NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];

/// Mistakes in `env` and `envFrom`.
pub(super) fn check(container: &At<'_>, causes: &mut Vec<Cause>) {
    for variable in container.field("env").items() {
        check_name(&variable.field("name"), causes);
        check_source(&variable, causes);
    }
    for source in container.field("envFrom").items() {
        let references: Vec<_> = ["configMapRef", "secretRef"].iter().map(|name| source.field(name)).collect();
        match references.iter().filter(|reference| reference.is_given()).count() {
            0 => causes.push(source.invalid_as(&json!(""), "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => causes.push(source.invalid_as(&json!(""), "may not have more than one field specified at a time")),
        }
        for reference in references.iter().filter(|reference| reference.is_given()) {
            check_object_name(&reference.field("name"), causes);
        }
    }
}

fn check_name(name: &At<'_>, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(name.required(""));
    } else if !name.text().bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        causes.push(name.invalid(NAME));
    }
}

fn check_source(variable: &At<'_>, causes: &mut Vec<Cause>) {
    let source = variable.field("valueFrom");
    if !source.is_given() {
        return;
    }
    let given = SOURCES.iter().filter(|name| source.field(name).is_given()).count();
    if given == 0 {
        let fault =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        causes.push(source.invalid_as(&json!(""), fault));
    } else if !variable.field("value").is_empty() {
        causes.push(source.invalid_as(&json!(""), "may not be specified when `value` is not empty"));
    } else if given > 1 {
        causes.push(source.invalid_as(&json!(""), "may not have more than one field specified at a time"));
    }
    check_field(&source.field("fieldRef"), causes);
    check_resource(&source.field("resourceFieldRef"), causes);
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let reference = source.field(name);
        if reference.is_given() {
            check_object_name(&reference.field("name"), causes);
            check_key(&reference.field("key"), causes);
        }
    }
}

fn check_field(reference: &At<'_>, causes: &mut Vec<Cause>) {
    let path = reference.field("fieldPath");
    if !reference.is_given() {
        return;
    }
    let of_map = ["metadata.labels", "metadata.annotations"].iter().find_map(|map| subscript(path.text(), map));
    if path.is_empty() {
        causes.push(path.required(""));
    } else if let Some(key) = of_map {
        causes.extend(path.invalid_for(qualified_name_faults(key)));
    } else if !FIELDS.contains(&path.text()) {
        causes.push(path.not_supported(&FIELDS));
    }
}

/// The key in `metadata.labels['key']`.
fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

fn check_resource(reference: &At<'_>, causes: &mut Vec<Cause>) {
    let resource = reference.field("resource");
    if !reference.is_given() {
        return;
    }
    if resource.is_empty() {
        causes.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.text()) {
        causes.push(resource.not_supported(&RESOURCES));
    }
}

fn check_object_name(name: &At<'_>, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(name.required(""));
    } else {
        causes.extend(name.invalid_for(dns_subdomain_faults(name.text())));
    }
}

fn check_key(key: &At<'_>, causes: &mut Vec<Cause>) {
    if key.is_empty() {
        causes.push(key.required(""));
    } else {
        check_data_key(key.text(), key, causes);
    }
}
