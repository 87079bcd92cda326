//! What a container may be told about its own pod: fields and resources, by the paths that Kubernetes gives them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use objects::pods::Resources;
use objects::quantity;

use super::ConfigError;

/// What the pod's object may not say yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) node_name: &'a str,
    pub(crate) pod_ip: Ipv4Addr,
    pub(crate) host_ip: Ipv4Addr,
    /// What the machine has to give; stands in for limits that are not set.
    pub(crate) capacity: Resources,
}

impl Facts<'_> {
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Facts {
            node_name: "box",
            pod_ip: Ipv4Addr::new(10, 44, 0, 2),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            capacity: Resources { cpu_millis: 2000, memory_bytes: 1 << 30 },
        }
    }
}

/// The value of a field such as `metadata.name` or `metadata.labels['app']`.
pub(crate) fn field(pod: &Pod, path: &str, facts: &Facts<'_>) -> Result<String, ConfigError> {
    let metadata = &pod.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(entry(metadata.labels.as_ref(), key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(entry(metadata.annotations.as_ref(), key));
    }
    match path {
        "metadata.name" => Ok(text(&metadata.name)),
        "metadata.namespace" => Ok(text(&metadata.namespace)),
        "metadata.uid" => Ok(text(&metadata.uid)),
        "metadata.labels" => Ok(listed(metadata.labels.as_ref())),
        "metadata.annotations" => Ok(listed(metadata.annotations.as_ref())),
        "spec.nodeName" => Ok(facts.node_name.to_owned()),
        "spec.serviceAccountName" => {
            let named = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
            Ok(named.unwrap_or_else(|| "default".to_owned()))
        }
        "status.podIP" | "status.podIPs" => Ok(facts.pod_ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Ok(facts.host_ip.to_string()),
        _ => Err(ConfigError::UnsupportedField(path.to_owned())),
    }
}

/// The amount of a resource such as `limits.cpu`, in units of the selector's divisor, rounded up.
pub(crate) fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    facts: &Facts<'_>,
) -> Result<String, ConfigError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty() && *name != container.name);
    let others =
        || pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let container = match named {
        None => container,
        Some(name) => {
            others().find(|other| other.name == name).ok_or_else(|| ConfigError::UnknownContainer(name.to_owned()))?
        }
    };
    let resources = container.resources.clone().unwrap_or_default();
    let amount = |amounts: &Option<BTreeMap<String, Quantity>>, name: &str| amounts.as_ref()?.get(name).cloned();
    let (millis, whole) = match selector.resource.as_str() {
        "limits.cpu" => (amount(&resources.limits, "cpu").map(|q| quantity::cpu_millis(&q)), facts.capacity.cpu_millis),
        "requests.cpu" => (amount(&resources.requests, "cpu").map(|q| quantity::cpu_millis(&q)), 0),
        "limits.memory" => {
            return Ok(bytes(amount(&resources.limits, "memory"), facts.capacity.memory_bytes, selector));
        }
        "requests.memory" => return Ok(bytes(amount(&resources.requests, "memory"), 0, selector)),
        other => return Err(ConfigError::UnsupportedResource(other.to_owned())),
    };
    let divisor = divisor(selector).map_or(1000, |divisor| quantity::cpu_millis(&divisor));
    Ok(divided(millis.unwrap_or(whole), divisor))
}

fn bytes(amount: Option<Quantity>, default: i64, selector: &ResourceFieldSelector) -> String {
    let divisor = divisor(selector).map_or(1, |divisor| quantity::bytes(&divisor));
    divided(amount.map_or(default, |amount| quantity::bytes(&amount)), divisor)
}

fn divisor(selector: &ResourceFieldSelector) -> Option<Quantity> {
    selector.divisor.clone().filter(|divisor| !divisor.0.is_empty() && divisor.0 != "0")
}

fn divided(amount: i64, divisor: i64) -> String {
    let divisor = divisor.max(1);
    let rounded_up = amount / divisor + i64::from(amount % divisor > 0);
    rounded_up.to_string()
}

fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

fn entry(map: Option<&BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|map| map.get(key)).cloned().unwrap_or_default()
}

/// As files of a downwardAPI volume show a map.
fn listed(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web", "x/y": "z"}},
            "spec": {"containers": [{"name": "c", "resources": {
                "requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "1Gi"},
            }}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_are_found_by_their_paths() {
        let table = [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels['x/y']", "z"),
            ("metadata.annotations['none']", ""),
            ("metadata.labels", "app=\"web\"\nx/y=\"z\""),
            ("spec.nodeName", "box"),
            ("spec.serviceAccountName", "default"),
            ("status.podIP", "10.44.0.2"),
            ("status.hostIP", "192.0.2.1"),
        ];
        for (path, expected) in table {
            assert_eq!(field(&pod(), path, &Facts::for_tests()).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), "spec.hostname", &Facts::for_tests()).is_err());
    }

    #[test]
    fn resources_are_rounded_up_in_units_of_the_divisor() {
        let table = [
            ("requests.cpu", "", "1"),
            ("requests.cpu", "1m", "250"),
            ("limits.cpu", "1", "2"),
            ("limits.memory", "1Mi", "1024"),
            ("requests.memory", "", "67108864"),
        ];
        for (name, divisor, expected) in table {
            let selector = ResourceFieldSelector {
                resource: name.to_owned(),
                divisor: Some(Quantity(divisor.to_owned())),
                container_name: None,
            };
            let pod = pod();
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let amount = resource(&pod, container, &selector, &Facts::for_tests()).unwrap();
            assert_eq!(amount, expected, "{name} in {divisor:?}");
        }
    }
}
