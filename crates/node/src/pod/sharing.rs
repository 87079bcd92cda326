//! What does a pod have in common with its machine, and its containers with each other?

use k8s_openapi::api::core::v1::Pod;

use crate::container::Processes;
use crate::shim::{Sharing, Whose};

/// As the pod's spec says.
pub(crate) fn of_pod(pod: &Pod) -> Sharing {
    let Some(spec) = &pod.spec else { return Sharing::default() };
    let whose = |is_machines: Option<bool>| if is_machines == Some(true) { Whose::Machine } else { Whose::Pod };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    Sharing {
        network: whose(spec.host_network),
        ipc: whose(spec.host_ipc),
        processes: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => Processes::Machine,
            (_, Some(true)) => Processes::Pod,
            _ => Processes::Own,
        },
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
    }
}
