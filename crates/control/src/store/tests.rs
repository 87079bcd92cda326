use serde_json::json;

use super::*;

fn named(name: &str) -> Name {
    ("default".to_owned(), name.to_owned())
}

fn object(name: &str, text: &str) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "data": {"text": text}})
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("store.db"), &folder.path().join("key")).unwrap()
}

#[tokio::test]
async fn acknowledged_writes_are_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    store.write("configmaps", named("a"), Expected::Revision(first.revision), object("a", "2")).await.unwrap();
    store.write("configmaps", named("b"), Expected::Absent, object("b", "1")).await.unwrap();
    let last = store.get("configmaps", "default", "b").unwrap();
    store.remove("configmaps", named("b"), last.revision).await.unwrap();

    let again = open(&folder);
    assert_eq!(again.get("configmaps", "default", "a").unwrap().value["data"]["text"], "2");
    assert!(again.get("configmaps", "default", "b").is_none());
    assert_eq!(again.revision(), 4, "revisions go on where they were, also after a removal");
}

#[tokio::test]
async fn a_write_that_expects_something_else_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    for expected in [Expected::Absent, Expected::Revision(first.revision + 7)] {
        let refused = store.write("configmaps", named("a"), expected, object("a", "2")).await;
        assert!(matches!(refused, Err(WriteError::Changed(Some(found))) if found.revision == first.revision));
    }
    assert!(matches!(store.remove("configmaps", named("b"), 1).await, Err(WriteError::Changed(None))));
    assert_eq!(store.revision(), first.revision);
}

#[tokio::test]
async fn of_many_writers_exactly_one_wins_each_revision() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "0")).await.unwrap();
    let writers = (0..50).map(|number| {
        let store = store.clone();
        let expected = Expected::Revision(first.revision);
        async move { store.write("configmaps", named("a"), expected, object("a", &number.to_string())).await.is_ok() }
    });
    let won = futures::future::join_all(writers).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let mut watch = store.watch("configmaps", 0).unwrap();
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    store.write("secrets", named("s"), Expected::Absent, object("s", "1")).await.unwrap();
    let second =
        store.write("configmaps", named("a"), Expected::Revision(first.revision), object("a", "2")).await.unwrap();
    store.remove("configmaps", named("a"), second.revision).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        kinds.extend(watch.next().await.unwrap().into_iter().map(|change| change.kind));
    }
    assert_eq!(kinds, [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted]);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    let again = open(&folder);
    assert!(again.watch("configmaps", 0).is_err());
    assert!(again.watch("configmaps", again.revision()).is_ok());
}

#[tokio::test]
async fn a_watch_that_comes_back_late_hears_every_change_as_it_was() {
    const CHANGES: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let watch = store.watch("configmaps", store.revision()).unwrap();
    let before = store.revision();
    let mut expected = Expected::Absent;
    for number in 0..CHANGES {
        let written = store.write("configmaps", named("a"), expected, object("a", &number.to_string())).await.unwrap();
        expected = Expected::Revision(written.revision);
    }
    let all = async |mut watch: Watch| {
        let mut told = Vec::new();
        while (told.len() as u64) < CHANGES {
            told.extend(watch.next().await.unwrap());
        }
        assert_eq!(watch.seen(), store.revision());
        told
    };
    let told_late = all(store.watch("configmaps", before).unwrap()).await;
    let told = all(watch).await;
    let texts = |changes: &[Change]| -> Vec<String> {
        let previous = |change: &Change| change.previous_value().map(|value| value["data"]["text"].clone());
        let text = |change: &Change| (change.kind, change.object.revision, change.object.json(), previous(change));
        changes.iter().map(|change| format!("{:?}", text(change))).collect()
    };
    assert_eq!(texts(&told), texts(&told_late));
    assert_eq!(told.len() as u64, CHANGES);
    for (number, change) in told_late.iter().enumerate() {
        assert_eq!(change.object.value["data"]["text"], number.to_string());
        assert_eq!(change.name().1, "a");
    }
    let earlier = store.list_at("configmaps", Some("default"), before + 10).unwrap();
    assert_eq!(earlier.objects[0].value["data"]["text"], "9");
}

#[tokio::test]
async fn a_list_can_show_an_earlier_revision() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    store.write("configmaps", named("a"), Expected::Revision(first.revision), object("a", "2")).await.unwrap();
    store.write("configmaps", named("b"), Expected::Absent, object("b", "1")).await.unwrap();
    let earlier = store.list_at("configmaps", Some("default"), first.revision).unwrap();
    let texts: Vec<_> = earlier.objects.iter().map(|object| object.value["data"]["text"].clone()).collect();
    assert_eq!(texts, ["1"]);
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let path = folder.path().join("store.db");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path, &folder.path().join("key")), Err(OpenError::Newer { found: 99, .. })));
}

/// Everything that the store has on disk.
fn bytes_on_disk(folder: &tempfile::TempDir) -> Vec<u8> {
    let names = ["store.db", "store.db-wal"].map(|name| folder.path().join(name));
    names.iter().flat_map(|path| std::fs::read(path).unwrap_or_default()).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn secrets_are_unreadable_without_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.write("secrets", named("a"), Expected::Absent, object("a", "hunter2")).await.unwrap();
    store.write("configmaps", named("a"), Expected::Absent, object("a", "colour")).await.unwrap();
    drop(store);
    let bytes = bytes_on_disk(&folder);
    assert!(holds(&bytes, "colour") && !holds(&bytes, "hunter2"));
    assert_eq!(open(&folder).get("secrets", "default", "a").unwrap().value["data"]["text"], "hunter2");

    let (path, key) = (folder.path().join("store.db"), folder.path().join("key"));
    std::fs::rename(&key, folder.path().join("elsewhere")).unwrap();
    assert!(matches!(Store::open(&path, &key), Err(OpenError::Key(KeyError::Missing { .. }))));
    std::fs::write(&key, "0".repeat(64)).unwrap();
    assert!(matches!(Store::open(&path, &key), Err(OpenError::Sealed { resource, .. }) if resource == "secrets"));
    std::fs::rename(folder.path().join("elsewhere"), &key).unwrap();
    assert!(open(&folder).get("secrets", "default", "a").is_some());
}

#[tokio::test]
async fn secrets_of_a_former_version_are_sealed_and_leave_nothing_readable() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let connection = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let json =
        json!({"metadata": {"namespace": "default", "name": "a", "resourceVersion": "1"}, "data": {"text": "hunter2"}});
    let row = rusqlite::params!["secrets", "default", "a", json.to_string().into_bytes()];
    connection.execute("INSERT INTO objects VALUES (?1, ?2, ?3, ?4)", row).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    assert!(holds(&bytes_on_disk(&folder), "hunter2"));
    let store = open(&folder);
    assert_eq!(store.get("secrets", "default", "a").unwrap().value["data"]["text"], "hunter2");
    assert!(!holds(&bytes_on_disk(&folder), "hunter2"));
}

#[tokio::test]
async fn deleted_secrets_of_a_former_version_leave_nothing_readable() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder));
    let connection = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let value = json!({"data": {"text": "hunter2".repeat(100)}}).to_string().into_bytes();
    let row = rusqlite::params!["secrets", "default", "a", value];
    connection.execute("INSERT INTO objects VALUES (?1, ?2, ?3, ?4)", row).unwrap();
    connection.execute_batch("DELETE FROM objects; PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    assert!(holds(&bytes_on_disk(&folder), "hunter2"));
    drop(open(&folder));
    assert!(!holds(&bytes_on_disk(&folder), "hunter2"));
}

/// Names and texts of what a store holds.
fn contents(state: &State) -> Vec<(String, Value)> {
    let configmaps = state.resources.get("configmaps");
    let objects = configmaps.into_iter().flat_map(|resource| &resource.objects);
    objects.map(|((_, name), object)| (name.clone(), object.value["data"]["text"].clone())).collect()
}

#[tokio::test]
async fn a_log_that_is_cut_anywhere_holds_every_acknowledged_write_before_the_cut_and_no_half_one() {
    // In memory: each cut is opened, and a disk would be flushed for each.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (path, log, key) =
        (folder.path().join("store.db"), folder.path().join("store.db-wal"), folder.path().join("key"));
    let store = open(&folder);
    let length = || std::fs::metadata(&log).unwrap().len();
    let mut acknowledged = vec![(length(), contents(&store.shared.read()))];
    let first = store.write("configmaps", named("a"), Expected::Absent, object("a", "1")).await.unwrap();
    acknowledged.push((length(), contents(&store.shared.read())));
    store.write("configmaps", named("b"), Expected::Absent, object("b", "1")).await.unwrap();
    acknowledged.push((length(), contents(&store.shared.read())));
    store.remove("configmaps", named("a"), first.revision).await.unwrap();
    acknowledged.push((length(), contents(&store.shared.read())));
    let (database, whole) = (std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap());

    let cut_path = folder.path().join("cut.db");
    for cut in 0..=whole.len() {
        std::fs::write(&cut_path, &database).unwrap();
        std::fs::write(folder.path().join("cut.db-wal"), &whole[..cut]).unwrap();
        let _ = std::fs::remove_file(folder.path().join("cut.db-shm"));
        let (_, state) = disk::Disk::open(&cut_path, &key).unwrap();
        let expected = acknowledged.iter().rev().find(|(length, _)| *length <= cut as u64);
        assert_eq!(contents(&state), expected.map_or_else(Vec::new, |(_, held)| held.clone()), "cut at {cut}");
    }
}

#[tokio::test]
async fn what_nobody_could_read_back_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let nested = |levels: usize| {
        let mut value = object("a", "1");
        value["data"] = (0..levels).fold(json!("x"), |inner, _| json!([inner]));
        value
    };
    let refused = store.write("configmaps", named("a"), Expected::Absent, nested(100)).await.unwrap_err();
    assert!(matches!(refused, WriteError::TooDeep));
    store.write("configmaps", named("a"), Expected::Absent, nested(99)).await.unwrap();
    drop(store);
    assert!(open(&folder).get("configmaps", "default", "a").is_some());
}
