//! Where objects live: durable in a log on disk, read and watched from memory.
//! A write is answered once it would survive power loss; reads see only such writes. Knows nothing of kinds' meaning.

mod disk;
mod history;
mod seal;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use objects::size::{DEEPEST, Size};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch as notify};

use history::{History, Kept};
pub use seal::{KeyError, Unsealable};
pub use watch::{Change, ChangeKind, TooOld, Watch};

/// Writes that may wait for the disk at once; the sender waits beyond that, which is the back-pressure.
const QUEUED_WRITES: usize = 1_024;

/// The objects of every resource.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writes: mpsc::Sender<Write>,
}

/// One object as it was at one revision.
#[derive(Debug)]
pub struct Object {
    pub revision: u64,
    pub value: Value,
    json: OnceLock<Bytes>,
}

/// Names an object within its resource: `(namespace, name)`, the namespace empty for cluster-scoped kinds.
pub type Name = (String, String);

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Revision(u64),
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something else stands there than was expected: the object that does, if any.
    #[error("the object has changed")]
    Changed(Option<Arc<Object>>),
    /// Nobody could read it back.
    #[error("objects and lists are nested more than {DEEPEST} deep")]
    TooDeep,
    /// The disk refused; nothing of the write is kept.
    #[error("the store could not write to disk")]
    Disk(#[source] Arc<rusqlite::Error>),
    /// The store's writer has ended.
    #[error("the store is closed")]
    Closed,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("could not make the store readable for its owner alone")]
    Permissions(#[source] std::io::Error),
    #[error("could not open the store {path}")]
    Database {
        path: String,
        #[source]
        source: rusqlite::Error,
    },
    #[error(
        "the store {path} has version {found}, written by a newer Segue; this one reads up to {known}: use the newer version"
    )]
    Newer { path: String, found: i64, known: i64 },
    #[error("the store {path} holds an object that is not JSON: {resource} {namespace}/{name}")]
    Corrupt {
        path: String,
        resource: String,
        namespace: String,
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the store {path} holds an object that can't be read: {resource} {namespace}/{name}")]
    Sealed {
        path: String,
        resource: String,
        namespace: String,
        name: String,
        #[source]
        source: Unsealable,
    },
    #[error("could not start the store's writer thread")]
    Thread(#[source] std::io::Error),
}

/// What a list found, all at one revision.
pub struct Listing {
    pub revision: u64,
    pub objects: Vec<Arc<Object>>,
}

struct Shared {
    state: RwLock<State>,
    revision: notify::Sender<u64>,
}

#[derive(Default)]
struct State {
    revision: u64,
    resources: BTreeMap<String, Resource>,
    /// History from before this revision is gone: the revision that was found on disk.
    opened_at: u64,
}

#[derive(Default)]
struct Resource {
    objects: BTreeMap<Name, Arc<Object>>,
    history: History,
}

struct Write {
    resource: String,
    name: Name,
    expected: Expected,
    /// `None` removes the object; the last state is what watches are told.
    value: Option<Value>,
    answer: oneshot::Sender<Result<Arc<Object>, WriteError>>,
}

/// Copies a store that may be in use: what it held at one moment. Gives how many objects that is.
///
/// # Errors
/// When it can't be read, or the copy can't be written; then there is none.
pub fn copy(from: &Path, to: &Path) -> Result<usize, OpenError> {
    disk::copy(from, to)
}

/// Reads all of a store, and gives how many objects it holds.
///
/// # Errors
/// As [`Store::open`].
pub fn check(path: &Path, key: &Path) -> Result<usize, OpenError> {
    let (_, state) = disk::Disk::open(path, key)?;
    Ok(state.resources.values().map(|resource| resource.objects.len()).sum())
}

impl Store {
    /// Opens the store file, making it if there is none, and reads everything into memory. Secrets are sealed with the
    /// key in the file `key`, which is made with the store.
    ///
    /// # Errors
    /// When the file can't be opened or read, was written by a newer Segue, or can't be unsealed; it is not changed then.
    pub fn open(path: &Path, key: &Path) -> Result<Self, OpenError> {
        let (disk, state) = disk::Disk::open(path, key)?;
        let shared = Arc::new(Shared { revision: notify::Sender::new(state.revision), state: RwLock::new(state) });
        let (writes, queue) = mpsc::channel(QUEUED_WRITES);
        let writer = shared.clone();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || disk.write_until_closed(&writer, queue))
            .map_err(OpenError::Thread)?;
        Ok(Self { shared, writes })
    }

    /// The revision of the newest write.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.read().revision
    }

    /// One object.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.read().resources.get(resource)?.objects.get(&key).cloned()
    }

    /// All objects of a resource, or those in one namespace, in order of name.
    #[must_use]
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Listing {
        let state = self.shared.read();
        let objects = state.resources.get(resource).map_or_else(Vec::new, |found| found.select(namespace));
        Listing { revision: state.revision, objects }
    }

    /// The objects as they were at an earlier revision, if the history reaches back that far.
    ///
    /// # Errors
    /// [`TooOld`] when it doesn't.
    pub fn list_at(&self, resource: &str, namespace: Option<&str>, revision: u64) -> Result<Listing, TooOld> {
        let state = self.shared.read();
        let (mut objects, kept) = match state.resources.get(resource) {
            None if revision < state.opened_at => return Err(TooOld),
            None => return Ok(Listing { revision, objects: Vec::new() }),
            Some(found) if revision < found.history.compacted.max(state.opened_at) => return Err(TooOld),
            Some(found) => (found.objects.clone(), found.history.since(revision).collect::<Vec<_>>()),
        };
        // Nobody waits for what was long ago to be made again.
        drop(state);
        for (name, previous) in kept.into_iter().rev().map(Kept::before) {
            match previous {
                Some(previous) => objects.insert(name, previous),
                None => objects.remove(&name),
            };
        }
        let objects = Resource { objects, ..Resource::default() }.select(namespace);
        Ok(Listing { revision, objects })
    }

    /// Writes an object, giving it the next revision, and returns it as stored.
    ///
    /// # Errors
    /// [`WriteError::Changed`] when what is there isn't what was expected; nothing is changed on any error.
    pub async fn write(
        &self,
        resource: &str,
        name: Name,
        expected: Expected,
        value: Value,
    ) -> Result<Arc<Object>, WriteError> {
        if Size::of(&value).depth > DEEPEST {
            return Err(WriteError::TooDeep);
        }
        self.submit(resource, name, expected, Some(value)).await
    }

    /// Removes an object that is at a revision and returns its last state, with the revision of the removal.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn remove(&self, resource: &str, name: Name, revision: u64) -> Result<Arc<Object>, WriteError> {
        self.submit(resource, name, Expected::Revision(revision), None).await
    }

    /// Waits until the store has reached a revision; false when `limit` passed first.
    pub async fn wait_for_revision(&self, revision: u64, limit: Duration) -> bool {
        let mut seen = self.shared.revision.subscribe();
        let reached = seen.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Follows a resource from just after a revision.
    ///
    /// # Errors
    /// [`TooOld`] when changes since then are no longer known.
    pub fn watch(&self, resource: &str, after: u64) -> Result<Watch, TooOld> {
        let state = self.shared.read();
        let compacted = state.resources.get(resource).map_or(0, |found| found.history.compacted);
        if after < compacted.max(state.opened_at) {
            return Err(TooOld);
        }
        Ok(Watch::new(self.shared.clone(), resource.to_owned(), after))
    }

    async fn submit(
        &self,
        resource: &str,
        name: Name,
        expected: Expected,
        value: Option<Value>,
    ) -> Result<Arc<Object>, WriteError> {
        let (answer, answered) = oneshot::channel();
        let write = Write { resource: resource.to_owned(), name, expected, value, answer };
        self.writes.send(write).await.map_err(|_| WriteError::Closed)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }
}

impl Object {
    /// An object at a revision, which is also written into `metadata.resourceVersion`.
    fn new(revision: u64, mut value: Value) -> Self {
        value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
        Self { revision, value, json: OnceLock::new() }
    }

    /// One of which this is the text.
    fn of_json(revision: u64, json: &Bytes) -> Self {
        // It was made of an object.
        let value = serde_json::from_slice(json).unwrap_or_default();
        Self { revision, value, json: OnceLock::from(json.clone()) }
    }

    /// The object as JSON text, made once.
    pub fn json(&self) -> Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string())).clone()
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is changed by whole insertions only, so it is sound even after a panic elsewhere.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, changes: Vec<(String, Name, Change)>) {
        let Some(revision) = changes.last().map(|(_, _, change)| change.object.revision) else { return };
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.revision = revision;
            for (resource, name, change) in changes {
                state.resources.entry(resource).or_default().apply(name, change);
            }
        }
        self.revision.send_replace(revision);
    }
}

impl Resource {
    fn apply(&mut self, name: Name, change: Change) {
        match change.kind {
            ChangeKind::Added | ChangeKind::Modified => self.objects.insert(name, change.object.clone()),
            ChangeKind::Deleted => self.objects.remove(&name),
        };
        self.history.push(change);
    }

    fn select(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        match namespace {
            None => self.objects.values().cloned().collect(),
            Some(namespace) => self
                .objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((found, _), _)| found == namespace)
                .map(|(_, object)| object.clone())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
