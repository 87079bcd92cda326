//! May a pod set these parameters of the kernel? Those that Kubernetes calls safe, which are each pod's own ("Using
//! sysctls in a Kubernetes Cluster").

use k8s_openapi::api::core::v1::Pod;

const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Why the pod may not run for what it sets, if it may not.
#[must_use]
pub fn forbidden(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let (host_network, host_ipc) = (spec.host_network == Some(true), spec.host_ipc == Some(true));
    sysctls.map(|sysctl| sysctl.name.replace('/', ".")).find_map(|name| {
        let why = if !SAFE.contains(&name.as_str()) {
            "not allowlisted"
        } else if host_network && name.starts_with("net.") {
            "not allowed with host net enabled"
        } else if host_ipc && name.starts_with("kernel.") {
            "not allowed with host ipc enabled"
        } else {
            return None;
        };
        Some(format!("forbidden sysctl: {name:?} {why}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_safe_ones_are_allowed_and_only_where_they_are_the_pods() {
        let table = [
            ("net.ipv4.tcp_syncookies", false, None),
            ("net/ipv4/tcp_syncookies", false, None),
            (
                "net.ipv4.tcp_syncookies",
                true,
                Some("forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"),
            ),
            (
                "kernel.shm_rmid_forced",
                true,
                Some("forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
            ("kernel.msgmax", false, Some("forbidden sysctl: \"kernel.msgmax\" not allowlisted")),
        ];
        for (name, is_hosts, expected) in table {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "containers": [], "hostNetwork": is_hosts, "hostIPC": is_hosts,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]},
            }}))
            .expect("a pod");
            assert_eq!(forbidden(&pod).as_deref(), expected, "{name}");
        }
    }
}
