use super::*;
use crate::images::fixtures::{members, new_image};

fn archive(image: &NewImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_archive(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_same_image_is_the_same_bytes_whatever_the_order_of_its_files() {
    let mut image = new_image("app:1");
    image.files.push(NewFile { path: "/etc/app.conf".into(), mode: 0o600, content: FileContent::Bytes(b"x".to_vec()) });
    let first = archive(&image);
    image.files.reverse();
    assert_eq!(archive(&image), first);
}

#[test]
fn the_layer_has_the_files_with_their_modes_and_parents() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("binary");
    std::fs::write(&source, vec![1; 3000]).unwrap();
    let mut image = new_image("app:1");
    image.files.push(NewFile { path: "/bin/tool".into(), mode: 0o4755, content: FileContent::CopyOf(source) });
    image.files.push(NewFile { path: "/tmp".into(), mode: 0o1777, content: FileContent::Directory });
    let archive = members(&archive(&image));
    let config = archive
        .values()
        .find_map(|bytes| {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            value.get("rootfs").is_some().then_some(value)
        })
        .unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/app"]));
    assert_eq!(config["config"]["ExposedPorts"], json!({"8080/tcp": {}, "9090/tcp": {}}));
    let layer = config["rootfs"]["diff_ids"][0].as_str().unwrap();
    let layer = &archive[&format!("blobs/sha256/{}", &layer[7..])];
    let mut entries = Vec::new();
    for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        entries.push((path, entry.header().mode().unwrap(), entry.size()));
    }
    let expected = [
        ("bin", 0o755, 0),
        ("usr", 0o755, 0),
        ("usr/bin", 0o755, 0),
        ("bin/tool", 0o4755, 3000),
        ("tmp", 0o1777, 0),
        ("usr/bin/app", 0o755, 12),
    ];
    let entries: Vec<_> = entries.iter().map(|(path, mode, size)| (path.as_str(), *mode, *size)).collect();
    assert_eq!(entries, expected);
}

#[test]
fn relative_and_climbing_paths_are_refused() {
    for path in ["app", "/", "/a/../b", "../a"] {
        let mut image = new_image("app:1");
        image.files[0].path = path.into();
        let error = image.write_archive(io::sink()).unwrap_err();
        assert!(matches!(error, BuildError::Path { .. }), "{path}: {error}");
    }
}

#[test]
fn a_missing_source_is_named() {
    let mut image = new_image("app:1");
    image.files[0].content = FileContent::CopyOf("/no/such/file".into());
    let error = image.write_archive(io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /no/such/file");
}
