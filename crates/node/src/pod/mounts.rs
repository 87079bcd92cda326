//! What is mounted into a container: its volumes, and the pod's `/etc` files where no volume is in the way.

use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::environment::Environment;
use super::{ConfigError, etc_files, expansion, termination_message};
use crate::agent::Settings;
use crate::container::{Mount, MountAccess, MountSource};
use crate::volumes::{self, Content};

/// All mounts of a container, outer before inner.
pub(super) fn mounts(
    settings: &Settings,
    pod: &Pod,
    container: &Container,
    id: &str,
    environment: &Environment,
) -> Result<Vec<Mount>, ConfigError> {
    let stated = container.volume_mounts.iter().flatten();
    let mut mounts: Vec<Mount> =
        stated.map(|mount| volume_mount(settings, pod, container, mount, environment)).collect::<Result<_, _>>()?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for (path, target) in etc_files::paths(&etc_directory(settings, uid)) {
        if !mounts.iter().any(|mount| mount.target == Path::new(target)) {
            let source = MountSource::Bind { path };
            mounts.push(Mount { target: target.into(), source, sub_path: None, access: MountAccess::ReadWrite });
        }
    }
    mounts.extend(termination_message::mount(settings, uid, container, id));
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// Where the pod's `/etc` files are.
pub(crate) fn etc_directory(settings: &Settings, uid: &str) -> PathBuf {
    settings.pod_run_dir(uid).join("etc")
}

fn volume_mount(
    settings: &Settings,
    pod: &Pod,
    container: &Container,
    mount: &VolumeMount,
    environment: &Environment,
) -> Result<Mount, ConfigError> {
    let place =
        volumes::place(settings, pod, &mount.name).ok_or_else(|| ConfigError::UnknownVolume(mount.name.clone()))?;
    let (source, sub_path) = match (sub_path(mount, environment)?, place.source, place.content) {
        (None, source, _) => (source, None),
        (Some(sub_path), MountSource::Bind { path }, Content::OurOwn) => {
            (MountSource::Bind { path: path_within(&path, &sub_path, container, mount)? }, None)
        }
        // A container could swap a link under the path between a look and the mount.
        (Some(sub_path), source, _) => (source, Some(PathBuf::from(sub_path))),
    };
    let read_only = mount.read_only == Some(true) || place.access == MountAccess::ReadOnly;
    let access = if read_only { MountAccess::ReadOnly } else { MountAccess::ReadWrite };
    Ok(Mount { target: PathBuf::from(&mount.mount_path), source, sub_path, access })
}

fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, ConfigError> {
    let path = match mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty()) {
        None => mount.sub_path.clone().unwrap_or_default(),
        Some(expression) => {
            let missing = RefCell::new(None);
            let expanded = expansion::expand(expression, |name| {
                let value = environment.get(name);
                if value.is_none() {
                    missing.replace(Some(name.to_owned()));
                }
                value
            });
            if let Some(variable) = missing.take() {
                return Err(ConfigError::SubPathVariable { volume: mount.name.clone(), variable });
            }
            expanded
        }
    };
    let is_plain = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain { Ok(Some(path).filter(|path| !path.is_empty())) } else { Err(ConfigError::SubPath(path)) }
}

fn path_within(
    volume: &Path,
    sub_path: &str,
    container: &Container,
    mount: &VolumeMount,
) -> Result<PathBuf, ConfigError> {
    let missing = || ConfigError::SubPathMissing {
        volume: mount.name.clone(),
        container: container.name.clone(),
        path: sub_path.to_owned(),
    };
    let root = volume.canonicalize().map_err(|_| missing())?;
    let path = root.join(sub_path).canonicalize().map_err(|_| missing())?;
    if path.starts_with(&root) { Ok(path) } else { Err(missing()) }
}
