//! A pod's volumes: where each one is, and its files. ConfigMaps and Secrets are laid out as Kubernetes does, so that
//! a reader never sees half an update. Secrets are kept below the run directory, which is memory.

mod payload;
mod tokens;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use objects::quantity;

use crate::agent::Settings;
use crate::container::{MountAccess, MountSource};
use crate::pod::references::{MissingReference, Names, References};
use payload::Payload;

/// Before the name of a directory that is being made; no volume's name begins like this.
const UNFINISHED: &str = "..";

/// A volume, as containers mount it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: MountSource,
    pub(crate) access: MountAccess,
    pub(crate) content: Content,
}

/// Who can write to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nobody but us.
    OurOwn,
    /// Containers, or others on the machine.
    Foreign,
}

/// Why a volume is not ready, in Kubernetes' words.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
pub(crate) struct VolumeError {
    volume: String,
    source: SetUpError,
}

/// What went wrong with one volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    #[error(transparent)]
    Reference(#[from] MissingReference),
    #[error("references non-existent config key: {0}")]
    ConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    #[error("path {0:?} must be relative and without '..'")]
    Path(String),
    #[error("hostPath type check failed: {path} is not a {expected}")]
    HostPath { path: String, expected: String },
    #[error("volumes of this kind are not supported by Segue yet; use emptyDir, configMap, secret or hostPath")]
    Unsupported,
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot ask the API for what the volume refers to")]
    Fetch(#[source] kube::Error),
    #[error("cannot get a token of the pod's ServiceAccount")]
    Token(#[source] kube::Error),
    #[error("{0}")]
    Field(#[from] crate::pod::ConfigError),
}

/// What a volume can show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    ConfigMap(String),
    Secret(String),
}

/// Whether a volume of the pod shows this object of its namespace.
pub(crate) fn show(pod: &Pod, shown: &Shown) -> bool {
    volumes(pod).map(names).any(|names| match shown {
        Shown::ConfigMap(name) => names.config_maps.contains(name),
        Shown::Secret(name) => names.secrets.contains(name),
    })
}

/// When a token in one of the pod's volumes is to be replaced.
pub(crate) fn tokens_due(settings: &Settings, pod: &Pod) -> Option<Timestamp> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let due = |volume: &Volume| tokens::first_due(volume, &directory(settings, uid, volume).join(payload::DATA));
    volumes(pod).filter_map(due).min()
}

/// Finds a volume of the pod by name.
pub(crate) fn place(settings: &Settings, pod: &Pod, name: &str) -> Option<Place> {
    let volume = volumes(pod).find(|volume| volume.name == name)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let directory = directory(settings, uid, volume);
    let bind = |path: PathBuf| MountSource::Bind { path };
    let place = match (&volume.empty_dir, &volume.host_path) {
        (Some(empty_dir), _) if is_memory(empty_dir) => {
            let size_bytes = empty_dir.size_limit.as_ref().and_then(|limit| u64::try_from(quantity::bytes(limit)).ok());
            let source = MountSource::PodTmpfs { name: volume.name.clone(), size_bytes: size_bytes.filter(|s| *s > 0) };
            Place { source, access: MountAccess::ReadWrite, content: Content::Foreign }
        }
        (None, Some(host_path)) => Place {
            source: bind(PathBuf::from(&host_path.path)),
            access: MountAccess::ReadWrite,
            content: Content::Foreign,
        },
        (Some(_), _) => Place { source: bind(directory), access: MountAccess::ReadWrite, content: Content::Foreign },
        (None, None) => Place { source: bind(directory), access: MountAccess::ReadOnly, content: Content::OurOwn },
    };
    Some(place)
}

/// Makes every volume of the pod.
pub(crate) async fn prepare(settings: &Settings, client: &kube::Client, pod: &Pod) -> Result<(), VolumeError> {
    set_up_all(settings, client, pod, volumes(pod)).await
}

/// Brings up to date what volumes show; what containers write to is theirs.
pub(crate) async fn refresh(settings: &Settings, client: &kube::Client, pod: &Pod) -> Result<(), VolumeError> {
    let shows = |volume: &&Volume| volume.empty_dir.is_none() && volume.host_path.is_none();
    set_up_all(settings, client, pod, volumes(pod).filter(shows)).await
}

async fn set_up_all(
    settings: &Settings,
    client: &kube::Client,
    pod: &Pod,
    volumes: impl Iterator<Item = &Volume>,
) -> Result<(), VolumeError> {
    for volume in volumes {
        let failed = |source| VolumeError { volume: volume.name.clone(), source };
        set_up(settings, client, pod, volume).await.map_err(failed)?;
    }
    Ok(())
}

async fn set_up(settings: &Settings, client: &kube::Client, pod: &Pod, volume: &Volume) -> Result<(), SetUpError> {
    let directory = directory(settings, pod.metadata.uid.as_deref().unwrap_or_default(), volume);
    if let Some(empty_dir) = &volume.empty_dir {
        return if is_memory(empty_dir) { Ok(()) } else { make_empty_dir(pod, &directory) };
    }
    if let Some(host_path) = &volume.host_path {
        return check_host_path(host_path);
    }
    let names = names(volume);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let references = References::fetch(client, namespace, &names).await.map_err(SetUpError::Fetch)?;
    let now = Timestamp::now();
    let tokens = tokens::fetch(client, pod, volume, &directory.join(payload::DATA), now).await;
    let tokens = tokens.map_err(SetUpError::Token)?;
    let payload = Payload::of(pod, volume, &references, &tokens, &settings.node_name)?;
    payload.write(&directory, fs_group(pod)).map_err(|source| SetUpError::Write { path: directory, source })
}

fn names(volume: &Volume) -> Names {
    let mut config_maps: BTreeSet<String> = volume.config_map.iter().map(|source| source.name.clone()).collect();
    let mut secrets: BTreeSet<String> = volume.secret.iter().filter_map(|source| source.secret_name.clone()).collect();
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
    }
    Names { config_maps, secrets }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

fn directory(settings: &Settings, uid: &str, volume: &Volume) -> PathBuf {
    let is_secret = volume.secret.is_some() || volume.projected.is_some();
    let pod = if is_secret { settings.pod_run_dir(uid) } else { settings.pod_data_dir(uid) };
    pod.join("volumes").join(&volume.name)
}

fn is_memory(empty_dir: &EmptyDirVolumeSource) -> bool {
    empty_dir.medium.as_deref() == Some("Memory")
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let security = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(security.fs_group?).ok()
}

/// Everybody may write to it, as Kubernetes has it; with an fsGroup it belongs to that group. Whose it is by the time that
/// the machine has started again is the containers' affair.
fn make_empty_dir(pod: &Pod, directory: &Path) -> Result<(), SetUpError> {
    let make = || -> io::Result<()> {
        if directory.try_exists()? {
            return Ok(());
        }
        // It gets its name only when it is as it is to be.
        let unfinished = directory.with_file_name(format!("{UNFINISHED}{}", name_of(directory)));
        std::fs::create_dir_all(&unfinished)?;
        let group = fs_group(pod);
        std::os::unix::fs::chown(&unfinished, None, group)?;
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&unfinished, directory)
    };
    make().map_err(|source| SetUpError::Write { path: directory.to_owned(), source })
}

fn name_of(directory: &Path) -> String {
    directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn check_host_path(host_path: &HostPathVolumeSource) -> Result<(), SetUpError> {
    use std::os::unix::fs::FileTypeExt;

    let path = Path::new(&host_path.path);
    let expected = host_path.type_.as_deref().unwrap_or_default();
    let failed = |source| SetUpError::Write { path: path.to_owned(), source };
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let fits = match expected {
        "" => return Ok(()),
        "DirectoryOrCreate" if kind.is_err() => return std::fs::create_dir_all(path).map_err(failed),
        "FileOrCreate" if kind.is_err() => return std::fs::File::create_new(path).map(drop).map_err(failed),
        "Directory" | "DirectoryOrCreate" => kind.is_ok_and(|kind| kind.is_dir()),
        "File" | "FileOrCreate" => kind.is_ok_and(|kind| kind.is_file()),
        "Socket" => kind.is_ok_and(|kind| kind.is_socket()),
        "CharDevice" => kind.is_ok_and(|kind| kind.is_char_device()),
        "BlockDevice" => kind.is_ok_and(|kind| kind.is_block_device()),
        _ => false,
    };
    let mismatch = || SetUpError::HostPath { path: host_path.path.clone(), expected: expected.to_owned() };
    fits.then_some(()).ok_or_else(mismatch)
}
