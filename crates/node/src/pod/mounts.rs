//! What is mounted into a container: its volumes, and the pod's `/etc` files where no volume is in the way.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::{ConfigError, etc_files, termination_message};
use crate::agent::Settings;
use crate::container::{Mount, MountAccess, MountSource};
use crate::volumes::{self, Content};

/// All mounts of a container, outer before inner.
pub(super) fn mounts(
    settings: &Settings,
    pod: &Pod,
    container: &Container,
    id: &str,
) -> Result<Vec<Mount>, ConfigError> {
    let stated = container.volume_mounts.iter().flatten();
    let mut mounts: Vec<Mount> =
        stated.map(|mount| volume_mount(settings, pod, container, mount)).collect::<Result<_, _>>()?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    for (path, target) in etc_files::paths(&etc_directory(settings, uid)) {
        if !mounts.iter().any(|mount| mount.target == Path::new(target)) {
            let source = MountSource::Bind { path };
            mounts.push(Mount { target: target.into(), source, access: MountAccess::ReadWrite });
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
) -> Result<Mount, ConfigError> {
    let place =
        volumes::place(settings, pod, &mount.name).ok_or_else(|| ConfigError::UnknownVolume(mount.name.clone()))?;
    let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    if mount.sub_path_expr.as_deref().is_some_and(|path| !path.is_empty()) {
        return Err(ConfigError::Unsupported("subPathExpr"));
    }
    let source = match (sub_path, place.source, place.content) {
        (None, source, _) => source,
        (Some(sub_path), MountSource::Bind { path }, Content::OurOwn) => {
            MountSource::Bind { path: path_within(&path, sub_path, container, mount)? }
        }
        // A container could swap a link under the path between our look and the mount.
        (Some(_), _, _) => return Err(ConfigError::Unsupported("subPath of a volume that containers write to")),
    };
    let read_only = mount.read_only == Some(true) || place.access == MountAccess::ReadOnly;
    let access = if read_only { MountAccess::ReadOnly } else { MountAccess::ReadWrite };
    Ok(Mount { target: PathBuf::from(&mount.mount_path), source, access })
}

fn path_within(
    volume: &Path,
    sub_path: &str,
    container: &Container,
    mount: &VolumeMount,
) -> Result<PathBuf, ConfigError> {
    let is_plain = Path::new(sub_path).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain {
        return Err(ConfigError::SubPath(sub_path.to_owned()));
    }
    let missing = || ConfigError::SubPathMissing {
        volume: mount.name.clone(),
        container: container.name.clone(),
        path: sub_path.to_owned(),
    };
    let root = volume.canonicalize().map_err(|_| missing())?;
    let path = root.join(sub_path).canonicalize().map_err(|_| missing())?;
    if path.starts_with(&root) { Ok(path) } else { Err(missing()) }
}
