//! What a pod's specification gets where the user says nothing.

use serde_json::{Value, json};

use crate::json::{child, fill, is_true, items_mut, text};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// 0644: files of volumes are readable by all and writable by their owner.
const FILE_MODE: i64 = 0o644;

/// Fills a pod's specification; the same for a pod and for a template.
pub(in crate::kinds) fn default(spec: &mut Value) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "securityContext", json!({}));
    fill(spec, "schedulerName", "default-scheduler");
    name_service_account_twice(spec);
    let is_on_host_network = is_true(spec, "/hostNetwork");
    for list in CONTAINER_LISTS {
        for container in items_mut(spec, list) {
            default_container(container);
            if is_on_host_network {
                use_host_ports(container);
            }
        }
    }
    items_mut(spec, "volumes").for_each(default_volume);
}

/// In a pod, though not in a template, a limit is also a request where no request is given.
pub(in crate::kinds) fn default_requests(spec: &mut Value) {
    for list in CONTAINER_LISTS {
        for container in items_mut(spec, list) {
            let Some(Value::Object(limits)) = container.pointer("/resources/limits").cloned() else { continue };
            let requests = child(child(container, "resources"), "requests");
            limits.into_iter().for_each(|(resource, limit)| fill(requests, &resource, limit));
        }
    }
}

/// The deprecated field has the same value as the one that replaced it.
fn name_service_account_twice(spec: &mut Value) {
    let [new, old] = ["/serviceAccountName", "/serviceAccount"].map(|pointer| text(spec, pointer).to_owned());
    match (new.is_empty(), old.is_empty()) {
        (false, _) => crate::json::set(spec, "serviceAccount", new),
        (true, false) => fill(spec, "serviceAccountName", old),
        (true, true) => {}
    }
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(text(container, "/image"));
    fill(container, "imagePullPolicy", policy);
    fill(container, "resources", json!({}));
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    for port in items_mut(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            fill(reference, "apiVersion", "v1");
        }
        if let Some(reference) = variable.pointer_mut("/valueFrom/resourceFieldRef") {
            fill(reference, "divisor", "0");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            default_probe(probe);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(request) = container.pointer_mut(hook) {
            default_request(request);
        }
    }
}

/// `:latest`, or no tag at all, may be another image tomorrow.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let is_fixed = image.contains('@') || matches!(name.rsplit_once(':'), Some((_, tag)) if tag != "latest");
    if is_fixed { "IfNotPresent" } else { "Always" }
}

fn default_probe(probe: &mut Value) {
    fill(probe, "timeoutSeconds", 1);
    fill(probe, "periodSeconds", 10);
    fill(probe, "successThreshold", 1);
    fill(probe, "failureThreshold", 3);
    if let Some(request) = probe.get_mut("httpGet") {
        default_request(request);
    }
    if let Some(call) = probe.get_mut("grpc") {
        fill(call, "service", "");
    }
}

fn default_request(request: &mut Value) {
    fill(request, "path", "/");
    fill(request, "scheme", "HTTP");
}

fn use_host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            fill(port, "hostPort", number);
        }
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|fields| fields.keys().all(|name| name == "name")) {
        fill(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            fill(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        fill(path, "type", "");
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        default_downward_items(downward);
    }
    if let Some(projected) = volume.get_mut("projected") {
        items_mut(projected, "sources").for_each(default_projection);
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        fill(spec, "volumeMode", "Filesystem");
    }
}

fn default_projection(source: &mut Value) {
    const TOKEN_LIFE_SECONDS: i64 = 3600;
    if let Some(token) = source.get_mut("serviceAccountToken") {
        fill(token, "expirationSeconds", TOKEN_LIFE_SECONDS);
    }
    if let Some(downward) = source.get_mut("downwardAPI") {
        default_downward_items(downward);
    }
}

fn default_downward_items(downward: &mut Value) {
    for item in items_mut(downward, "items") {
        if let Some(reference) = item.get_mut("fieldRef") {
            fill(reference, "apiVersion", "v1");
        }
        if let Some(reference) = item.get_mut("resourceFieldRef") {
            fill(reference, "divisor", "0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_may_change_are_always_pulled() {
        let table = [
            ("app", "Always"),
            ("app:latest", "Always"),
            ("app:1", "IfNotPresent"),
            ("registry.example.com:5000/app", "Always"),
            ("registry.example.com:5000/app:1", "IfNotPresent"),
            ("app@sha256:0000", "IfNotPresent"),
            ("app:latest@sha256:0000", "IfNotPresent"),
        ];
        for (image, expected) in table {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }
}
