//! The ConfigMaps and Secrets that a pod names, fetched at once and looked up then.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret};
use kube::api::Api;

/// What was found under the names that were asked for; what is absent here does not exist.
#[derive(Debug, Default)]
pub(crate) struct References {
    config_maps: BTreeMap<String, ConfigMap>,
    secrets: BTreeMap<String, Secret>,
}

/// Names to look up in one namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// A reference that leads nowhere, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MissingReference {
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    #[error("secret {0:?} not found")]
    Secret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKey { namespace: String, name: String, key: String },
}

impl Names {
    /// What a container's environment refers to.
    pub(crate) fn of_environment(container: &Container) -> Self {
        let mut names = Self::default();
        for source in container.env_from.iter().flatten() {
            names.config_maps.extend(source.config_map_ref.as_ref().map(|source| source.name.clone()));
            names.secrets.extend(source.secret_ref.as_ref().map(|source| source.name.clone()));
        }
        let sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        for source in sources {
            names.config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
            names.secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
        }
        names
    }
}

impl References {
    /// Asks the API for every name.
    pub(crate) async fn fetch(client: &kube::Client, namespace: &str, names: &Names) -> kube::Result<Self> {
        let mut found = Self::default();
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in &names.config_maps {
            let config_map = config_maps.get_opt(name).await?;
            found.config_maps.extend(config_map.map(|config_map| (name.clone(), config_map)));
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in &names.secrets {
            found.secrets.extend(secrets.get_opt(name).await?.map(|secret| (name.clone(), secret)));
        }
        Ok(found)
    }

    /// All entries of a ConfigMap, its text first.
    pub(crate) fn config_map(&self, name: &str) -> Result<BTreeMap<&str, &[u8]>, MissingReference> {
        let missing = || MissingReference::ConfigMap(name.to_owned());
        let config_map = self.config_maps.get(name).ok_or_else(missing)?;
        let texts = config_map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes()));
        let bytes = config_map.binary_data.iter().flatten().map(|(key, ByteString(bytes))| (key.as_str(), &bytes[..]));
        Ok(texts.chain(bytes).collect())
    }

    /// All entries of a Secret.
    pub(crate) fn secret(&self, name: &str) -> Result<BTreeMap<&str, &[u8]>, MissingReference> {
        let missing = || MissingReference::Secret(name.to_owned());
        let secret = self.secrets.get(name).ok_or_else(missing)?;
        let entries = secret.data.iter().flatten();
        Ok(entries.map(|(key, ByteString(bytes))| (key.as_str(), &bytes[..])).collect())
    }

    #[cfg(test)]
    pub(crate) fn holding(
        config_maps: impl IntoIterator<Item = ConfigMap>,
        secrets: impl IntoIterator<Item = Secret>,
    ) -> Self {
        let name = |name: &Option<String>| name.clone().unwrap();
        Self {
            config_maps: config_maps.into_iter().map(|object| (name(&object.metadata.name), object)).collect(),
            secrets: secrets.into_iter().map(|object| (name(&object.metadata.name), object)).collect(),
        }
    }
}
