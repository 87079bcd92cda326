//! What one engine knew of a mesh, for the next: other machines' engines may be away just when this one starts, and requests have
//! to be passed on all the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use decide::mesh::Known;
use serde::{Deserialize, Serialize};

use super::Machines;
use crate::config::Secret;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// This machine's name and address on the tailnet.
    pub(super) this: Option<(String, IpAddr)>,
    pub(super) known: Vec<Known>,
    pub(super) keys: BTreeMap<String, Secret>,
}

impl Memory {
    pub(super) fn of(this: Option<(String, IpAddr)>, machines: &Machines) -> Self {
        Self { this, known: machines.known.clone(), keys: machines.keys.clone() }
    }

    /// Nothing, if there is none or it can't be read: then machines are known once they are heard.
    pub(super) fn load(path: &Path) -> Self {
        let mut memory: Self = Self::read(path);
        // Else it may be another network by now, and what is opened for it fails.
        memory.this = memory.this.filter(|(_, address)| UdpSocket::bind((*address, 0)).is_ok());
        memory
    }

    fn read(path: &Path) -> Self {
        let read = fs::read(path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
        read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("what was known of the mesh is lost: {}: {error}", path.display());
            }
            Self::default()
        })
    }

    /// Takes the place of what was known; outlives the engine, not the machine's power.
    pub(super) fn keep(&mut self, path: &Path, now: Self) {
        if *self == now {
            return;
        }
        *self = now;
        if let Err(error) = self.write(path) {
            tracing::warn!("what is known of the mesh can't be kept for the next engine: {}: {error}", path.display());
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("unfinished");
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(unfinished, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_engine_knows_what_this_one_did() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.json");
        assert_eq!(Memory::load(&path), Memory::default());
        let this = Some(("a".to_owned(), [127, 0, 0, 1].into()));
        let machines = Machines { keys: [("b".to_owned(), Secret("k3y".to_owned()))].into(), ..Machines::default() };
        let mut memory = Memory::default();
        memory.keep(&path, Memory::of(this.clone(), &machines));
        assert_eq!(Memory::load(&path), Memory::of(this, &machines));
        memory.keep(&path, Memory { this: Some(("a".to_owned(), [192, 0, 2, 77].into())), ..Memory::default() });
        assert_eq!(Memory::load(&path), Memory::default(), "this machine has no such address");
        fs::write(&path, "{").unwrap();
        assert_eq!(Memory::load(&path), Memory::default());
    }
}
