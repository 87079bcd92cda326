//! How does a pod become processes? Its object, its image and what it refers to become one [`ContainerConfig`] for
//! each container. Pure but for reading the image's accounts; starting it is the runtime's business.

mod confinement;
pub(crate) mod downward;
pub(crate) mod environment;
pub(crate) mod etc_files;
mod expansion;
pub(crate) mod limits;
mod mounts;
pub(crate) mod references;
pub(crate) mod service_links;
pub(crate) mod sharing;
pub(crate) mod termination_message;
pub(crate) mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};
use oci_spec::image::Config;
use sha2::{Digest, Sha256};

use crate::agent::Settings;
use crate::container::{CapabilityChange, ContainerConfig, Overlay, RootAccess};
use crate::images::Image;
use downward::Facts;
use environment::Environment;
pub(crate) use mounts::etc_directory;
use references::{MissingReference, References};

/// Everything a container is made from.
pub(crate) struct Ingredients<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: i32,
    pub(crate) image: &'a Image,
    pub(crate) references: &'a References,
    pub(crate) services: &'a BTreeMap<String, String>,
    pub(crate) facts: Facts<'a>,
}

/// What keeps a container from being configured; all are shown as `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Reference(#[from] MissingReference),
    #[error("unsupported field reference {0:?}: name a field such as metadata.name or status.podIP")]
    UnsupportedField(String),
    #[error("unsupported resource reference {0:?}: name one such as limits.cpu or requests.memory")]
    UnsupportedResource(String),
    #[error("a variable's valueFrom is of a kind that Segue does not know")]
    UnsupportedSource,
    #[error("container {0} is not in the pod")]
    UnknownContainer(String),
    #[error("unable to find user {0}: it is neither a number nor in the image's /etc/passwd and /etc/group")]
    UnknownUser(String),
    #[error("container has runAsNonRoot and image will run as root {whose}")]
    ImageRunsAsRoot { whose: String },
    #[error("container's runAsUser breaks non-root policy {whose}")]
    RunsAsRoot { whose: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whose}"
    )]
    UserNotNumeric { user: String, whose: String },
    #[error("no command specified: neither the container nor its image names one")]
    NoCommand,
    #[error("{0} is not supported by Segue yet; take it out of the pod's spec")]
    Unsupported(&'static str),
    #[error("cannot follow seccomp profile {path:?}: {sentence}")]
    Seccomp { path: PathBuf, sentence: String },
    #[error("volume mount {0:?} names no volume of the pod")]
    UnknownVolume(String),
    #[error("failed to expand subPath for volumeMount {volume:?}: the container has no variable {variable:?}")]
    SubPathVariable { volume: String, variable: String },
    #[error("subPath {0:?} must be a relative path without '..'")]
    SubPath(String),
    #[error(
        "failed to prepare subPath for volumeMount {volume:?} of container {container:?}: {path:?} is not in the volume"
    )]
    SubPathMissing { volume: String, container: String, path: String },
}

/// The container's name in its sandbox.
pub(crate) fn container_id(container: &str, attempt: i32) -> String {
    format!("{container}-{attempt}")
}

/// The container's id in its pod's status: the same for the same run of it, whoever asks.
pub(crate) fn status_id(pod_uid: &str, container: &str, attempt: i32) -> String {
    let digest = Sha256::digest(format!("{pod_uid}/{}", container_id(container, attempt)));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("segue://{hex}")
}

/// `name_namespace(uid)`, as Kubernetes' messages name a pod.
pub(crate) fn full_name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}_{}({})", text(&metadata.name), text(&metadata.namespace), text(&metadata.uid))
}

/// Makes the configuration of one run of a container.
pub(crate) fn container_config(from: &Ingredients<'_>) -> Result<ContainerConfig, ConfigError> {
    refuse_unsupported(from)?;
    let Ingredients { settings, pod, container, attempt, image, .. } = *from;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let image_config = image.config.config().clone().unwrap_or_default();
    let environment = environment::resolve(pod, container, from.services, from.references, &from.facts)?;
    let accounts = user::Accounts::read(&image.layers);
    let image_user = image_config.user().clone().unwrap_or_default();
    let id = container_id(&container.name, attempt);
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: u32::try_from(attempt).unwrap_or(0),
        rootfs: overlay(&settings.pod_data_dir(uid).join("containers").join(&id), image),
        args: args(container, &image_config, &environment)?,
        env: env(&image_config, &environment),
        cwd: cwd(container, &image_config),
        user: user::resolve(pod, container, &image_user, &accounts)?,
        mounts: mounts::mounts(settings, pod, container, &id, &environment)?,
        limits: limits::of_container(container),
        oom_score_adj: Some(limits::oom_score_adj(pod, container, from.facts.capacity)),
        root: root_access(container.security_context.as_ref()),
        capabilities: capabilities(container.security_context.as_ref()),
        confinement: confinement::of_container(settings, pod, container)?,
        stop_signal: stop_signal(container, &image_config),
        log_path: settings.log_path(uid, &container.name, attempt),
        id,
    })
}

fn refuse_unsupported(from: &Ingredients<'_>) -> Result<(), ConfigError> {
    let security = from.container.security_context.as_ref();
    let of_pod = from.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let is_unmasked = security.and_then(|it| it.proc_mount.as_deref()) == Some("Unmasked");
    let app_armor = security.and_then(|it| it.app_armor_profile.as_ref());
    let app_armor = app_armor.or(of_pod.and_then(|it| it.app_armor_profile.as_ref()));
    let table = [
        (from.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false), "hostUsers: false"),
        (is_unmasked, "procMount: Unmasked"),
        (app_armor.is_some_and(|profile| profile.type_ == "Localhost"), "an AppArmor profile of type Localhost"),
    ];
    match table.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(ConfigError::Unsupported(what)),
        None => Ok(()),
    }
}

fn overlay(directory: &std::path::Path, image: &Image) -> Overlay {
    Overlay { lower: image.layers.clone(), upper: directory.join("upper"), work: directory.join("work") }
}

/// The container's command replaces the image's entrypoint and command; its args only the image's command.
fn args(container: &Container, image: &Config, environment: &Environment) -> Result<Vec<String>, ConfigError> {
    let expanded = |words: &Option<Vec<String>>| -> Option<Vec<String>> {
        let words = words.as_ref().filter(|words| !words.is_empty())?;
        Some(words.iter().map(|word| expansion::expand(word, |name| environment.get(name))).collect())
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let image_args = image.cmd().clone().unwrap_or_default();
    let words: Vec<String> = match (command, args) {
        (Some(command), args) => command.into_iter().chain(args.unwrap_or_default()).collect(),
        (None, args) => {
            let entrypoint = image.entrypoint().clone().unwrap_or_default();
            entrypoint.into_iter().chain(args.unwrap_or(image_args)).collect()
        }
    };
    if words.is_empty() { Err(ConfigError::NoCommand) } else { Ok(words) }
}

/// Later ones win, so the image's come first.
fn env(image: &Config, environment: &Environment) -> Vec<String> {
    image.env().clone().unwrap_or_default().into_iter().chain(environment.lines()).collect()
}

fn cwd(container: &Container, image: &Config) -> PathBuf {
    let stated = container.working_dir.clone().filter(|directory| !directory.is_empty());
    stated
        .or_else(|| image.working_dir().clone())
        .filter(|directory| !directory.is_empty())
        .map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn root_access(security: Option<&SecurityContext>) -> RootAccess {
    match security.and_then(|security| security.read_only_root_filesystem) {
        Some(true) => RootAccess::ReadOnly,
        Some(false) | None => RootAccess::ReadWrite,
    }
}

fn capabilities(security: Option<&SecurityContext>) -> CapabilityChange {
    let change = security.and_then(|security| security.capabilities.clone()).unwrap_or_default();
    CapabilityChange { add: change.add.unwrap_or_default(), drop: change.drop.unwrap_or_default() }
}

fn stop_signal(container: &Container, image: &Config) -> Option<String> {
    let stated = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    stated.or_else(|| image.stop_signal().clone()).filter(|signal| !signal.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ConfigBuilder;
    use serde_json::{Value, json};

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_container_overrides_what_the_image_would_run() {
        let image = ConfigBuilder::default()
            .entrypoint(vec!["/entry".to_owned()])
            .cmd(vec!["serve".to_owned()])
            .build()
            .unwrap();
        let mut environment = Environment::default();
        environment.set("PORT".to_owned(), "80".to_owned());
        let table = [
            (json!({"name": "c"}), vec!["/entry", "serve"]),
            (json!({"name": "c", "args": ["$(PORT)"]}), vec!["/entry", "80"]),
            (json!({"name": "c", "command": ["/own"]}), vec!["/own"]),
            (json!({"name": "c", "command": ["/own"], "args": ["-p", "$(PORT)"]}), vec!["/own", "-p", "80"]),
        ];
        for (value, expected) in table {
            assert_eq!(args(&container(value.clone()), &image, &environment).unwrap(), expected, "{value}");
        }
        let nothing = args(&container(json!({"name": "c"})), &Config::default(), &environment);
        assert_eq!(nothing, Err(ConfigError::NoCommand));
    }

    #[test]
    fn ids_tell_runs_apart() {
        let first = status_id("uid", "web", 0);
        assert_eq!(first.len(), "segue://".len() + 64);
        assert_eq!(first, status_id("uid", "web", 0));
        assert_ne!(first, status_id("uid", "web", 1));
        assert_ne!(first, status_id("other", "web", 0));
    }
}
