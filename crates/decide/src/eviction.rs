//! Does a pod use more of the machine's disk than it may? The sentences are those of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use objects::quantity;

const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

/// What a pod has on disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Of each emptyDir that is not in memory, by the volume's name.
    pub empty_dirs: BTreeMap<String, u64>,
    /// What each container wrote into its root filesystem and its logs, by its name.
    pub containers: BTreeMap<String, u64>,
}

/// Whether it is worth measuring what a pod has on disk.
#[must_use]
pub fn limits_disk(pod: &Pod) -> bool {
    empty_dir_limits(pod).next().is_some() || containers(pod).any(|container| limit_of(container).is_some())
}

/// Why the pod is to be evicted for what it has on disk, if it is.
#[must_use]
pub fn over_disk_limit(pod: &Pod, usage: &DiskUsage) -> Option<String> {
    let exceeds = |used: Option<&u64>, limit: &Quantity| used.is_some_and(|used| *used > bytes(limit));
    for (volume, limit) in empty_dir_limits(pod) {
        if exceeds(usage.empty_dirs.get(volume), limit) {
            return Some(format!("Usage of EmptyDir volume {volume:?} exceeds the limit {:?}. ", limit.0));
        }
    }
    let limits: Vec<(&Container, Option<&Quantity>)> =
        containers(pod).map(|container| (container, limit_of(container))).collect();
    let whole = limits.iter().try_fold(0_u64, |sum, (_, limit)| Some(sum.saturating_add(bytes((*limit)?))));
    let used: u64 = usage.empty_dirs.values().chain(usage.containers.values()).sum();
    if let Some(whole) = whole.filter(|whole| used > *whole) {
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {whole}. "));
    }
    limits.into_iter().find_map(|(container, limit)| {
        let (name, limit) = (&container.name, limit?);
        let message = || format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0);
        exceeds(usage.containers.get(name), limit).then(message)
    })
}

fn empty_dir_limits(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let empty_dir = volume.empty_dir.as_ref()?;
        let limit = empty_dir.size_limit.as_ref().filter(|limit| bytes(limit) > 0)?;
        // Memory is limited by the kernel.
        (empty_dir.medium.as_deref() != Some("Memory")).then_some((volume.name.as_str(), limit))
    })
}

/// Those that run as long as the pod; what init containers wrote counts with the pod.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

fn limit_of(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(EPHEMERAL_STORAGE)
}

fn bytes(quantity: &Quantity) -> u64 {
    u64::try_from(quantity::bytes(quantity)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn message(spec: Value, scratch: u64, c: u64) -> Option<String> {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
        let usage = DiskUsage {
            empty_dirs: [("scratch".to_owned(), scratch)].into(),
            containers: [("c".to_owned(), c), ("sidecar".to_owned(), 0)].into(),
        };
        assert!(limits_disk(&pod), "{pod:?}");
        over_disk_limit(&pod, &usage)
    }

    #[test]
    fn each_limit_is_kept() {
        let limited = |limit: &str| json!({"limits": {"ephemeral-storage": limit}});
        let scratch = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
        let of_volume = json!({"containers": [{"name": "c"}], "volumes": scratch});
        let of_container = json!({"containers": [{"name": "c", "resources": limited("2Mi")}, {"name": "sidecar"}]});
        let of_pod = json!({"containers": [{"name": "c", "resources": limited("2Mi")}, {"name": "sidecar", "resources": limited("1Mi")}]});
        let table = [
            (&of_volume, 1 << 20, 9 << 20, None),
            (&of_volume, (1 << 20) + 1, 0, Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ")),
            (&of_container, 9 << 20, 2 << 20, None),
            (&of_container, 0, 3 << 20, Some("Container c exceeded its local ephemeral storage limit \"2Mi\". ")),
            (
                &of_pod,
                2 << 20,
                2 << 20,
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 3145728. "),
            ),
        ];
        for (spec, scratch, c, expected) in table {
            assert_eq!(message(spec.clone(), scratch, c).as_deref(), expected, "{spec} {scratch} {c}");
        }
    }

    #[test]
    fn what_nobody_limits_is_not_measured() {
        let memory = json!([{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}], "volumes": memory}})).expect("a pod");
        assert!(!limits_disk(&pod));
    }
}
