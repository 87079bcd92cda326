//! Which empty values the real server does not write back. Its types tell "not given" from "given as zero" for some
//! fields and not for others, which the published schemas don't say; these lists do, as `Type.field`.

use serde_json::Value;

use super::Field;

/// Texts that stay when they are empty, because empty means something.
const KEPT_TEXTS: &[&str] = &[
    "EndpointPort.appProtocol",
    "EndpointPort.name",
    "EndpointPort.protocol",
    "Endpoint.hostname",
    "Endpoint.nodeName",
    "Endpoint.zone",
    "GRPCAction.service",
    "HostPathVolumeSource.type",
    "PersistentVolumeClaimSpec.storageClassName",
    "PersistentVolumeClaimSpec.volumeAttributesClassName",
    "PodDNSConfigOption.value",
    "PodSpec.hostnameOverride",
    "PodSpec.preemptionPolicy",
    "PodSpec.runtimeClassName",
    "ServicePort.appProtocol",
    "ServiceSpec.internalTrafficPolicy",
    "ServiceSpec.loadBalancerClass",
    "ServiceSpec.trafficDistribution",
    "TypedLocalObjectReference.apiGroup",
    "TypedObjectReference.apiGroup",
    // Not optional in the real server's types, although its schema says so.
    "Event.reportingComponent",
    "Event.reportingInstance",
];

/// Flags that go when they are false.
const DROPPED_FLAGS: &[&str] = &[
    "Container.stdin",
    "Container.stdinOnce",
    "Container.tty",
    "DeploymentSpec.paused",
    "EphemeralContainer.stdin",
    "EphemeralContainer.stdinOnce",
    "EphemeralContainer.tty",
    "NFSVolumeSource.readOnly",
    "NodeSpec.unschedulable",
    "PersistentVolumeClaimVolumeSource.readOnly",
    "PodSpec.hostIPC",
    "PodSpec.hostNetwork",
    "PodSpec.hostPID",
    "ServiceSpec.publishNotReadyAddresses",
    "VolumeMount.readOnly",
    "VolumeMountStatus.readOnly",
];

/// Numbers that go when they are zero.
const DROPPED_NUMBERS: &[&str] = &[
    "Condition.observedGeneration",
    "ContainerImage.sizeBytes",
    "ContainerPort.hostPort",
    "ContainerStateTerminated.signal",
    "DeploymentSpec.minReadySeconds",
    "DeploymentStatus.availableReplicas",
    "DeploymentStatus.observedGeneration",
    "DeploymentStatus.readyReplicas",
    "DeploymentStatus.replicas",
    "DeploymentStatus.unavailableReplicas",
    "DeploymentStatus.updatedReplicas",
    "Event.count",
    "EventSeries.count",
    "HorizontalPodAutoscalerStatus.currentReplicas",
    "ObjectMeta.generation",
    "PodCondition.observedGeneration",
    "PodStatus.observedGeneration",
    "Probe.failureThreshold",
    "Probe.initialDelaySeconds",
    "Probe.periodSeconds",
    "Probe.successThreshold",
    "Probe.timeoutSeconds",
    "ReplicaSetSpec.minReadySeconds",
    "ReplicaSetStatus.availableReplicas",
    "ReplicaSetStatus.fullyLabeledReplicas",
    "ReplicaSetStatus.observedGeneration",
    "ReplicaSetStatus.readyReplicas",
    "ScaleSpec.replicas",
    "ServicePort.nodePort",
    "ServiceSpec.healthCheckNodePort",
];

/// Whether a field that holds this value is written as if it were not there.
pub(super) fn is_omitted(type_name: &str, name: &str, field: &Field, value: &Value) -> bool {
    let listed = |names: &[&str]| {
        let short = type_name.rsplit('.').next().unwrap_or(type_name);
        names.iter().any(|listed| listed.split_once('.') == Some((short, name)))
    };
    if field.is_required {
        return false;
    }
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !listed(KEPT_TEXTS),
        Value::Bool(flag) => !flag && listed(DROPPED_FLAGS),
        Value::Number(number) => number.as_i64() == Some(0) && listed(DROPPED_NUMBERS),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && field.shape.is_map(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_listed_field_exists() {
        for listed in KEPT_TEXTS.iter().chain(DROPPED_FLAGS).chain(DROPPED_NUMBERS) {
            let (type_name, field) = listed.split_once('.').unwrap();
            let packages = ["core.v1", "apps.v1", "autoscaling.v1", "autoscaling.v2", "discovery.v1"];
            let mut names: Vec<_> =
                packages.iter().map(|package| format!("io.k8s.api.{package}.{type_name}")).collect();
            names.push(format!("io.k8s.apimachinery.pkg.apis.meta.v1.{type_name}"));
            let found = names.iter().filter_map(|name| schema::of(name)).any(|found| found.fields.contains_key(field));
            assert!(found, "{listed}");
        }
    }
}
