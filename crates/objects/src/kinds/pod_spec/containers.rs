//! Mistakes in a pod's containers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::volumes::{VolumeNames, check_mounts};
use super::{env, probes, resources, security};
use crate::metadata::{dns_label_faults, port_name_faults};
use crate::validation::{At, Cause, check_one_of, check_range};

const NO_PROBES: &str = "may not be set for init containers without restartPolicy=Always";

/// Mistakes in all containers of a pod.
pub(super) fn check_all(spec: &At<'_>, volumes: &VolumeNames<'_>, causes: &mut Vec<Cause>) {
    let (containers, init_containers) = (spec.field("containers"), spec.field("initContainers"));
    if containers.is_empty() {
        causes.push(containers.required(""));
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for container in containers.items() {
        check(&container, volumes, &mut names, causes);
        probes::check_all(&container, spec, causes);
        check_host_ports(&container, spec, &mut host_ports, causes);
        let policy = container.field("restartPolicy");
        if policy.is_given() && !["Always", "OnFailure", "Never"].contains(&policy.text()) {
            causes.push(policy.not_supported(&["Always", "Never", "OnFailure"]));
        }
    }
    for container in init_containers.items() {
        check(&container, volumes, &mut names, causes);
        check_init(&container, spec, causes);
    }
    for container in spec.field("ephemeralContainers").items() {
        check(&container, volumes, &mut names, causes);
    }
}

/// A sentence for each port that is given twice.
pub(super) fn duplicate_ports(ports: &At<'_>) -> Vec<String> {
    let identity =
        |port: &At<'_>| ["containerPort", "hostPort", "protocol", "hostIP"].map(|name| port.field(name).value.clone());
    let all: Vec<_> = ports.items().collect();
    let first_like = |port: &At<'_>| all.iter().find(|other| identity(other) == identity(port));
    let duplicates = all.iter().filter_map(|port| Some((port, first_like(port)?)));
    duplicates
        .filter(|(port, first)| port.path != first.path)
        .map(|(port, first)| format!("{}: duplicate port definition with {}", port.path, first.path))
        .collect()
}

/// A sentence for each variable that hides an earlier one of the same name.
pub(super) fn duplicate_variables(env: &At<'_>) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for variable in env.items() {
        let name = variable.field("name").text();
        if !name.is_empty() && !names.insert(name) {
            found.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path
            ));
        }
    }
    found
}

fn check<'a>(container: &At<'a>, volumes: &VolumeNames<'_>, names: &mut BTreeSet<&'a str>, causes: &mut Vec<Cause>) {
    let name = container.field("name");
    if name.is_empty() {
        causes.push(name.required(""));
    } else {
        causes.extend(name.invalid_for(dns_label_faults(name.text())));
        if !names.insert(name.text()) {
            causes.push(name.duplicate());
        }
    }
    check_image(&container.field("image"), causes);
    check_one_of(&container.field("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], causes);
    check_one_of(&container.field("terminationMessagePolicy"), &["FallbackToLogsOnError", "File"], causes);
    check_ports(&container.field("ports"), causes);
    env::check(container, causes);
    check_mounts(container, volumes, causes);
    resources::check(&container.field("resources"), causes);
    security::check_container(&container.field("securityContext"), causes);
}

fn check_image(image: &At<'_>, causes: &mut Vec<Cause>) {
    if image.is_empty() {
        causes.push(image.required(""));
    } else if image.text().trim() != image.text() {
        causes.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn check_ports(ports: &At<'_>, causes: &mut Vec<Cause>) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.field("name");
        if !name.is_empty() {
            causes.extend(name.invalid_for(port_name_faults(name.text())));
            if !names.insert(name.text()) {
                causes.push(name.duplicate());
            }
        }
        let number = port.field("containerPort");
        match number.number() {
            None | Some(0) => causes.push(number.required("")),
            Some(_) => check_range(&number, 1, 65_535, causes),
        }
        if port.field("hostPort").number() != Some(0) {
            check_range(&port.field("hostPort"), 1, 65_535, causes);
        }
        check_one_of(&port.field("protocol"), &["SCTP", "TCP", "UDP"], causes);
    }
}

fn check_host_ports(container: &At<'_>, spec: &At<'_>, taken: &mut BTreeSet<String>, causes: &mut Vec<Cause>) {
    for port in container.field("ports").items() {
        let host_port = port.field("hostPort");
        let Some(number) = host_port.number().filter(|number| *number != 0) else { continue };
        if spec.field("hostNetwork").is_true() && port.field("containerPort").number() != Some(number) {
            let container_port = port.field("containerPort");
            causes.push(container_port.invalid("must match `hostPort` when `hostNetwork` is true"));
        }
        let address = port.field("hostIP").text();
        let identity = format!("{}/{address}/{number}", port.field("protocol").text());
        if !taken.insert(identity.clone()) {
            causes.push(At { value: &json!(identity), path: host_port.path.clone() }.duplicate());
        }
    }
}

/// An init container ends before the others start, unless it is one that keeps running beside them.
fn check_init(container: &At<'_>, spec: &At<'_>, causes: &mut Vec<Cause>) {
    let policy = container.field("restartPolicy");
    if policy.text() == "Always" {
        probes::check_all(container, spec, causes);
        return;
    }
    check_one_of(&policy, &["Always", "OnFailure", "Never"], causes);
    for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let field = container.field(name);
        if field.value != &Value::Null {
            causes.push(field.forbidden(NO_PROBES));
        }
    }
}
