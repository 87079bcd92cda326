//! The durable side: one SQLite file, written by one thread that puts all waiting writes into one transaction.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{Change, ChangeKind, Expected, Name, Object, OpenError, Shared, State, Write, WriteError};

/// The version of the tables below.
const VERSION: i64 = 1;

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

pub(super) struct Disk {
    connection: Connection,
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

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, State), OpenError> {
        let failed = |source| OpenError::Database { path: path.display().to_string(), source };
        let connection = Connection::open(path).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        if found > VERSION {
            return Err(OpenError::Newer { path: path.display().to_string(), found, known: VERSION });
        }
        connection.execute_batch(TABLES).map_err(failed)?;
        connection.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        let state = read_state(&connection, path)?;
        Ok((Self { connection }, state))
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
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4)")?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")?;
            for (resource, (namespace, name), change) in &batch.changes {
                match change.kind {
                    ChangeKind::Added | ChangeKind::Modified => {
                        insert.execute(params![resource, namespace, name, &change.object.json()[..]])?
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

fn read_state(connection: &Connection, path: &Path) -> Result<State, OpenError> {
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
        let text: Vec<u8> = row.get(3).map_err(failed)?;
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
