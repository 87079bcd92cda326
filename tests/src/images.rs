//! The images that the tests deploy, made on the spot: the bundled application with its libraries and a shell.
//! All versions share one layer and differ in their environment.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::paths::built;
use crate::run::{output_of, run};

/// As the document names it.
pub const APP: &str = "registry.example.com/tailscale-mesh-zero-downtime-deployment";
/// The same layer with a shell as its entry point.
pub const SHELL: &str = "registry.example.com/shell:v1";

/// Tag and environment of every version of the application. `latest` is what the document deploys.
pub const VERSIONS: [(&str, &[&str]); 9] = [
    ("latest", &[]),
    ("v1", &[]),
    ("v2", &[]),
    ("v1-exit", &["ON_SIGTERM=exit"]),
    ("v2-exit", &["ON_SIGTERM=exit"]),
    ("ignores-sigterm", &["IGNORE_SIGTERM=true"]),
    ("crashes", &["CRASH_AFTER_MS=0", "NEVER_READY=true"]),
    ("never-ready", &["NEVER_READY=true"]),
    ("gets-sick", &["UNHEALTHY_AFTER_MS=3000"]),
];

/// Writes an OCI image layout into `directory` in which every version of the application and the shell is a reference.
pub fn write_layout(directory: &Path) {
    let blobs = Blobs(directory.join("blobs/sha256"));
    fs::create_dir_all(&blobs.0).expect("a directory of ours");
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a directory of ours");
    let tar = layer();
    let diff_id = digest(&tar);
    let layer = blobs.write("application/vnd.oci.image.layer.v1.tar+gzip", &compressed(&tar));
    let image = |reference: &str, config: Value| blobs.image(reference, config, &layer, &diff_id);
    let mut manifests: Vec<_> =
        VERSIONS.iter().map(|(version, settings)| image(version, app(version, settings))).collect();
    manifests.push(image("shell", json!({"Entrypoint": ["/bin/sh"]})));
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(directory.join("index.json"), index.to_string()).expect("a directory of ours");
}

fn app(version: &str, settings: &[&str]) -> Value {
    let environment: Vec<_> =
        [format!("VERSION={version}")].into_iter().chain(settings.iter().map(|set| (*set).to_owned())).collect();
    json!({"Entrypoint": ["/app"], "Env": environment, "User": "65534:65534", "ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}}})
}

struct Blobs(PathBuf);

impl Blobs {
    fn image(&self, reference: &str, config: Value, layer: &Value, diff_id: &str) -> Value {
        let rootfs = json!({"type": "layers", "diff_ids": [diff_id]});
        let config = json!({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs});
        let config = self.write("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
        let mut descriptor = self.write(MANIFEST, manifest.to_string().as_bytes());
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
        descriptor
    }

    fn write(&self, media_type: &str, content: &[u8]) -> Value {
        let digest = digest(content);
        let name = digest.trim_start_matches("sha256:");
        fs::write(self.0.join(name), content).expect("a directory of ours");
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let app = stripped(&built("app"));
    for library in libraries(app.path()) {
        append(&mut layer, library.to_str().expect("a path in UTF-8"), &library);
    }
    append(&mut layer, "/app", app.path());
    append(&mut layer, "/bin/busybox", Path::new("/bin/busybox"));
    for command in [
        "cat", "echo", "grep", "head", "httpd", "id", "ls", "sh", "sleep", "stat", "stty", "tar", "touch", "tty",
        "wget",
    ] {
        link(&mut layer, &format!("bin/{command}"), "busybox");
    }
    layer.into_inner().expect("a vector grows")
}

fn stripped(program: &Path) -> tempfile::NamedTempFile {
    let stripped = tempfile::NamedTempFile::new().expect("a temporary file");
    output_of(Command::new("strip").arg("-o").arg(stripped.path()).arg(program));
    stripped
}

/// The loader and the shared libraries, as the loader itself lists them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = run(Command::new("ldd").arg(program), "").stdout;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

fn append(layer: &mut tar::Builder<Vec<u8>>, path: &str, from: &Path) {
    let content = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    let mut header = header(tar::EntryType::Regular);
    header.set_size(u64::try_from(content.len()).expect("a length"));
    layer.append_data(&mut header, path.trim_start_matches('/'), &content[..]).expect("a vector grows");
}

fn link(layer: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    layer.append_link(&mut header(tar::EntryType::Symlink), path, target).expect("a vector grows");
}

fn header(kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("a vector grows");
    encoder.finish().expect("a vector grows")
}

fn digest(content: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(content) {
        write!(text, "{byte:02x}").expect("a string grows");
    }
    text
}

/// Writes one version as an archive that `segue image load` reads; `format` is `docker-archive` or `oci-archive`.
pub fn write_archive(layout: &Path, version: &str, format: &str, file: &Path, name: &str) {
    let source = format!("oci:{}:{version}", layout.display());
    let target = format!("{format}:{}:{name}", file.display());
    output_of(Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", &source, &target]));
}
