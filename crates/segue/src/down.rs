//! `segue down`: drain and stop everything that an engine runs, and leave only its data directory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::{Down, Up};
use crate::engine::Engine;
use crate::engine_socket::{self, Order};
use crate::settings::Directories;
use crate::{preflight, show};

/// Stops everything. An engine that runs is asked to; where none runs, this process takes its place for as long.
#[tokio::main]
pub(crate) async fn down(options: &Down) -> anyhow::Result<()> {
    preflight::check_machine()?;
    let directories = Directories::find(&options.directory.data_dir)?;
    if preflight::is_running(&directories) {
        engine_socket::order(&directories.engine_socket(), &Order::Down, show::line)
            .await
            .context("the engine could not take everything down")?;
    } else if directories.run.exists() {
        let mut engine = Engine::start_closed(&Up::on(&options.directory)).await?;
        engine.stop_everything(&mut async |line: String| show::line(&line)).await?;
    } else {
        show::line("nothing is running");
    }
    if options.purge && directories.data.exists() {
        check_nothing_is_mounted(&directories.data)?;
        fs::remove_dir_all(&directories.data)
            .with_context(|| format!("could not remove {}", directories.data.display()))?;
        show::line(&format!("removed {}", directories.data.display()));
    } else if directories.data.exists() {
        show::line(&format!("what was declared is kept in {}", directories.data.display()));
    }
    Ok(())
}

/// Refuses while something is mounted below a directory: removing that would reach into what is mounted.
fn check_nothing_is_mounted(directory: &Path) -> anyhow::Result<()> {
    let directory = directory.canonicalize()?;
    let mounts = mounts_below(&fs::read_to_string("/proc/self/mountinfo")?, &directory);
    let Some(first) = mounts.first() else { return Ok(()) };
    anyhow::bail!(
        "{} is not removed, since something is mounted at {}: unmount it, and run the command again",
        directory.display(),
        first.display()
    )
}

/// Mount points below a directory (`proc_pid_mountinfo(5)`).
fn mounts_below(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// A path in which blanks and backslashes stand as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_directory_is_found() {
        let mountinfo = "\
36 35 98:0 / / rw - ext4 /dev/root rw
41 36 0:5 / /srv/my\\040data/pods/dev rw shared:2 - devtmpfs devtmpfs rw
42 36 0:6 / /srv/my\\040database rw - tmpfs tmpfs rw
";
        assert_eq!(mounts_below(mountinfo, Path::new("/srv/my data")), [Path::new("/srv/my data/pods/dev")]);
        assert_eq!(mounts_below(mountinfo, Path::new("/srv/other")), Vec::<PathBuf>::new());
    }
}
