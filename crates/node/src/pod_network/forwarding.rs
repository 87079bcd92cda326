//! Whether this machine passes packets on between its links. It must while there are pods; what it did before is
//! written down beside the run directories, because every engine of the machine needs it.

use std::io;
use std::path::{Path, PathBuf};

use super::NetworkError;

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
const BEFORE: &str = "ip_forward.before";

/// The machine's switch, and where its earlier position stands.
#[derive(Debug)]
pub(super) struct Forwarding {
    before: PathBuf,
}

impl Forwarding {
    pub(super) fn turn_on(run_dir: &Path) -> Result<Self, NetworkError> {
        let before = run_dir.parent().unwrap_or(run_dir).join(BEFORE);
        let switch = Self { before };
        let position = read(Path::new(SWITCH))?;
        if position.trim() != "1" {
            write(&switch.before, &position)?;
            write(Path::new(SWITCH), "1")?;
        }
        Ok(switch)
    }

    /// Puts the switch back if an engine has moved it.
    pub(super) fn restore(&self) -> Result<(), NetworkError> {
        match std::fs::read_to_string(&self.before) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(NetworkError::Forwarding { path: self.before.clone(), source }),
            Ok(position) => write(Path::new(SWITCH), &position)?,
        }
        std::fs::remove_file(&self.before)
            .map_err(|source| NetworkError::Forwarding { path: self.before.clone(), source })
    }
}

fn read(path: &Path) -> Result<String, NetworkError> {
    std::fs::read_to_string(path).map_err(|source| NetworkError::Forwarding { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), NetworkError> {
    std::fs::write(path, text).map_err(|source| NetworkError::Forwarding { path: path.to_owned(), source })
}
