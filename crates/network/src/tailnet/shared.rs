//! What routing and the tailnet tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddrV4};

use tokio::sync::watch;

/// The latest that one side says. Copies say the same.
#[derive(Clone, Debug)]
pub struct Shared<T>(watch::Sender<Option<T>>);

/// What routing says: the ports at fronts of Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fronts {
    /// Connections are taken there.
    pub(crate) taken: BTreeSet<SocketAddrV4>,
    /// Nobody can listen there.
    pub(crate) refused: BTreeSet<SocketAddrV4>,
}

/// What the tailnet says: the addresses of the names that Services stand for, as far as there are any.
pub type Peers = BTreeMap<String, Vec<IpAddr>>;

impl<T> Default for Shared<T> {
    /// Nothing is known yet.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl<T: Clone + PartialEq> Shared<T> {
    /// Says something, unless it was said last.
    pub fn tell(&self, news: T) {
        self.0.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&news);
            *known = Some(news);
            is_new
        });
    }

    /// None until something was told.
    #[must_use]
    pub fn known(&self) -> Option<T> {
        self.0.borrow().clone()
    }

    /// Follows what is said.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<T>> {
        self.0.subscribe()
    }
}
