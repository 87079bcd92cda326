//! Tar streams and images for tests, hostile ones included: names and types are written as given.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use decide::images::ImageReference;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::build::{FileContent, NewFile, NewImage};
use super::digest::Digest;

/// A tar stream, entry by entry.
#[derive(Clone, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

/// The blobs of an image, by digest, and its manifest's.
#[derive(Clone)]
pub(super) struct TestImage {
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    pub(super) manifest: Digest,
}

impl Tar {
    pub(super) fn file(self, name: &str, content: &[u8]) -> Tar {
        self.entry(&header(EntryType::Regular, 0o644), name.as_bytes(), b"", content)
    }

    pub(super) fn directory(self, name: &str, mode: u32) -> Tar {
        self.entry(&header(EntryType::Directory, mode), name.as_bytes(), b"", b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(&header(EntryType::Symlink, 0o777), name.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Tar {
        self.entry(&header(EntryType::Link, 0o644), name.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn node(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Tar {
        let mut header = header(kind, 0o640);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.entry(&header, name.as_bytes(), b"", b"")
    }

    /// PAX records for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = 3 + key.len() + value.len();
            let length = (rest..).find(|n| n.to_string().len() + rest == *n).unwrap();
            content.extend(format!("{length} {key}=").as_bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.entry(&header(EntryType::XHeader, 0o644), b"pax", b"", &content)
    }

    pub(super) fn entry(mut self, header: &Header, name: &[u8], link: &[u8], content: &[u8]) -> Tar {
        let mut header = header.clone();
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The stream with its two closing blocks.
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

pub(super) fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header
}

pub(super) fn reference(text: &str) -> ImageReference {
    ImageReference::parse(text).unwrap()
}

/// An image whose layers are these tar streams, compressed with gzip.
pub(super) fn image_of_layers(layers: &[Vec<u8>]) -> TestImage {
    let mut blobs = BTreeMap::new();
    let mut put = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        blobs.insert(digest.to_string(), bytes);
        json!({"mediaType": "application/octet-stream", "digest": digest.to_string(), "size": size})
    };
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": oci_spec::image::Arch::default().to_string(),
        "os": "linux",
        "config": {"Entrypoint": ["/app"], "Env": ["A=1"], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let layers: Vec<Value> = layers.iter().map(|tar| put(gzip(tar))).collect();
    let config = put(config.to_string().into_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    put(manifest);
    TestImage { blobs, manifest: digest }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A small image as the demo makes them.
pub(super) fn new_image(name: &str) -> NewImage {
    let mut image = NewImage::named(reference(name));
    image.files.push(NewFile {
        path: "/usr/bin/app".into(),
        mode: 0o755,
        content: FileContent::Bytes(b"#!/bin/true\n".to_vec()),
    });
    image.entrypoint.push("/usr/bin/app".to_owned());
    image.env.push("MODE=test".to_owned());
    image.exposed_ports.extend(["9090/tcp".to_owned(), "8080/tcp".to_owned()]);
    image.labels.insert("version".to_owned(), "1".to_owned());
    image
}

/// The members of a tar archive, by name.
pub(super) fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(name, content);
    }
    members
}
