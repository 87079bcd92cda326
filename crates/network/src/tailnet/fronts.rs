//! What routing tells of the fronts of Services.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use tokio::sync::watch;

/// The fronts of Services as routing finds them. Copies say the same.
#[derive(Clone, Debug)]
pub struct Fronts(watch::Sender<Option<Open>>);

/// Ports at fronts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Open {
    /// Connections are taken there.
    pub(crate) taken: BTreeSet<SocketAddrV4>,
    /// Nobody can listen there.
    pub(crate) refused: BTreeSet<SocketAddrV4>,
}

impl Default for Fronts {
    /// Nothing is known yet.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Fronts {
    pub(crate) fn are(&self, open: Open) {
        self.0.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&open);
            *known = Some(open);
            is_new
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Open>> {
        self.0.subscribe()
    }
}
