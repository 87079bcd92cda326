//! Writes an image of one layer as an OCI archive, for the demo's bundled app and for tests. The same input gives
//! the same bytes, and so the same digest, on every machine of one architecture.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use decide::images::ImageReference;
use oci_spec::image::Arch;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::digest::{Digest, Digester};

/// An image to be written. Everything but the name and the files may stay empty.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub reference: ImageReference,
    pub files: Vec<NewFile>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// A name or number, with or without a group. Empty means root.
    pub user: String,
    pub working_dir: String,
    /// `SIGTERM` and the like; empty means that.
    pub stop_signal: String,
}

/// A file of a new image. Directories above it are made with mode 0755; all belongs to root.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Absolute, in the image.
    pub path: PathBuf,
    pub mode: u32,
    pub content: FileContent,
}

#[derive(Clone, Debug)]
pub enum FileContent {
    /// A file of this machine.
    CopyOf(PathBuf),
    Bytes(Vec<u8>),
    Directory,
}

/// Why an image can't be written.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{} is not an absolute path free of `..`", path.display())]
    Path { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the archive")]
    Write { source: io::Error },
    #[error("a file changed while the image was being written")]
    Changed,
}

/// Hashes and counts what passes to `inner`.
struct Counted<W> {
    inner: W,
    digester: Digester,
    bytes: u64,
}

impl NewImage {
    /// An image with only a name.
    pub fn named(reference: ImageReference) -> NewImage {
        NewImage {
            reference,
            files: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
            user: String::new(),
            working_dir: String::new(),
            stop_signal: String::new(),
        }
    }

    /// Writes the archive and answers the digest of the image's manifest. Source files are read twice, so that no
    /// layer is held in memory: once for the layer's digest and once for its bytes.
    pub fn write_archive(&self, out: impl Write) -> Result<Digest, BuildError> {
        let (layer, layer_bytes) = self.write_layer(io::sink())?;
        let config = self.config(&layer).to_string();
        let manifest = manifest(config.as_bytes(), &layer, layer_bytes).to_string();
        let index = self.index(manifest.as_bytes()).to_string();
        let mut archive = Builder::new(out);
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        append(&mut archive, "oci-layout", layout.as_bytes())?;
        append(&mut archive, "index.json", index.as_bytes())?;
        for document in [&manifest, &config] {
            let name = blob_name(&Digest::of(document.as_bytes()));
            append(&mut archive, &name, document.as_bytes())?;
        }
        self.append_layer(&mut archive, &layer, layer_bytes)?;
        archive.into_inner().and_then(|mut out| out.flush()).map_err(|source| BuildError::Write { source })?;
        Ok(Digest::of(manifest.as_bytes()))
    }

    /// Streams the layer behind a header of our own: the tar writer wants a reader, and we write.
    fn append_layer(
        &self,
        archive: &mut Builder<impl Write>,
        layer: &Digest,
        layer_bytes: u64,
    ) -> Result<(), BuildError> {
        let failed = |source| BuildError::Write { source };
        let mut header = header(EntryType::Regular, 0o644, layer_bytes);
        header.set_path(blob_name(layer)).map_err(failed)?;
        header.set_cksum();
        let out = archive.get_mut();
        out.write_all(header.as_bytes()).map_err(failed)?;
        let (digest, _) = self.write_layer(&mut *out)?;
        if digest != *layer {
            return Err(BuildError::Changed);
        }
        let padding = vec![0; (512 - layer_bytes % 512) as usize % 512];
        out.write_all(&padding).map_err(failed)
    }

    fn write_layer(&self, out: impl Write) -> Result<(Digest, u64), BuildError> {
        let failed = |source| BuildError::Write { source };
        let mut layer = Builder::new(Counted { inner: out, digester: Digester::default(), bytes: 0 });
        let mut files: Vec<(PathBuf, &NewFile)> = Vec::new();
        for file in &self.files {
            files.push((relative(&file.path)?, file));
        }
        files.sort_by(|(left, _), (right, _)| left.cmp(right));
        let named: BTreeSet<&PathBuf> = files.iter().map(|(path, _)| path).collect();
        let parents: BTreeSet<&Path> = files
            .iter()
            .flat_map(|(path, _)| path.ancestors().skip(1))
            .filter(|path| !path.as_os_str().is_empty() && !named.contains(&path.to_path_buf()))
            .collect();
        for parent in parents {
            append_entry(&mut layer, parent, EntryType::Directory, 0o755, io::empty(), 0)?;
        }
        for (path, file) in &files {
            append_file(&mut layer, path, file)?;
        }
        let counted = layer.into_inner().map_err(failed)?;
        Ok((counted.digester.finish(), counted.bytes))
    }

    fn config(&self, layer: &Digest) -> Value {
        let ports: BTreeMap<&String, Value> = self.exposed_ports.iter().map(|port| (port, json!({}))).collect();
        let mut config = serde_json::Map::new();
        let mut set = |name: &str, is_empty: bool, value: Value| {
            if !is_empty {
                config.insert(name.to_owned(), value);
            }
        };
        set("User", self.user.is_empty(), json!(self.user));
        set("ExposedPorts", ports.is_empty(), json!(ports));
        set("Env", self.env.is_empty(), json!(self.env));
        set("Entrypoint", self.entrypoint.is_empty(), json!(self.entrypoint));
        set("Cmd", self.cmd.is_empty(), json!(self.cmd));
        set("WorkingDir", self.working_dir.is_empty(), json!(self.working_dir));
        set("Labels", self.labels.is_empty(), json!(self.labels));
        set("StopSignal", self.stop_signal.is_empty(), json!(self.stop_signal));
        json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": Arch::default().to_string(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]},
        })
    }

    fn index(&self, manifest: &[u8]) -> Value {
        let name = self.reference.to_string();
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(manifest).to_string(),
                "size": manifest.len(),
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name,
                },
                "platform": {"architecture": Arch::default().to_string(), "os": "linux"},
            }],
        })
    }
}

fn manifest(config: &[u8], layer: &Digest, layer_bytes: u64) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config).to_string(),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.to_string(),
            "size": layer_bytes,
        }],
    })
}

fn append_file(layer: &mut Builder<impl Write>, path: &Path, file: &NewFile) -> Result<(), BuildError> {
    match &file.content {
        FileContent::Directory => append_entry(layer, path, EntryType::Directory, file.mode, io::empty(), 0),
        FileContent::Bytes(bytes) => {
            append_entry(layer, path, EntryType::Regular, file.mode, bytes.as_slice(), bytes.len() as u64)
        }
        FileContent::CopyOf(source_path) => {
            let failed = |source| BuildError::Read { path: source_path.clone(), source };
            let source = File::open(source_path).map_err(failed)?;
            let size = source.metadata().map_err(failed)?.len();
            let mut source = source.take(size);
            append_entry(layer, path, EntryType::Regular, file.mode, &mut source, size)?;
            if source.limit() != 0 {
                return Err(BuildError::Changed);
            }
            Ok(())
        }
    }
}

fn append_entry(
    layer: &mut Builder<impl Write>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    content: impl Read,
    size: u64,
) -> Result<(), BuildError> {
    layer.append_data(&mut header(kind, mode, size), path, content).map_err(|source| BuildError::Write { source })
}

fn append(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<(), BuildError> {
    archive
        .append_data(&mut header(EntryType::Regular, 0o644, bytes.len() as u64), name, bytes)
        .map_err(|source| BuildError::Write { source })
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn relative(path: &Path) -> Result<PathBuf, BuildError> {
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    let rest = components.as_path();
    let normal = components.all(|component| matches!(component, Component::Normal(_)));
    if !absolute || !normal || rest.as_os_str().is_empty() {
        return Err(BuildError::Path { path: path.to_owned() });
    }
    Ok(rest.to_owned())
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digester.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
