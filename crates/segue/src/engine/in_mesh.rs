//! What the engine's part in a mesh has to know.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use network::config::Secret;
use network::tailnet::LocalApi;
use network::{mesh, routing};

use crate::cli::Up;
use crate::settings::Directories;

/// None without `--mesh`.
pub(super) fn settings(
    options: &Up,
    directories: &Directories,
    daemon: &LocalApi,
    routing: &routing::Settings,
) -> anyhow::Result<Option<mesh::Settings>> {
    let (Some(tag), Some(machines)) = (&options.mesh, &routing.machines) else { return Ok(None) };
    Ok(Some(mesh::Settings {
        daemon: daemon.clone(),
        tag: tag.clone(),
        port: options.mesh_port,
        start: next_start(directories)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        key: key(&directories.mesh_key())?,
        memory: directories.mesh_memory(),
        machines: machines.clone(),
        here: routing.here.clone(),
    }))
}

/// The same for as long as the data directory is there: the proxies of other machines outlive this engine.
fn key(path: &Path) -> anyhow::Result<Secret> {
    let about = || format!("{} can't be read or made", path.display());
    if !path.exists() {
        let mut random = [0; 32];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).with_context(about)?;
        let unfinished = path.with_extension("unfinished");
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&unfinished);
        file.as_mut().map_or(Ok(()), |file| file.write_all(key.as_bytes())).with_context(about)?;
        file.and_then(|file| file.sync_all()).and_then(|()| fs::rename(&unfinished, path)).with_context(about)?;
    }
    Ok(Secret(fs::read_to_string(path).with_context(about)?.trim().to_owned()))
}

/// Grows with each start of the engine, also when the machine's clock went back meanwhile.
fn next_start(directories: &Directories) -> anyhow::Result<u64> {
    let path = directories.starts();
    let last = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} holds no number", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    // A data directory may be made anew on the same machine.
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let next = now.max(last + 1);
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, next.to_string())
        .and_then(|()| fs::rename(&unfinished, &path))
        .with_context(|| format!("can't write {}", path.display()))?;
    Ok(next)
}
