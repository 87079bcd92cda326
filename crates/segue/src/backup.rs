//! `segue backup` and `segue restore`: everything that was declared, in one file. The store may be in use meanwhile:
//! what is copied is what it held at one moment.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use control::store;
use tar::{Archive, Builder, Header};

use crate::cli::{Backup, Restore};
use crate::settings::Directories;
use crate::{preflight, show};

/// What a backup has of the data directory beside the store, where it is there: keys and certificates, and profiles.
const DIRECTORIES: [&str; 2] = ["pki", "seccomp"];
const STORE: &str = "store.db";
const KEY: &str = "store.key";

/// Writes a backup. Nothing is left of one that can't be finished.
pub(crate) fn backup(options: &Backup) -> anyhow::Result<()> {
    let directories = Directories::find(&options.directory.data_dir)?;
    ensure!(directories.store().exists(), "there is no store in {}: nothing to back up", directories.data.display());
    let unfinished = with_suffix(&options.file, ".unfinished");
    let written = write(&directories, &unfinished, options.with_key);
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&unfinished);
    }
    let objects = written?;
    fs::rename(&unfinished, &options.file)
        .with_context(|| format!("could not move the backup to {}", options.file.display()))?;
    show::line(&format!("backed up {objects} objects to {}", options.file.display()));
    if !options.with_key {
        let key = directories.store_key();
        show::line(&format!(
            "Its Secrets can be read only with {}, which is not in it: keep that elsewhere",
            key.display()
        ));
    }
    Ok(())
}

fn write(directories: &Directories, file: &Path, with_key: bool) -> anyhow::Result<usize> {
    let scratch = tempfile::tempdir_in(&directories.data).context("could not make a directory for the copy")?;
    let copy = scratch.path().join(STORE);
    let objects = store::copy(&directories.store(), &copy)?;
    let output = File::options().create(true).write(true).truncate(true).mode(0o600).open(file);
    let mut archive = Builder::new(output.with_context(|| format!("could not make {}", file.display()))?);
    let failed = || format!("could not write {}", file.display());
    archive.append_path_with_name(&copy, STORE).with_context(failed)?;
    for name in DIRECTORIES.iter().filter(|name| directories.data.join(name).is_dir()) {
        archive.append_dir_all(name, directories.data.join(name)).with_context(failed)?;
    }
    if with_key {
        // Whatever it is a link to.
        let key = fs::read(directories.store_key()).context("could not read the store's key")?;
        let mut header = Header::new_gnu();
        header.set_size(key.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, KEY, key.as_slice()).with_context(failed)?;
    }
    archive.into_inner().and_then(|output| output.sync_all()).with_context(failed)?;
    Ok(objects)
}

/// Puts a backup in place of what there is, which is kept beside it.
pub(crate) fn restore(options: &Restore) -> anyhow::Result<()> {
    let directories = Directories::find(&options.directory.data_dir)?;
    ensure!(
        is_idle(&directories),
        "an engine or its pods run on {}: end them with `segue down` first",
        directories.data.display()
    );
    directories.make().with_context(|| format!("could not make {}", directories.data.display()))?;
    let lock = preflight::lock(&directories)?;
    let restored = restore_alone(&directories, options);
    drop(lock);
    directories.remove_run().context("could not remove the run directory")?;
    let objects = restored?;
    show::line(&format!("restored {objects} objects into {}; `segue up` brings them back", directories.data.display()));
    Ok(())
}

fn restore_alone(directories: &Directories, options: &Restore) -> anyhow::Result<usize> {
    if directories.store().exists() && !options.replace {
        bail!("there is a store in {} already: --replace moves it aside", directories.data.display());
    }
    let scratch = tempfile::tempdir_in(&directories.data).context("could not make a directory to unpack to")?;
    unpack(&options.file, scratch.path())?;
    let copy = scratch.path().join(STORE);
    ensure!(copy.exists(), "{} has no store in it: it is no backup of Segue", options.file.display());
    let key = if scratch.path().join(KEY).exists() { scratch.path().join(KEY) } else { directories.store_key() };
    let objects = store::check(&copy, &key)?;
    flush(scratch.path()).context("could not flush what was unpacked")?;
    put_in_place(directories, scratch.path())?;
    Ok(objects)
}

fn unpack(file: &Path, into: &Path) -> anyhow::Result<()> {
    let failed = || format!("could not read the backup {}", file.display());
    let mut archive = Archive::new(File::open(file).with_context(failed)?);
    archive.set_preserve_permissions(true);
    archive.unpack(into).with_context(failed)
}

/// Whether neither an engine nor a pod is on a directory; all that a restore leaves is its lock.
fn is_idle(directories: &Directories) -> bool {
    let entries = fs::read_dir(&directories.run).into_iter().flatten().flatten();
    let is_nothing = |path: PathBuf| {
        path == directories.engine_lock() || fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none())
    };
    entries.into_iter().all(|entry| is_nothing(entry.path()))
}

/// Nothing takes the place of what there was before it is on disk.
fn flush(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            flush(&path)?;
        } else if path.is_file() {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(directory)?.sync_all()
}

/// The key of an earlier restore may be the only one of backups that have none, so it is never removed.
fn keep_key(directories: &Directories) -> io::Result<()> {
    let (key, old) = (directories.store_key(), aside(&directories.store_key()));
    if !old.exists() || fs::read(&old)? == fs::read(&key).unwrap_or_default() {
        return Ok(());
    }
    let free = (1_u32..).map(|number| with_suffix(&old, &format!(".{number}"))).find(|path| !path.exists());
    free.map_or(Ok(()), |free| fs::rename(&old, free))
}

/// The store goes first and comes last: until it is there, nothing is restored, and no engine starts.
fn put_in_place(directories: &Directories, from: &Path) -> anyhow::Result<()> {
    let parts = [STORE, "store.db-wal", "store.db-shm", KEY].into_iter().chain(DIRECTORIES);
    if !is_half_restored(directories) {
        keep_key(directories).context("could not keep the key of an earlier restore")?;
        for name in parts.clone() {
            let aside = aside(&directories.data.join(name));
            remove(&aside).with_context(|| format!("could not remove {}", aside.display()))?;
        }
    }
    let comes = |name: &str| from.join(name).exists();
    for name in parts.filter(|name| comes(name) || name.starts_with(STORE)) {
        let place = directories.data.join(name);
        move_aside(&place).with_context(|| format!("could not move {} aside", place.display()))?;
    }
    for name in DIRECTORIES.into_iter().chain([KEY, STORE]).filter(|name| comes(name)) {
        let place = directories.data.join(name);
        fs::rename(from.join(name), &place).with_context(|| format!("could not put {} in place", place.display()))?;
    }
    File::open(&directories.data).and_then(|directory| directory.sync_all()).context("could not flush the directory")
}

/// Whether a restore was interrupted: what there was stands aside.
pub(crate) fn is_half_restored(directories: &Directories) -> bool {
    !directories.store().exists() && aside(&directories.store()).exists()
}

/// What stands aside already is what there was; what stands in its place was put there by an interrupted restore.
fn move_aside(path: &Path) -> io::Result<()> {
    let aside = aside(path);
    if fs::symlink_metadata(&aside).is_ok() {
        return remove(path);
    }
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn aside(path: &Path) -> PathBuf {
    with_suffix(path, ".before-restore")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(directory: &Path, parts: &[&str], content: &str) {
        for part in parts {
            let path = directory.join(part);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn no_key_that_may_be_the_only_one_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::find(data.path()).unwrap();
        fill(data.path(), &["store.db"], "old");
        let names = ["first", "second", "third", "third"];
        for name in names {
            fill(data.path(), &["store.key"], name);
            let backup = tempfile::tempdir_in(data.path()).unwrap();
            fill(backup.path(), &["store.db", "store.key"], "from the backup");
            put_in_place(&directories, backup.path()).unwrap();
        }
        let kept = [".before-restore", ".before-restore.1", ".before-restore.2"]
            .map(|suffix| fs::read_to_string(data.path().join(format!("store.key{suffix}"))).unwrap());
        assert_eq!(kept, ["third", "first", "second"]);
    }

    #[test]
    fn an_interrupted_restore_keeps_what_there_was_until_one_is_done() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories::find(data.path()).unwrap();
        let read = |part: &str| fs::read_to_string(data.path().join(part)).ok();
        let old = ["store.db", "store.db-wal", "store.key", "pki/ca.key"];
        fill(data.path(), &old, "old");
        fill(data.path(), &["store.db-wal.before-restore"], "older");

        let backup = tempfile::tempdir_in(data.path()).unwrap();
        fill(backup.path(), &["store.db", "pki/ca.key"], "new");
        // It comes as far as before the last step.
        fs::remove_file(backup.path().join("store.db")).unwrap();
        put_in_place(&directories, backup.path()).unwrap();
        assert!(is_half_restored(&directories));
        assert_eq!(read("store.db-wal.before-restore").as_deref(), Some("old"));

        fill(backup.path(), &["store.db", "pki/ca.key"], "new");
        put_in_place(&directories, backup.path()).unwrap();
        assert!(!is_half_restored(&directories));
        for (part, expected) in [("store.db", "new"), ("pki/ca.key", "new"), ("store.key", "old")] {
            assert_eq!(read(part).as_deref(), Some(expected), "{part}");
        }
        assert_eq!(read("store.db-wal"), None);
        for part in ["store.db.before-restore", "store.db-wal.before-restore", "pki.before-restore/ca.key"] {
            assert_eq!(read(part).as_deref(), Some("old"), "{part}");
        }
    }
}
