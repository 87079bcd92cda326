//! What routing tells of the fronts of exposed Services.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// The Services at whose fronts connections are taken. Copies say the same.
#[derive(Clone, Debug)]
pub struct Fronts(watch::Sender<Option<BTreeSet<String>>>);

impl Default for Fronts {
    /// Nothing is known yet.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Fronts {
    /// Keys of Services, `namespace/name`.
    pub(crate) fn are_taken(&self, services: BTreeSet<String>) {
        self.0.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&services);
            *known = Some(services);
            is_new
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<BTreeSet<String>>> {
        self.0.subscribe()
    }
}
