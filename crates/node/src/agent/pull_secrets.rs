//! The credentials that a pod brings for its images: the Secrets that its `imagePullSecrets` name.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;
use tracing::warn;

use super::runtime::chain;
use crate::images::{InvalidCredentials, Keyring};

/// The keyring, and the names of Secrets that can't be had or read.
pub(super) async fn keyring(client: &kube::Client, pod: &Pod) -> (Keyring, Vec<String>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let references = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let (mut keyring, mut missing) = (Keyring::default(), Vec::new());
    for name in references.map(|reference| &reference.name) {
        let of_secret = match api.get_opt(name).await {
            Ok(secret) => secret.as_ref().and_then(read),
            Err(error) => {
                warn!(secret = %name, error = chain(&error), "cannot ask the API for a pull secret");
                None
            }
        };
        match of_secret {
            Some(Ok(of_secret)) => keyring.add(of_secret),
            Some(Err(error)) => {
                warn!(secret = %name, error = chain(&error), "a pull secret can't be read");
                missing.push(name.clone());
            }
            None => missing.push(name.clone()),
        }
    }
    (keyring, missing)
}

/// None for a Secret of another type.
fn read(secret: &Secret) -> Option<Result<Keyring, InvalidCredentials>> {
    let data = secret.data.as_ref()?;
    match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
        (Some(ByteString(json)), _) => Some(Keyring::of_config(json)),
        (None, Some(ByteString(json))) => Some(Keyring::of_legacy_config(json)),
        (None, None) => None,
    }
}
