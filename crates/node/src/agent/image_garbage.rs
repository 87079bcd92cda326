//! Looks at the disk that holds the images, asks `decide::image_garbage` what may go, and has it removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use decide::image_garbage::{self, Hold, StoredImage};
use decide::images::ImageReference;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tracing::{info, warn};

use super::memory::all_containers;
use super::runtime::{Cause, chain};
use super::{Machine, Settings};
use crate::images::{Image, Swept};

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// In a container's directory: the layers that it was made from.
const LAYERS_FILE: &str = "layers.json";

/// Writes down which layers a container stands on, before it does.
pub(super) fn note_layers(settings: &Settings, uid: &str, id: &str, layers: &[PathBuf]) -> io::Result<()> {
    let directory = containers_of(settings, uid).join(id);
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(LAYERS_FILE), serde_json::to_vec(layers)?)
}

/// Removes images whenever the disk is full, for as long as it is polled.
pub(super) async fn collect(machine: Arc<Machine>) {
    let mut last_used: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Err(error) = collect_once(&machine, &mut last_used).await {
            warn!(error = chain(&*error), "images could not be removed; trying again");
        }
    }
}

async fn collect_once(machine: &Machine, last_used: &mut BTreeMap<String, Timestamp>) -> Result<(), Cause> {
    let now = machine.clock.now();
    let images = machine.images.list().await?;
    let named = names_in_use(machine).await?;
    last_used.retain(|name, _| images.iter().any(|image| image.reference == *name));
    let stored: Vec<StoredImage> = images.iter().map(|image| stored(image, &named, last_used, now)).collect();
    let disk = machine.images.disk();
    let decision = image_garbage::next_steps(disk, &stored, now);
    for reason in &decision.waiting_on {
        warn!(used = disk.capacity - disk.available, of = disk.capacity, %reason, "the disk is full");
    }
    if !image_garbage::is_due(disk) {
        return Ok(());
    }
    remove(machine, decision.steps.into_iter().map(|step| step.name).collect()).await?;
    Ok(())
}

/// Removes what no pod of the node names and a registry would give again, however young.
pub(super) async fn remove_unused(machine: &Machine) -> Result<Swept, Cause> {
    let images = machine.images.list().await?;
    let named = names_in_use(machine).await?;
    let unused = images.iter().filter(|image| hold(image, &named) == Hold::None);
    remove(machine, unused.map(|image| image.reference.clone()).collect()).await
}

async fn remove(machine: &Machine, names: Vec<String>) -> Result<Swept, Cause> {
    let pods = machine.settings.data_dir.join("pods");
    if !names.is_empty() {
        info!(?names, "removing images that nobody uses");
    }
    let references = names.iter().filter_map(|name| ImageReference::parse(name).ok()).collect();
    machine.images.remove(references, Box::new(move || layers_in_use(&pods))).await
}

fn stored(
    image: &Image,
    named: &BTreeSet<String>,
    last_used: &mut BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> StoredImage {
    let hold = hold(image, named);
    let since = last_used.entry(image.reference.clone()).or_insert(now);
    if hold == Hold::Used {
        *since = now;
    }
    StoredImage { name: image.reference.clone(), bytes: image.size, last_used: *since, hold }
}

fn hold(image: &Image, named: &BTreeSet<String>) -> Hold {
    match (named.contains(&image.reference), image.repo_digests.is_empty()) {
        (true, _) => Hold::Used,
        (false, true) => Hold::Loaded,
        (false, false) => Hold::None,
    }
}

/// Canonical names of the images that pods of this node name.
async fn names_in_use(machine: &Machine) -> kube::Result<BTreeSet<String>> {
    let api: Api<Pod> = Api::all(machine.client.clone());
    let own = ListParams::default().fields(&format!("spec.nodeName={}", machine.settings.node_name));
    let pods = api.list(&own).await?.items;
    let images = pods.iter().flat_map(all_containers).filter_map(|container| container.image.as_deref());
    Ok(images.filter_map(|image| Some(ImageReference::parse(image).ok()?.canonical())).collect())
}

/// A tag may mean another image by now than the one that a container runs from, so its layers are known apart.
fn layers_in_use(pods: &Path) -> Result<BTreeSet<PathBuf>, Cause> {
    let mut used = BTreeSet::new();
    for pod in entries(pods)? {
        for container in entries(&pod.join("containers"))? {
            let path = container.join(LAYERS_FILE);
            match std::fs::read(&path) {
                Ok(bytes) => used.extend(serde_json::from_slice::<Vec<PathBuf>>(&bytes)?),
                // One that is not made yet, or all but removed.
                Err(_) if entries(&container)?.is_empty() => {}
                // Whatever was made by an engine that wrote no such file must not lose its layers: nothing is removed.
                Err(error) => return Err(format!("can't read {}: {error}", path.display()).into()),
            }
        }
    }
    Ok(used)
}

/// Removes a container's directory, and last what says which layers it stands on: if this breaks off, they are kept.
pub(super) fn remove_container(directory: &Path) -> io::Result<()> {
    for path in entries(directory)? {
        if path.symlink_metadata()?.is_dir() {
            std::fs::remove_dir_all(path)?;
        } else if path.file_name().is_none_or(|name| name != LAYERS_FILE) {
            std::fs::remove_file(path)?;
        }
    }
    absent(std::fs::remove_file(directory.join(LAYERS_FILE)))?;
    absent(std::fs::remove_dir(directory))
}

/// Whether something that may be gone is.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn containers_of(settings: &Settings, uid: &str) -> PathBuf {
    settings.pod_data_dir(uid).join("containers")
}

fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_that_broke_off_keeps_layers_or_has_none_but_holds_nobody_up() {
        let pods = tempfile::tempdir().unwrap();
        let container = pods.path().join("uid/containers/id");
        let used = || layers_in_use(pods.path()).map_err(|error| error.to_string());
        assert_eq!(used(), Ok([].into()));
        std::fs::create_dir_all(container.join("upper/directory")).unwrap();
        std::fs::write(container.join("upper/file"), "").unwrap();
        assert!(used().unwrap_err().contains("uid/containers/id/layers.json"), "{:?}", used());
        std::fs::write(container.join(LAYERS_FILE), r#"["/layer"]"#).unwrap();
        assert_eq!(used(), Ok([PathBuf::from("/layer")].into()));
        std::fs::remove_dir_all(container.join("upper")).unwrap();
        assert_eq!(used(), Ok([PathBuf::from("/layer")].into()));
        std::fs::remove_file(container.join(LAYERS_FILE)).unwrap();
        assert_eq!(used(), Ok([].into()));
        std::fs::create_dir_all(container.join("upper")).unwrap();
        std::fs::write(container.join("file"), "").unwrap();
        remove_container(&container).unwrap();
        assert!(!container.exists());
        remove_container(&container).unwrap();
    }
}
