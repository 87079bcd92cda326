//! The source document's manifests with the demonstration's overlay on them, as `kubectl apply -k demo/overlay` has them.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Service};
use serde::de::DeserializeOwned;

use super::DemoError;

pub(super) const NAMESPACE: &str = "production";
pub(super) const NAME: &str = "tailscale-mesh-zero-downtime-deployment";
pub(super) const SELECTOR: &str = "app=tailscale-mesh-zero-downtime-deployment";
pub(super) const CONTAINER: &str = "app";

const DEPLOYMENT: File = (
    "document/manifests/base/deployment.yaml",
    include_str!("../../../../demo/document/manifests/base/deployment.yaml"),
);
const SERVICE: File =
    ("document/manifests/base/service.yaml", include_str!("../../../../demo/document/manifests/base/service.yaml"));
const AUTOSCALER: File =
    ("document/manifests/base/hpa.yaml", include_str!("../../../../demo/document/manifests/base/hpa.yaml"));
const OVERLAY: File = ("overlay/deployment.yaml", include_str!("../../../../demo/overlay/deployment.yaml"));

/// Its path in `demo/` and its text.
type File = (&'static str, &'static str);

#[derive(Clone, Debug)]
pub(super) struct Manifests {
    pub(super) namespace: Namespace,
    pub(super) deployment: Deployment,
    pub(super) service: Service,
    pub(super) autoscaler: HorizontalPodAutoscaler,
}

pub(super) fn in_a_hurry(image: &str) -> Result<Manifests, DemoError> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    let mut deployment: Deployment = parse(DEPLOYMENT)?;
    deployment.merge_from(parse(OVERLAY)?);
    let template = &mut deployment.spec.get_or_insert_default().template;
    for container in &mut template.spec.get_or_insert_default().containers {
        container.image = Some(image.to_owned());
    }
    Ok(Manifests { namespace, deployment, service: parse(SERVICE)?, autoscaler: parse(AUTOSCALER)? })
}

fn parse<K: DeserializeOwned>((file, text): File) -> Result<K, DemoError> {
    serde_saphyr::from_str(text).map_err(|source| DemoError::Manifest { file, source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_overlay_shortens_probes_and_requests_and_leaves_the_rest_of_the_document() {
        let manifests = in_a_hurry("app:v1").unwrap();
        let deployment: Value = serde_json::to_value(&manifests.deployment).unwrap();
        let spec = &deployment["spec"];
        assert_eq!(spec["replicas"], 3);
        assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
        assert_eq!(spec["template"]["metadata"]["annotations"]["prometheus.io/port"], "9090");
        let containers = spec["template"]["spec"]["containers"].as_array().unwrap();
        let [app] = &containers[..] else { panic!("one container, not {containers:?}") };
        assert_eq!(app["image"], "app:v1");
        assert_eq!(app["ports"].as_array().unwrap().len(), 2);
        assert_eq!(app["resources"]["limits"], json!({"cpu": "1000m", "memory": "1Gi"}));
        assert_eq!(app["resources"]["requests"], json!({"cpu": "20m", "memory": "16Mi"}));
        assert_eq!(app["readinessProbe"]["periodSeconds"], 1);
        assert_eq!(app["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": 8080}));
    }

    #[test]
    fn the_names_used_by_the_story_are_the_documents() {
        let Manifests { deployment, service, autoscaler, .. } = in_a_hurry("app:v1").unwrap();
        assert_eq!(deployment.metadata.namespace.as_deref(), Some(NAMESPACE));
        for metadata in [&deployment.metadata, &service.metadata, &autoscaler.metadata] {
            assert_eq!(metadata.name.as_deref(), Some(NAME));
        }
        let selector = service.spec.unwrap().selector.unwrap();
        let terms: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(terms, [SELECTOR]);
    }
}
