use std::io::Cursor;

use super::*;
use crate::images::ImageStore;
use crate::images::fixtures::{Tar, TestImage, gzip, image_of_layers, new_image, reference};

fn oci_archive(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    new_image(name).write_archive(&mut bytes).unwrap();
    bytes
}

/// What `docker save` writes: layers in directories, one of them a link to another image's.
fn docker_archive(tags: &str) -> Tar {
    let plain = Tar::default().file("app", b"1").bytes();
    let config = json!({
        "architecture": oci_spec::image::Arch::default().to_string(),
        "os": "linux",
        "config": {"Cmd": ["/app"], "Entrypoint": null},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&plain).to_string()]},
    });
    let manifest = format!(r#"[{{"Config":"abc.json","RepoTags":{tags},"Layers":["one/layer.tar"]}}]"#);
    Tar::default()
        .directory("one/", 0o755)
        .symlink("one/layer.tar", "../two/layer.tar")
        .file("two/layer.tar", &plain)
        .file("abc.json", config.to_string().as_bytes())
        .file("manifest.json", manifest.as_bytes())
}

async fn load(archive: Vec<u8>) -> Result<Vec<Loaded>, LoadError> {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let loaded = store.load(Cursor::new(archive)).await?;
    for image in &loaded {
        let found = store.resolve(&image.reference).await?.unwrap();
        assert_eq!(found.id, image.image.id);
        assert!(found.layers.iter().all(|layer| layer.is_dir()));
    }
    Ok(loaded)
}

#[tokio::test]
async fn an_oci_archive_is_loaded_plain_and_compressed() {
    let archive = oci_archive("registry.example.com/app:1");
    let zstd = zstd::stream::encode_all(archive.as_slice(), 1).unwrap();
    for archive in [gzip(&archive), zstd, archive] {
        let loaded = load(archive).await.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].reference, reference("registry.example.com/app:1"));
        assert!(loaded[0].image.repo_digests.is_empty());
        assert_eq!(loaded[0].image.image_id(), loaded[0].image.id.to_string());
    }
}

#[tokio::test]
async fn a_docker_archive_is_loaded_under_all_its_names() {
    let archive = docker_archive(r#"["app:1", "registry.example.com/app:latest"]"#).bytes();
    let loaded = load(archive).await.unwrap();
    let names: Vec<String> = loaded.iter().map(|image| image.reference.to_string()).collect();
    assert_eq!(names, ["docker.io/library/app:1", "registry.example.com/app:latest"]);
    assert_eq!(loaded[0].image.id, loaded[1].image.id);
    let config = loaded[0].image.config.config().as_ref().unwrap();
    assert_eq!(config.cmd().as_deref(), Some(["/app".to_owned()].as_slice()));
}

#[tokio::test]
async fn an_archive_without_names_is_refused_with_the_way_to_name_it() {
    for tags in ["null", "[]"] {
        let error = load(docker_archive(tags).bytes()).await.unwrap_err();
        assert!(matches!(error, LoadError::Unnamed), "{error}");
    }
}

#[tokio::test]
async fn a_bare_tag_is_no_name() {
    let image = image_of_layers(&[Tar::default().file("app", b"1").bytes()]);
    let error = load(oci_layout(&image, "1.0")).await.unwrap_err();
    assert!(matches!(error, LoadError::Unnamed), "{error}");
    let loaded = load(oci_layout(&image, "app:1.0")).await.unwrap();
    assert_eq!(loaded[0].reference, reference("app:1.0"));
}

#[tokio::test]
async fn a_blob_with_another_content_than_its_name_is_refused() {
    let mut image = image_of_layers(&[Tar::default().file("app", b"1").bytes()]);
    let manifest = image.manifest.to_string();
    let layer = image
        .blobs
        .iter_mut()
        .find(|(digest, bytes)| **digest != manifest && bytes.starts_with(&[0x1f, 0x8b]))
        .unwrap()
        .1;
    layer.push(0);
    let error = load(oci_layout(&image, "app:1")).await.unwrap_err();
    assert!(matches!(error, LoadError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn a_missing_blob_is_named() {
    let mut image = image_of_layers(&[Tar::default().file("app", b"1").bytes()]);
    let manifest = image.blobs.remove(&image.manifest.to_string());
    assert!(manifest.is_some());
    let error = load(oci_layout(&image, "app:1")).await.unwrap_err();
    let name = format!("blobs/sha256/{}", image.manifest.hex());
    assert_eq!(error.to_string(), format!("the archive names {name}, and does not contain it"));
}

#[tokio::test]
async fn other_files_are_refused() {
    let error = load(Tar::default().file("readme", b"").bytes()).await.unwrap_err();
    assert!(matches!(error, LoadError::NotAnImageArchive), "{error}");
    let error = load(vec![7; 4096]).await.unwrap_err();
    assert!(matches!(error, LoadError::Tar { .. }), "{error}");
}

#[tokio::test]
async fn the_same_docker_image_always_gets_the_same_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let archive = docker_archive(r#"["app:1"]"#).bytes();
    store.load(Cursor::new(archive.clone())).await.unwrap();
    let index = std::fs::read(directory.path().join("index.json")).unwrap();
    store.load(Cursor::new(archive)).await.unwrap();
    assert_eq!(std::fs::read(directory.path().join("index.json")).unwrap(), index);
}

fn oci_layout(image: &TestImage, ref_name: &str) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest.to_string(),
        "size": 1,
        "annotations": {REF_NAME: ref_name},
    }]});
    let mut tar = Tar::default().file("./index.json", index.to_string().as_bytes());
    for (digest, bytes) in &image.blobs {
        tar = tar.file(&format!("./blobs/sha256/{}", &digest[7..]), bytes);
    }
    tar.bytes()
}
