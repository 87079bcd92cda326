//! The environment of a container: its literals, and what they and envFrom refer to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};

use super::ConfigError;
use super::downward::{self, Facts};
use super::expansion::expand;
use super::references::{MissingReference, References};

/// Variables in the order in which they were first named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: String, value: String) {
        match self.variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name, value)),
        }
    }

    /// As `NAME=value`.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.variables.iter().map(|(name, value)| format!("{name}={value}"))
    }
}

/// Resolves the environment of one container. `services` stand behind everything that the container says itself.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    services: &BTreeMap<String, String>,
    references: &References,
    facts: &Facts<'_>,
) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    for source in container.env_from.iter().flatten() {
        add_all(&mut environment, source, references)?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, &environment, services, references, facts)? {
            environment.set(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if environment.get(name).is_none() {
            environment.set(name.clone(), value.clone());
        }
    }
    Ok(environment)
}

/// Entries whose name can't be a variable's are left out, as Kubernetes does.
fn add_all(
    environment: &mut Environment,
    source: &EnvFromSource,
    references: &References,
) -> Result<(), MissingReference> {
    let (entries, optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(source), _) => (references.config_map(&source.name), source.optional),
        (None, Some(source)) => (references.secret(&source.name), source.optional),
        (None, None) => return Ok(()),
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err(_) if optional == Some(true) => return Ok(()),
        Err(missing) => return Err(missing),
    };
    let prefix = source.prefix.as_deref().unwrap_or_default();
    for (key, value) in entries {
        let name = format!("{prefix}{key}");
        if is_variable_name(&name) {
            environment.set(name, String::from_utf8_lossy(value).into_owned());
        }
    }
    Ok(())
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    environment: &Environment,
    services: &BTreeMap<String, String>,
    references: &References,
    facts: &Facts<'_>,
) -> Result<Option<String>, ConfigError> {
    match &variable.value_from {
        None => {
            let literal = variable.value.as_deref().unwrap_or_default();
            let known = |name: &str| environment.get(name).or_else(|| services.get(name).map(String::as_str));
            Ok(Some(expand(literal, known)))
        }
        Some(source) => referred(pod, container, source, references, facts),
    }
}

fn referred(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    references: &References,
    facts: &Facts<'_>,
) -> Result<Option<String>, ConfigError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(wanted) = &source.config_map_key_ref {
        let (name, key) = (wanted.name.clone(), wanted.key.clone());
        let missing_key = MissingReference::ConfigMapKey { namespace, name, key };
        let entries = references.config_map(&wanted.name);
        return entry(entries, &wanted.key, wanted.optional, missing_key);
    }
    if let Some(wanted) = &source.secret_key_ref {
        let (name, key) = (wanted.name.clone(), wanted.key.clone());
        let missing_key = MissingReference::SecretKey { namespace, name, key };
        return entry(references.secret(&wanted.name), &wanted.key, wanted.optional, missing_key);
    }
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return downward::resource(pod, container, resource, facts).map(Some);
    }
    Err(ConfigError::UnsupportedSource)
}

fn entry(
    entries: Result<BTreeMap<&str, &[u8]>, MissingReference>,
    key: &str,
    optional: Option<bool>,
    missing_key: MissingReference,
) -> Result<Option<String>, ConfigError> {
    let found = entries.and_then(|entries| entries.get(key).copied().ok_or(missing_key));
    match found {
        Ok(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        Err(_) if optional == Some(true) => Ok(None),
        Err(missing) => Err(missing.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::references::Names;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};

    fn references() -> References {
        let config_map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": "settings"}, "data": {"k": "v", "A": "from map", "a=b": "no"}}),
        )
        .unwrap();
        let secret: Secret =
            serde_json::from_value(json!({"metadata": {"name": "keys"}, "data": {"s": "aGlkZGVu"}})).unwrap();
        References::holding([config_map], [secret])
    }

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "box", "serviceAccountName": "default", "containers": []},
        }))
        .unwrap()
    }

    fn resolved(value: Value) -> Result<Vec<String>, String> {
        let services = BTreeMap::from([("DB_SERVICE_HOST".to_owned(), "10.45.0.9".to_owned())]);
        let environment = resolve(&pod(), &container(value), &services, &references(), &Facts::for_tests());
        environment.map(|environment| environment.lines().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_come_from_everywhere() {
        let lines = resolved(json!({
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "P_", "secretRef": {"name": "keys"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "x$(A)-$$(A)-$(NONE)-$(DB_SERVICE_HOST)"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "s"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}},
            ],
        }));
        assert_eq!(
            lines.unwrap(),
            [
                "A=1",
                "k=v",
                "P_s=hidden",
                "B=x1-$(A)-$(NONE)-10.45.0.9",
                "NAME=p",
                "LABEL=web",
                "SECRET=hidden",
                "DB_SERVICE_HOST=10.45.0.9",
            ]
        );
    }

    #[test]
    fn a_missing_reference_is_told_in_kubernetes_words() {
        let table = [
            (json!({"configMapKeyRef": {"name": "none", "key": "k"}}), "configmap \"none\" not found"),
            (json!({"secretKeyRef": {"name": "none", "key": "k"}}), "secret \"none\" not found"),
            (
                json!({"configMapKeyRef": {"name": "settings", "key": "x"}}),
                "couldn't find key x in ConfigMap n/settings",
            ),
            (json!({"secretKeyRef": {"name": "keys", "key": "x"}}), "couldn't find key x in Secret n/keys"),
        ];
        for (source, message) in table {
            let error = resolved(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err();
            assert_eq!(error, message);
        }
        let error = resolved(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "none"}}]})).unwrap_err();
        assert_eq!(error, "configmap \"none\" not found");
        let lines = resolved(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "none", "optional": true}}]}));
        assert_eq!(lines.unwrap(), ["DB_SERVICE_HOST=10.45.0.9"]);
    }

    #[test]
    fn every_name_is_asked_for() {
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "a"}}, {"secretRef": {"name": "b"}}],
            "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k"}}},
            ],
        }))
        .unwrap();
        let names = Names::of_environment(&container);
        assert_eq!(names.config_maps, ["a", "c"].map(str::to_owned).into());
        assert_eq!(names.secrets, ["b", "d"].map(str::to_owned).into());
    }
}
