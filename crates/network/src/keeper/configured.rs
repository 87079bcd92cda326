//! The configuration that every proxy is to have: as an engine sent it, with the changes since.

use serde::{Deserialize, Serialize};

use crate::config::{Applied, Change, DataPlaneConfig};
use crate::frames::{FrameError, decode, encode, encode_payload, payload_of};

#[derive(Debug)]
pub(super) struct Configured {
    /// Of the last change.
    pub(super) version: u64,
    /// A `Configure` frame.
    whole: Vec<u8>,
    changes: Vec<Change>,
    /// How long their frames were together.
    changed_bytes: usize,
}

/// The part of a frame's vocabulary that is read and written here.
#[derive(Serialize, Deserialize)]
enum Whole {
    Configure(DataPlaneConfig),
}

impl Configured {
    /// From the payload of a `Configure` frame.
    pub(super) fn new(payload: &[u8], version: u64) -> Self {
        Self { version, whole: encode_payload(payload), changes: Vec::new(), changed_bytes: 0 }
    }

    /// Takes a change that came in a frame of so many bytes.
    pub(super) fn change(&mut self, change: Change, bytes: usize) -> Applied {
        if change.from != self.version {
            return Applied::No;
        }
        self.version = change.version;
        self.changes.push(change);
        self.changed_bytes += bytes;
        // Else they would grow for as long as every proxy takes them.
        if self.changed_bytes > self.whole.len() && self.settle().is_err() {
            return Applied::No;
        }
        Applied::Yes
    }

    /// A `Configure` frame with everything, for whoever was not told each change.
    ///
    /// # Errors
    /// When the engine that sent it writes configurations that this build can't read.
    pub(super) fn frame(&mut self) -> Result<Vec<u8>, FrameError> {
        self.settle()?;
        Ok(self.whole.clone())
    }

    fn settle(&mut self) -> Result<(), FrameError> {
        if !self.changes.is_empty() {
            let Whole::Configure(mut config) = decode(payload_of(&self.whole))?;
            for change in &self.changes {
                let applied = config.apply(change);
                debug_assert_eq!(applied, Applied::Yes, "each was made for the version before");
            }
            self.whole = encode(&Whole::Configure(config));
            (self.changes, self.changed_bytes) = (Vec::new(), 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Service;

    #[test]
    fn whoever_comes_late_is_told_everything() {
        let gone = |name: &str, from| Change {
            from,
            version: from + 1,
            gone: [("n".to_owned(), name.to_owned())].into(),
            ..Change::default()
        };
        let service = |name: &str| Service { namespace: "n".to_owned(), name: name.to_owned(), ..Service::default() };
        let services = ["a", "b", "c"].map(|name| Arc::new(service(name))).into();
        let config = DataPlaneConfig { version: 1, services, ..DataPlaneConfig::default() };
        let mut configured = Configured::new(payload_of(&encode(&Whole::Configure(config))), 1);
        assert_eq!(configured.change(gone("a", 1), 0), Applied::Yes);
        assert_eq!(configured.change(gone("b", 1), 0), Applied::No);
        assert_eq!((configured.change(gone("c", 2), 0), configured.changes.len()), (Applied::Yes, 2));
        for _ in 0..2 {
            let Whole::Configure(config) = decode(payload_of(&configured.frame().unwrap())).unwrap();
            let names: Vec<_> = config.services.iter().map(|service| service.name.as_str()).collect();
            assert_eq!((config.version, names), (3, vec!["b"]));
        }
        assert!(configured.changes.is_empty());
        assert_eq!((configured.change(gone("d", 3), 1 << 20), configured.changes.len()), (Applied::Yes, 0));
    }
}
