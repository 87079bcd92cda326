//! What a pod has on disk is measured while it runs, if it may have only so much.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io};

use decide::eviction::{self, DiskUsage};
use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use super::Settings;
use super::news::News;

/// How often; Kubernetes' number.
const MEASURED_EVERY: Duration = Duration::from_secs(10);
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;
/// A name more is still shorter than the kernel's PATH_MAX.
const LONGEST_WAY: usize = 3_800;

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
                let Ok(measured) = tokio::task::spawn_blocking(move || measure(&settings, &of)).await else { return };
                let usage = match measured {
                    Ok(usage) => usage,
                    Err(error) => {
                        warn!(pod = pod.metadata.name, %error, "what it has on disk can't be measured");
                        continue;
                    }
                };
                if let Some(message) = eviction::over_disk_limit(&pod, &usage) {
                    // A pod that is gone meanwhile wants no news.
                    let _ = tell.send(News::Evict { message }).await;
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

pub(super) fn measure(settings: &Settings, pod: &Pod) -> io::Result<DiskUsage> {
    let directory = settings.pod_data_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let spec = pod.spec.as_ref();
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut empty_dirs = BTreeMap::new();
    for volume in volumes.filter(|volume| volume.empty_dir.is_some()) {
        empty_dirs.insert(volume.name.clone(), bytes_below(&directory.join("volumes").join(&volume.name))?);
    }
    let mut containers: BTreeMap<String, u64> = BTreeMap::new();
    for container in
        spec.into_iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
    {
        containers.insert(container.name.clone(), bytes_below(&directory.join("logs").join(&container.name))?);
    }
    for entry in fs::read_dir(directory.join("containers")).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        // A run's directory is named after its container and its number.
        if let Some(used) = id.rsplit_once('-').and_then(|(name, _)| containers.get_mut(name)) {
            *used += bytes_below(&entry.path())?;
        }
    }
    Ok(DiskUsage { empty_dirs, containers })
}

/// What an ended pod has but for its logs, which stay as long as it does.
pub(super) fn left_behind(settings: &Settings, uid: &str) -> io::Result<u64> {
    let directory = settings.pod_data_dir(uid);
    Ok(bytes_below(&directory.join("volumes"))? + bytes_below(&directory.join("containers"))?)
}

/// What goes away meanwhile counts nothing; nor does what is behind a link that was put in the way.
fn bytes_below(path: &Path) -> io::Result<u64> {
    let Some(anchor) = found(open(rustix::fs::CWD, path))? else { return Ok(0) };
    let mut sum = blocks(&rustix::fs::fstat(&anchor)?);
    // What has several names is there once.
    let mut linked = HashSet::new();
    // Directories still to read, each by its way down from one that is open.
    let mut unread = vec![(Rc::new(anchor), PathBuf::from("."))];
    while let Some((anchor, way)) = unread.pop() {
        let Some(directory) = found(open(&*anchor, &way))? else { continue };
        let directory = Rc::new(directory);
        // The kernel takes no longer ways.
        let (anchor, way) = match way.as_os_str().len() > LONGEST_WAY {
            true => (Rc::clone(&directory), PathBuf::from(".")),
            false => (anchor, way),
        };
        for entry in Dir::read_from(&*directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let Some(stat) = found(rustix::fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW))? else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            sum += blocks(&stat);
            if is_directory {
                unread.push((Rc::clone(&anchor), way.join(name)));
            }
        }
    }
    Ok(sum)
}

fn open(from: impl AsFd, way: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(from, way, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn found<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_deep_to_be_counted() {
        let directory = tempfile::tempdir().unwrap();
        let name = "d".repeat(100);
        let mut deepest = open(rustix::fs::CWD, directory.path()).unwrap();
        for _ in 0..100 {
            rustix::fs::mkdirat(&deepest, &name, Mode::RWXU).unwrap();
            deepest = open(&deepest, Path::new(&name)).unwrap();
        }
        let file = rustix::fs::openat(&deepest, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        rustix::io::write(&file, &[1; 100_000]).unwrap();
        assert!(bytes_below(directory.path()).unwrap() >= 100_000);
    }

    #[test]
    fn what_has_two_names_is_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("one"), [1; 100_000]).unwrap();
        let alone = bytes_below(directory.path()).unwrap();
        std::fs::hard_link(directory.path().join("one"), directory.path().join("other")).unwrap();
        assert_eq!(bytes_below(directory.path()).unwrap(), alone);
    }

    #[test]
    fn a_link_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/usr", directory.path().join("link")).unwrap();
        assert!(bytes_below(directory.path()).unwrap() < 100_000);
        assert_eq!(bytes_below(&directory.path().join("link")).unwrap(), 0);
        assert_eq!(bytes_below(&directory.path().join("nothing")).unwrap(), 0);
    }
}
