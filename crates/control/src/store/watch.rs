//! Following changes: each watch reads the history at its own pace and is told when there is more.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch as notify;

use super::history::Kept;
use super::{Name, Object, Shared};

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// The object after the change; for a deletion its last state, at the deletion's revision.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// Changes since that revision are no longer known: list anew.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version")]
pub struct TooOld;

/// Changes that are made again at a time for whoever is behind.
const AT_ONCE: usize = 64;

/// A place in the history of one resource.
pub struct Watch {
    shared: Arc<Shared>,
    resource: String,
    seen: u64,
    revision: notify::Receiver<u64>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, resource: String, seen: u64) -> Self {
        let revision = shared.revision.subscribe();
        Self { shared, resource, seen, revision }
    }

    /// The revision up to which changes have been given out.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for the next changes, oldest first, some at a time; none when the store has closed.
    ///
    /// # Errors
    /// [`TooOld`] when the reader was so slow that changes it hasn't seen are gone.
    pub async fn next(&mut self) -> Result<Vec<Change>, TooOld> {
        loop {
            self.revision.mark_unchanged();
            let changes = self.take_new()?;
            if !changes.is_empty() || self.revision.changed().await.is_err() {
                return Ok(changes);
            }
        }
    }

    fn take_new(&mut self) -> Result<Vec<Change>, TooOld> {
        let state = self.shared.read();
        let Some(resource) = state.resources.get(&self.resource) else {
            self.seen = state.revision;
            return Ok(Vec::new());
        };
        if self.seen < resource.history.compacted {
            return Err(TooOld);
        }
        let kept: Vec<Kept> = resource.history.since(self.seen).take(AT_ONCE).collect();
        // Of what is left, the last one's revision is where to go on.
        self.seen = kept.last().filter(|_| kept.len() == AT_ONCE).map_or(state.revision, Kept::revision);
        // Nobody waits for what was long ago to be made again.
        drop(state);
        Ok(kept.into_iter().map(Kept::change).collect())
    }
}

impl Change {
    /// The changed object's namespace and name.
    #[must_use]
    pub fn name(&self) -> Name {
        let text = |field: &str| self.object.value["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    }

    /// The object's value before the change.
    #[must_use]
    pub fn previous_value(&self) -> Option<&Value> {
        self.previous.as_ref().map(|previous| &previous.value)
    }
}
