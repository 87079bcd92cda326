//! What a pod has on disk is measured while it runs, if it may have only so much.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use decide::eviction::{self, DiskUsage};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Settings;
use super::news::News;

/// How often; Kubernetes' number.
const MEASURED_EVERY: Duration = Duration::from_secs(10);
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// Measures until it is dropped or the pod exceeds a limit.
pub(super) struct Measuring(AbortHandle);

impl Measuring {
    /// None for a pod that nobody limits.
    pub(super) fn start(settings: &Settings, pod: &Pod, tell: mpsc::Sender<News>) -> Option<Self> {
        if !eviction::limits_disk(pod) {
            return None;
        }
        let (settings, pod) = (settings.clone(), pod.clone());
        let measure = async move {
            loop {
                tokio::time::sleep(MEASURED_EVERY).await;
                let (settings, of) = (settings.clone(), pod.clone());
                let Ok(usage) = tokio::task::spawn_blocking(move || measure(&settings, &of)).await else { return };
                if let Some(message) = eviction::over_disk_limit(&pod, &usage) {
                    // A pod that is gone meanwhile wants no news.
                    let _ = tell.send(News::OverDiskLimit { message }).await;
                    return;
                }
            }
        };
        Some(Self(tokio::spawn(measure).abort_handle()))
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn measure(settings: &Settings, pod: &Pod) -> DiskUsage {
    let directory = settings.pod_data_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let spec = pod.spec.as_ref();
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    let empty_dirs = volumes.filter(|volume| volume.empty_dir.is_some());
    let empty_dirs = empty_dirs.map(|it| (it.name.clone(), bytes_below(&directory.join("volumes").join(&it.name))));
    let mut containers: BTreeMap<String, u64> = BTreeMap::new();
    for container in
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
    {
        containers.insert(container.name.clone(), bytes_below(&directory.join("logs").join(&container.name)));
    }
    for entry in fs::read_dir(directory.join("containers")).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        // A run's directory is named after its container and its number.
        if let Some(used) = id.rsplit_once('-').and_then(|(name, _)| containers.get_mut(name)) {
            *used += bytes_below(&entry.path());
        }
    }
    DiskUsage { empty_dirs: empty_dirs.collect(), containers }
}

/// What goes away meanwhile counts nothing.
fn bytes_below(path: &Path) -> u64 {
    let own = fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * BLOCK_BYTES);
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let entries = fs::read_dir(path).into_iter().flatten().flatten().filter(|_| is_directory);
    entries.fold(own, |sum, entry| sum + bytes_below(&entry.path()))
}
