//! A real registry, filled once for all machines of a test run; each machine starts its own over the same storage.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::images::{APP, SHELL, VERSIONS, write_layout};
use crate::namespace::Namespace;
use crate::run::output_of;

/// What stands behind `registry.example.com` on every machine.
pub const MIRROR: &str = "registry.example.com=http://127.0.0.1:5000";

/// Where the private registry listens, and whom it lets in.
pub const PRIVATE: &str = "127.0.0.1:5443";
pub const USER: &str = "ann";
pub const PASSWORD: &str = "hunter2";
/// By bcrypt.
const HASH_OF_PASSWORD: &str = "$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.";

/// Storage, image layout and the registry's configuration.
pub struct Storage(TempDir);

static STORAGE: OnceLock<Storage> = OnceLock::new();

/// The storage with all images of the tests in it.
pub fn storage() -> &'static Storage {
    STORAGE.get_or_init(|| {
        let storage = Storage(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir(storage.layout()).expect("a directory of ours");
        write_layout(&storage.layout());
        let open = storage.configuration() + "http: {addr: '127.0.0.1:5000'}\n";
        fs::write(storage.0.path().join("config.yml"), open).expect("a directory of ours");
        storage.fill();
        storage
    })
}

impl Storage {
    /// The OCI image layout that the registry was filled from.
    #[must_use]
    pub fn layout(&self) -> PathBuf {
        self.0.path().join("layout")
    }

    /// Starts a registry inside `machine`, with which it ends.
    pub fn serve(&self, machine: &Namespace, log: &Path) {
        start(machine, &self.0.path().join("config.yml"), "127.0.0.1:5000", log);
    }

    /// Starts one that speaks TLS at [`PRIVATE`] and lets [`USER`] in only. Its files, and its certificate as
    /// `ca.crt`, are in `directory`.
    pub fn serve_in_private(&self, machine: &Namespace, directory: &Path) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let at = |name: &str| directory.join(name);
        fs::write(at("ca.crt"), made.cert.pem()).expect("a directory of ours");
        fs::write(at("key.pem"), made.signing_key.serialize_pem()).expect("a directory of ours");
        fs::write(at("users"), format!("{USER}:{HASH_OF_PASSWORD}\n")).expect("a directory of ours");
        let (users, certificate, key) = (at("users"), at("ca.crt"), at("key.pem"));
        let more = format!(
            "auth: {{htpasswd: {{realm: tests, path: {}}}}}\nhttp: {{addr: '{PRIVATE}', tls: {{certificate: {}, key: {}}}}}\n",
            users.display(),
            certificate.display(),
            key.display()
        );
        fs::write(at("config.yml"), self.configuration() + &more).expect("a directory of ours");
        start(machine, &at("config.yml"), PRIVATE, &at("registry.log"));
    }
    fn fill(&self) {
        let machine = Namespace::machine();
        self.serve(&machine, &self.0.path().join("fill.log"));
        let repository = APP.trim_start_matches("registry.example.com");
        for (version, _) in VERSIONS {
            self.push(&machine, version, &format!("{repository}:{version}"));
        }
        self.push(&machine, "shell", SHELL.trim_start_matches("registry.example.com"));
    }

    fn push(&self, machine: &Namespace, reference: &str, to: &str) {
        let from = format!("oci:{}:{reference}", self.layout().display());
        let mut skopeo = machine.in_network("skopeo");
        skopeo.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]);
        output_of(skopeo.args([&from, &format!("docker://127.0.0.1:5000{to}")]));
    }

    fn configuration(&self) -> String {
        let root = self.0.path().join("registry");
        let root = root.display();
        format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {root}}}}}\n"
        )
    }
}

/// Starts a registry and waits until it listens.
fn start(machine: &Namespace, configuration: &Path, address: &str, log: &Path) {
    let mut command = machine.unlimited("docker-registry");
    command.arg("serve").arg(configuration).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("docker-registry is installed");
    let mut said = BufReader::new(child.stderr.take().expect("it was piped"));
    let mut line = String::new();
    while !line.contains(&format!("listening on {address}")) {
        line.clear();
        let length = said.read_line(&mut line).expect("a pipe can be read");
        assert_ne!(length, 0, "docker-registry ended before it listened");
    }
    let mut log = File::create(log).expect("a directory of ours");
    std::thread::spawn(move || {
        // It ends with the machine, however that ends.
        let _ = io::copy(&mut said, &mut log);
        let _ = child.wait();
    });
}
