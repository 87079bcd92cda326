use std::fs;
use std::time::Duration;

use super::build::FileContent;
use super::*;
use crate::images::fixtures::{Tar, image_of_layers, new_image, reference};

fn archive(name: &str) -> std::io::Cursor<Vec<u8>> {
    let mut bytes = Vec::new();
    new_image(name).write_archive(&mut bytes).unwrap();
    std::io::Cursor::new(bytes)
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_and_what_a_living_one_holds_stays() {
    let directory = tempfile::tempdir().unwrap();
    let living = ImageStore::open(directory.path()).unwrap();
    let held = living.inner.scratch.temporary();
    fs::write(held.path(), "half a layer").unwrap();
    let abandoned = directory.path().join("tmp/4000000-0");
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("0"), "half a layer").unwrap();
    ImageStore::open(directory.path()).unwrap();
    assert!(!abandoned.exists());
    assert!(held.path().exists());
}

#[tokio::test]
async fn an_image_loaded_by_another_process_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let engine = ImageStore::open(directory.path()).unwrap();
    let loader = ImageStore::open(directory.path()).unwrap();
    loader.load(archive("app:1")).await.unwrap();
    assert!(engine.resolve(&reference("app:1")).await.unwrap().is_some());
}

#[tokio::test]
async fn an_image_that_is_not_whole_counts_as_absent() {
    for part in ["layers", "blobs/sha256"] {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        store.load(archive("app:1")).await.unwrap();
        fs::remove_dir_all(directory.path().join(part)).unwrap();
        assert!(store.resolve(&reference("app:1")).await.unwrap().is_none(), "{part}");
        assert!(store.list().await.unwrap().is_empty(), "{part}");
    }
}

#[tokio::test]
async fn damaged_documents_count_as_absent() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let image = &store.load(archive("app:1")).await.unwrap()[0].image;
    let config = store.inner.blobs.path(&image.id);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("MODE=test", "MODE=evil")).unwrap();
    assert!(store.resolve(&reference("app:1")).await.unwrap().is_none());
}

#[test]
fn a_store_of_a_newer_segue_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("index.json"), r#"{"version": 2, "names": []}"#).unwrap();
    let error = ImageStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerIndex { found: 2, .. }), "{error}");
}

#[test]
fn a_damaged_index_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("index.json"), "{").unwrap();
    let error = ImageStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::DamagedIndex { .. }), "{error}");
    assert_eq!(fs::read(directory.path().join("index.json")).unwrap(), b"{");
}

#[test]
fn chain_ids_depend_on_every_layer_below() {
    let layers = |first: &[u8]| {
        let image =
            image_of_layers(&[Tar::default().file("a", first).bytes(), Tar::default().file("b", b"same").bytes()]);
        let bytes = &image.blobs[&image.manifest.to_string()];
        let Ok(Document::Manifest(manifest)) = Document::parse(bytes) else {
            panic!("no manifest");
        };
        let config = &image.blobs[&manifest.config.digest.to_string()];
        Contents::read(&manifest, config).unwrap().layers
    };
    let (one, other) = (layers(b"1"), layers(b"2"));
    assert_eq!(one[0].chain_id, one[0].diff_id);
    assert_eq!(one[1].diff_id, other[1].diff_id);
    assert_ne!(one[1].chain_id, other[1].chain_id);
}

#[tokio::test]
async fn a_sweep_leaves_what_names_lead_to_what_containers_stand_on_and_what_is_young() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let load = async |name: &str, content: &[u8]| {
        let mut image = new_image(name);
        image.files[0].content = FileContent::Bytes(content.to_vec());
        let mut bytes = Vec::new();
        image.write_archive(&mut bytes).unwrap();
        store.load(std::io::Cursor::new(bytes)).await.unwrap()[0].image.layers[0].clone()
    };
    let (stays, goes, runs) = (load("app:1", b"a").await, load("app:2", b"b").await, load("app:3", b"c").await);
    assert_eq!(load("app:4", b"a").await, stays);
    assert!(store.remove(&reference("app:4")).await.unwrap());
    for name in ["app:2", "app:3"] {
        assert!(store.remove(&reference(name)).await.unwrap());
    }
    let keep = |layers: &[&PathBuf]| {
        let layers: BTreeSet<PathBuf> = layers.iter().copied().cloned().collect();
        move || Ok::<_, StoreError>(layers)
    };
    store.sweep(keep(&[])).await.unwrap();
    assert!(goes.is_dir() && runs.is_dir(), "what is young was removed");
    let unswept = store.unswept().await;
    assert_eq!(store.sweep_older(keep(&[]), Duration::ZERO).await.unwrap(), Swept::No);
    assert!(goes.is_dir(), "it went while somebody counted on it");
    drop(store.unswept().await);
    drop(unswept);
    assert_eq!(store.sweep_older(keep(&[&runs]), Duration::ZERO).await.unwrap(), Swept::Yes);
    assert!(!goes.exists() && runs.is_dir());
    assert_eq!(store.resolve(&reference("app:1")).await.unwrap().unwrap().layers, [stays]);
    store.sweep_older(keep(&[]), Duration::ZERO).await.unwrap();
    assert!(!runs.exists());
    assert!(store.resolve(&reference("app:1")).await.unwrap().is_some());
}

#[test]
fn what_a_sweep_takes_is_never_there_in_half() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let layers = store.inner.layers.directory();
    std::fs::create_dir_all(layers.join("a/of/many")).unwrap();
    let moved = store.inner.move_unused_away(BTreeSet::new(), Duration::ZERO).unwrap();
    assert!(!layers.join("a").exists());
    assert!(moved[0].path().join("of/many").is_dir(), "it was removed under its own name");
    let temporary = moved[0].path().to_owned();
    drop(moved);
    assert!(!temporary.exists());
}
