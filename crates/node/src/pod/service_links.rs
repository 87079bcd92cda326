//! Environment variables that tell a container where the Services of its namespace are, as enableServiceLinks asks.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};

/// Whether the pod wants the variables.
pub(crate) fn are_wanted(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true)
}

/// All variables for these Services. Headless ones have none.
pub(crate) fn variables(services: &[Service]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().filter(|address| !matches!(*address, "" | "None"));
        let (Some(address), Some(name)) = (address, &service.metadata.name) else { continue };
        add(&mut variables, &variable_name(name), address, spec.ports.as_deref().unwrap_or_default());
    }
    variables
}

fn add(variables: &mut BTreeMap<String, String>, prefix: &str, address: &str, ports: &[ServicePort]) {
    let Some(first) = ports.first() else { return };
    let mut set = |name: String, value: String| variables.insert(name, value);
    set(format!("{prefix}_SERVICE_HOST"), address.to_owned());
    set(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    set(format!("{prefix}_PORT"), url(address, first));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol(port));
        set(link.clone(), url(address, port));
        set(format!("{link}_PROTO"), protocol(port).to_lowercase());
        set(format!("{link}_PORT"), port.port.to_string());
        set(format!("{link}_ADDR"), address.to_owned());
    }
}

fn url(address: &str, port: &ServicePort) -> String {
    format!("{}://{address}:{}", protocol(port).to_lowercase(), port.port)
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_told_in_both_old_ways() {
        let services: Vec<Service> = serde_json::from_value(json!([
            {"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.45.0.9", "ports": [{"name": "sql", "port": 5432}]}},
            {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
        ]))
        .unwrap();
        let lines: Vec<String> = variables(&services).iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            lines,
            [
                "MY_DB_PORT=tcp://10.45.0.9:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.45.0.9:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.45.0.9",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.45.0.9",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ]
        );
    }
}
