//! Writing what follows: conditions of pods, and where Services are reached. Every write names the object it was decided
//! for, so that a late one changes nothing.

use std::collections::BTreeSet;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::api::core;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::book::{Condition, Transition};
use super::ingress::IngressStatus;
use super::load_balancers::BalancerStatus;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// The pod has changed or is gone: its next version is looked at afresh.
    Stale,
    Failed,
}

/// Writes a condition to a pod that is still as it was.
pub(super) async fn write_condition(client: Client, condition: Condition) -> (Condition, Written) {
    let pods: Api<Pod> = Api::namespaced(client, &condition.namespace);
    let patch = Patch::Strategic(patch(&condition, Timestamp::now()));
    let written = match pods.patch_status(&condition.pod, &PatchParams::default(), &patch).await {
        Ok(_) => Written::Done,
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Written::Stale,
        Err(error) => {
            tracing::warn!("can't write {} of pod {}/{}: {error}", condition.type_, condition.namespace, condition.pod);
            Written::Failed
        }
    };
    (condition, written)
}

/// Writes that the policies are in force for a pod, if the API holds none but those that were known then.
pub(super) async fn write_guarded(
    client: Client,
    condition: Condition,
    known: BTreeSet<Option<String>>,
) -> (Condition, Written) {
    match Api::<NetworkPolicy>::all(client.clone()).list(&ListParams::default()).await {
        Ok(policies) if policies.items.iter().all(|policy| known.contains(&policy.metadata.resource_version)) => {
            write_condition(client, condition).await
        }
        Ok(_) => (condition, Written::Failed),
        Err(error) => {
            tracing::warn!("can't list NetworkPolicies: {error}");
            (condition, Written::Failed)
        }
    }
}

fn patch(condition: &Condition, now: Timestamp) -> Value {
    let mut written = json!({
        "type": condition.type_, "status": condition.status,
        "reason": condition.reason, "message": condition.message,
    });
    if condition.transition == Transition::NewStatus {
        written["lastTransitionTime"] = json!(Time(now));
    }
    json!({
        "metadata": {"uid": condition.uid, "resourceVersion": condition.resource_version},
        "status": {"conditions": [written]},
    })
}

/// Writes the address of a load balancer to a Service that is still as it was.
pub(super) async fn write_balancer(client: Client, status: BalancerStatus) -> (BalancerStatus, Written) {
    let services: Api<core::v1::Service> = Api::namespaced(client, &status.namespace);
    let points = status.address.map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
    let metadata = json!({"uid": status.uid, "resourceVersion": status.resource_version});
    let written = write_points(&services, &status.name, metadata, points.into_iter().collect()).await;
    (status, written)
}

/// Writes where an Ingress is reached, if it is still as it was.
pub(super) async fn write_ingress(client: Client, status: IngressStatus) -> (IngressStatus, Written) {
    let ingresses: Api<Ingress> = Api::namespaced(client, &status.namespace);
    let metadata = json!({"uid": status.uid, "resourceVersion": status.resource_version});
    let written = write_points(&ingresses, &status.name, metadata, vec![json!({"ip": status.address})]).await;
    (status, written)
}

async fn write_points<K>(api: &Api<K>, name: &str, metadata: Value, points: Vec<Value>) -> Written
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let patch = json!({"metadata": metadata, "status": {"loadBalancer": {"ingress": points}}});
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Written::Done,
        Err(kube::Error::Api(refused)) if refused.code == 409 || refused.code == 404 => Written::Stale,
        Err(error) => {
            tracing::warn!("can't write the status of {} {name}: {error}", K::kind(&()));
            Written::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PodUid;

    #[test]
    fn a_condition_is_written_only_to_the_pod_it_was_decided_for() {
        let mut condition = Condition {
            namespace: "production".to_owned(),
            pod: "demo-app-1".to_owned(),
            uid: PodUid("u1".to_owned()),
            resource_version: "7".to_owned(),
            type_: "segue.dev/Routed",
            status: "True",
            reason: "Acknowledged",
            message: String::new(),
            transition: Transition::NewStatus,
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let written = patch(&condition, now);
        assert_eq!(written["metadata"], json!({"uid": "u1", "resourceVersion": "7"}));
        assert_eq!(written["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        condition.transition = Transition::SameStatus;
        assert_eq!(patch(&condition, now)["status"]["conditions"][0].get("lastTransitionTime"), None);
    }
}
