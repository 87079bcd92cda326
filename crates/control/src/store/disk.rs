//! The durable side: one SQLite file, written by one thread that puts all waiting writes into one transaction.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::seal::{MARK, SEALED_RESOURCE, Seal};
use super::{Change, ChangeKind, Expected, Name, Object, OpenError, Shared, State, Write, WriteError};

/// The version of the tables below.
/// 2: Secrets are sealed.
const VERSION: i64 = 2;

/// Writes put into one transaction at the most, so that the first of them does not wait for ever.
const WRITES_PER_COMMIT: usize = 256;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS objects (
        resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (resource, namespace, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS revision (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), last INTEGER NOT NULL) STRICT;
    INSERT OR IGNORE INTO revision VALUES (1, 0);
";

const REPLACE: &str = "INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4)";

pub(super) struct Disk {
    connection: Connection,
    seal: Seal,
}

/// Where a caller waits for what became of its write.
type Answer = oneshot::Sender<Result<Arc<Object>, WriteError>>;

/// What the writes of one transaction have made so far, over the state that readers see.
#[derive(Default)]
struct Batch {
    revision: u64,
    pending: HashMap<(String, Name), Option<Arc<Object>>>,
    changes: Vec<(String, Name, Change)>,
    accepted: Vec<(Answer, Arc<Object>)>,
}

/// Nobody but its owner reads the store, whoever may look into its directory. SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    let mode = fs::Permissions::from_mode(0o600);
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::set_permissions(Path::new(&file), mode.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            set => set?,
        }
    }
    Ok(())
}

impl Disk {
    pub(super) fn open(path: &Path, key: &Path) -> Result<(Self, State), OpenError> {
        let failed = |source| OpenError::Database { path: path.display().to_string(), source };
        make_private(path).map_err(OpenError::Permissions)?;
        let connection = Connection::open(path).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        connection.pragma_update(None, "secure_delete", "ON").map_err(failed)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        if found > VERSION {
            return Err(OpenError::Newer { path: path.display().to_string(), found, known: VERSION });
        }
        connection.execute_batch(TABLES).map_err(failed)?;
        let seal = Seal::with_key(key, holds_sealed(&connection).map_err(failed)?)?;
        let state = read_state(&connection, path, &seal)?;
        let mut disk = Self { connection, seal };
        if found < VERSION {
            disk.seal_what_is_open(&state).map_err(failed)?;
            disk.connection.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        }
        Ok((disk, state))
    }

    /// A former version's Secrets, of which nothing readable is left then, nor of those that were deleted.
    fn seal_what_is_open(&mut self, state: &State) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        let secrets = state.resources.get(SEALED_RESOURCE).into_iter().flat_map(|secrets| &secrets.objects);
        for ((namespace, name), object) in secrets {
            let json = object.json();
            let stored = stored(&self.seal, SEALED_RESOURCE, namespace, name, &json)?;
            transaction.execute(REPLACE, params![SEALED_RESOURCE, namespace, name, stored])?;
        }
        transaction.commit()?;
        self.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
    }

    /// Serves writes until every sender is gone.
    pub(super) fn write_until_closed(mut self, shared: &Shared, mut queue: mpsc::Receiver<Write>) {
        while let Some(first) = queue.blocking_recv() {
            let mut waiting = vec![first];
            while waiting.len() < WRITES_PER_COMMIT
                && let Ok(next) = queue.try_recv()
            {
                waiting.push(next);
            }
            self.commit(shared, waiting);
        }
    }

    fn commit(&mut self, shared: &Shared, writes: Vec<Write>) {
        let mut batch = Batch { revision: shared.read().revision, ..Batch::default() };
        for write in writes {
            batch.add(shared, write);
        }
        if batch.changes.is_empty() {
            return;
        }
        match self.persist(&batch) {
            Ok(()) => {
                shared.publish(batch.changes);
                for (answer, object) in batch.accepted {
                    // A caller that is gone has lost only the answer.
                    let _ = answer.send(Ok(object));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                tracing::error!(%error, "the store could not write to disk");
                for (answer, _) in batch.accepted {
                    let _ = answer.send(Err(WriteError::Disk(error.clone())));
                }
            }
        }
    }

    fn persist(&mut self, batch: &Batch) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(REPLACE)?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")?;
            for (resource, (namespace, name), change) in &batch.changes {
                match change.kind {
                    ChangeKind::Added | ChangeKind::Modified => {
                        let json = change.object.json();
                        let stored = stored(&self.seal, resource, namespace, name, &json)?;
                        insert.execute(params![resource, namespace, name, stored])?
                    }
                    ChangeKind::Deleted => delete.execute(params![resource, namespace, name])?,
                };
            }
            let last = i64::try_from(batch.revision).unwrap_or(i64::MAX);
            transaction.prepare_cached("UPDATE revision SET last = ?1")?.execute([last])?;
        }
        transaction.commit()
    }
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<usize, OpenError> {
    let failed = |source| OpenError::Database { path: from.display().to_string(), source };
    let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(failed)?;
    let copy = Connection::open(to).map_err(failed)?;
    let count: i64 = copy.query_row("SELECT count(*) FROM objects", [], |row| row.get(0)).map_err(failed)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Batch {
    fn add(&mut self, shared: &Shared, write: Write) {
        let key = (write.resource, write.name);
        let current = match self.pending.get(&key) {
            Some(pending) => pending.clone(),
            None => shared.read().resources.get(&key.0).and_then(|found| found.objects.get(&key.1).cloned()),
        };
        let found = current.as_ref().map_or(Expected::Absent, |object| Expected::Revision(object.revision));
        let (kind, value) = match (write.value, &current) {
            _ if found != write.expected => return refuse(write.answer, current),
            (Some(value), None) => (ChangeKind::Added, value),
            (Some(value), Some(_)) => (ChangeKind::Modified, value),
            (None, Some(removed)) => (ChangeKind::Deleted, removed.value.clone()),
            (None, None) => return refuse(write.answer, None),
        };
        self.revision += 1;
        let object = Arc::new(Object::new(self.revision, value));
        self.pending.insert(key.clone(), (kind != ChangeKind::Deleted).then(|| object.clone()));
        self.changes.push((key.0, key.1, Change { kind, object: object.clone(), previous: current }));
        self.accepted.push((write.answer, object));
    }
}

fn refuse(answer: Answer, current: Option<Arc<Object>>) {
    let _ = answer.send(Err(WriteError::Changed(current)));
}

/// What is written of an object.
fn stored<'a>(
    seal: &Seal,
    resource: &str,
    namespace: &str,
    name: &str,
    json: &'a [u8],
) -> Result<Cow<'a, [u8]>, rusqlite::Error> {
    if resource != SEALED_RESOURCE {
        return Ok(Cow::Borrowed(json));
    }
    let sealed = seal.close(&bound(namespace, name), json);
    sealed.map(Cow::Owned).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// What a sealed object can't be moved away from.
fn bound(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn holds_sealed(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let question = "SELECT EXISTS (SELECT 1 FROM objects WHERE resource = ?1 AND substr(value, 1, ?2) = ?3)";
    connection.query_row(question, params![SEALED_RESOURCE, MARK.len() as i64, MARK], |row| row.get(0))
}

fn read_state(connection: &Connection, path: &Path, seal: &Seal) -> Result<State, OpenError> {
    let failed = |source| OpenError::Database { path: path.display().to_string(), source };
    let last: Option<i64> =
        connection.query_row("SELECT last FROM revision", [], |row| row.get(0)).optional().map_err(failed)?;
    let revision = last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0);
    let mut state = State { revision, opened_at: revision, ..State::default() };
    let mut select = connection.prepare("SELECT resource, namespace, name, value FROM objects").map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let (resource, namespace, name): (String, String, String) =
            (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?, row.get(2).map_err(failed)?);
        let stored: Vec<u8> = row.get(3).map_err(failed)?;
        let text = seal.open(&bound(&namespace, &name), stored).map_err(|source| OpenError::Sealed {
            path: path.display().to_string(),
            resource: resource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        })?;
        let value: Value = serde_json::from_slice(&text).map_err(|source| OpenError::Corrupt {
            path: path.display().to_string(),
            resource: resource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        })?;
        let revision =
            value["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(revision);
        let object = Arc::new(Object::new(revision, value));
        state.resources.entry(resource).or_default().objects.insert((namespace, name), object);
    }
    Ok(state)
}
