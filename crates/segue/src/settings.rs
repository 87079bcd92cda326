//! Where one engine keeps its things, and what its things on the machine are called (decision 0001).

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use node::images::Digest;

/// The directory whose engine is called `default`.
const DEFAULT_DATA_DIRECTORY: &str = "/var/lib/segue";

/// Where run directories are.
const RUN_DIRECTORY: &str = "/run/segue";

/// Enough of the hash of a path to tell engines on one machine apart, and short enough for names of links.
const INSTANCE_LENGTH: usize = 8;

/// The directories and the name of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directories {
    /// Canonical path of the data directory.
    pub(crate) data: PathBuf,
    /// What is gone after a reboot: sockets, pids, secrets.
    pub(crate) run: PathBuf,
    /// Tells this engine's things on the machine from another's.
    pub(crate) instance: String,
}

impl Directories {
    /// Finds the directories of the engine on a data directory, without making any.
    ///
    /// # Errors
    /// When the data directory's path can't be resolved.
    pub(crate) fn find(data: &Path) -> io::Result<Self> {
        let data = match fs::canonicalize(data) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(data)?,
            Err(error) => return Err(error),
        };
        let instance = instance_name(&data);
        Ok(Self { run: Path::new(RUN_DIRECTORY).join(&instance), data, instance })
    }

    /// Makes both directories, readable by root only.
    ///
    /// # Errors
    /// When one can't be made.
    pub(crate) fn make(&self) -> io::Result<()> {
        self.make_data()?;
        make(&self.run)
    }

    /// The same for what is kept while no engine runs.
    pub(crate) fn make_data(&self) -> io::Result<()> {
        make(&self.data)
    }

    /// Removes the run directory, and the directory of run directories when it was the last.
    ///
    /// # Errors
    /// When something in it can't be removed.
    pub(crate) fn remove_run(&self) -> io::Result<()> {
        // What ends meanwhile removes its own files; each time one is gone before it could be removed here, the rest
        // is tried again.
        while self.run.exists() {
            match fs::remove_dir_all(&self.run) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        // Another engine's is in it, or none ever was.
        let _ = fs::remove_dir(RUN_DIRECTORY);
        Ok(())
    }

    /// The key of what the store keeps unreadable; whoever wants it elsewhere makes a link of it.
    pub(crate) fn store_key(&self) -> PathBuf {
        self.data.join("store.key")
    }

    /// What other machines of the mesh have to know to pass requests on to this one.
    pub(crate) fn mesh_key(&self) -> PathBuf {
        self.data.join("mesh.key")
    }

    /// What the last engine knew of the other machines of a mesh.
    pub(crate) fn mesh_memory(&self) -> PathBuf {
        self.data.join("mesh.json")
    }

    /// A number that grows with each start of an engine of a mesh.
    pub(crate) fn starts(&self) -> PathBuf {
        self.data.join("starts")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store.db")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub(crate) fn engine_log(&self) -> PathBuf {
        self.data.join("engine.log")
    }

    pub(crate) fn data_plane_log(&self) -> PathBuf {
        self.data.join("data-plane.log")
    }

    pub(crate) fn access_log(&self) -> PathBuf {
        self.data.join("access.log")
    }

    /// Who asked the API for what.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.data.join("audit.log")
    }

    /// Says that everything was to be taken down and may be half way there.
    pub(crate) fn going_down(&self) -> PathBuf {
        self.run.join("going-down")
    }

    pub(crate) fn engine_lock(&self) -> PathBuf {
        self.run.join("engine.lock")
    }

    pub(crate) fn engine_socket(&self) -> PathBuf {
        self.run.join("engine.sock")
    }
}

fn instance_name(data: &Path) -> String {
    if data == Path::new(DEFAULT_DATA_DIRECTORY) {
        return "default".to_owned();
    }
    Digest::of(data.as_os_str().as_encoded_bytes()).hex().chars().take(INSTANCE_LENGTH).collect()
}

fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
