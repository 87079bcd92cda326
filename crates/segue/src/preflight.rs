//! What must hold before an engine starts. Everything is checked before anything is changed, and each complaint says
//! what to do next.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::backup;
use crate::cli::Up;
use crate::settings::Directories;

/// cgroup controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// The first port that users other than root may take, unless the machine was told otherwise.
const FIRST_OF_OTHERS: u32 = 1024;

/// Why an engine can't start here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHere {
    #[error("segue needs root: it makes network namespaces, mounts and cgroups; run it with sudo")]
    NotRoot,
    #[error("the kernel has no overlay filesystem: load it with `modprobe overlay`, or use a kernel that has it")]
    NoOverlay,
    #[error("the kernel has no {0} namespaces: use a kernel built with them (Debian's and Ubuntu's are)")]
    NoNamespace(&'static str),
    #[error(
        "the cgroup controller `{0}` is not available under /sys/fs/cgroup: mount the cgroup hierarchy, or enable the controller on the kernel's command line"
    )]
    NoController(&'static str),
    #[error("the address {listen} can't be listened on: {source}; choose another with --listen")]
    PortTaken { listen: SocketAddr, source: std::io::Error },
    #[error("--listen {0}: the API listens on loopback addresses only; use 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    #[error(
        "--mesh: ports below {first} may be taken by any user, who could then speak for this machine: `sysctl -w net.ipv4.ip_unprivileged_port_start={first}`"
    )]
    OpenPorts { first: u32 },
    #[error("another engine runs on the data directory {0}: stop it first, or choose another with --data-dir")]
    OtherEngine(PathBuf),
    #[error(
        "a restore into {0} was interrupted: finish it with `segue restore --replace FILE`, or take it back by moving each *.before-restore there to its former name"
    )]
    HalfRestored(PathBuf),
    #[error("the directory {path} can't be used: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
}

/// Checks everything that an engine needs, in the order in which users can mend it; changes nothing. The listener is
/// the API's.
pub(crate) fn check(options: &Up) -> anyhow::Result<TcpListener> {
    check_machine()?;
    let directories = Directories::find(&options.directory.data_dir)?;
    if is_running(&directories) {
        return Err(NotHere::OtherEngine(directories.data).into());
    }
    check_restored(&directories)?;
    if options.mesh.is_some() {
        check_mesh_ports(&fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default())?;
    }
    let listener = listen(options.listen)?;
    check_network(options, &directories)?;
    Ok(listener)
}

/// Refuses a directory on which a restore was interrupted.
pub(crate) fn check_restored(directories: &Directories) -> Result<(), NotHere> {
    if backup::is_half_restored(directories) {
        return Err(NotHere::HalfRestored(directories.data.clone()));
    }
    Ok(())
}

/// Checks that the address ranges are free.
pub(crate) fn check_network(options: &Up, directories: &Directories) -> anyhow::Result<()> {
    Ok(network::preflight::check(&options.rules(directories))?)
}

/// Checks the machine; changes nothing.
pub(crate) fn check_machine() -> Result<(), NotHere> {
    if !rustix::process::geteuid().is_root() {
        return Err(NotHere::NotRoot);
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        return Err(NotHere::NoOverlay);
    }
    for (file, name) in [("net", "network"), ("pid", "PID"), ("mnt", "mount"), ("ipc", "IPC"), ("uts", "UTS")] {
        if !Path::new("/proc/self/ns").join(file).exists() {
            return Err(NotHere::NoNamespace(name));
        }
    }
    let missing = CONTROLLERS.into_iter().find(|controller| !has_controller(Path::new("/sys/fs/cgroup"), controller));
    missing.map_or(Ok(()), |controller| Err(NotHere::NoController(controller)))
}

/// Engines know each other by ports that only root may use. Takes the first one that others may.
fn check_mesh_ports(first_of_others: &str) -> Result<(), NotHere> {
    match first_of_others.trim().parse::<u32>() {
        Ok(first) if first >= FIRST_OF_OTHERS => Ok(()),
        Ok(_) | Err(_) => Err(NotHere::OpenPorts { first: FIRST_OF_OTHERS }),
    }
}

/// Takes the address of the API, so that nothing is changed when it is taken.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, NotHere> {
    if !address.ip().is_loopback() {
        return Err(NotHere::NotLoopback(address));
    }
    TcpListener::bind(address).map_err(|source| NotHere::PortTaken { listen: address, source })
}

/// Takes the lock that makes this the only engine on its directory; it is held as long as the file is open.
pub(crate) fn lock(directories: &Directories) -> Result<File, NotHere> {
    let path = directories.engine_lock();
    let unusable = |source| NotHere::Directory { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(NotHere::OtherEngine(directories.data.clone())),
        Err(error) => Err(unusable(error.into())),
    }
}

/// Whether an engine runs on a directory.
pub(crate) fn is_running(directories: &Directories) -> bool {
    let lock = File::open(directories.engine_lock());
    lock.is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
}

/// A controller is a directory of its own on v1, and a word in `cgroup.controllers` on v2.
fn has_controller(root: &Path, controller: &str) -> bool {
    let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    root.join(controller).join("cgroup.procs").exists() || unified.split_whitespace().any(|found| found == controller)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_found_on_both_versions() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_controller(root.path(), "memory"));
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert!(has_controller(root.path(), "memory"));
        fs::create_dir(root.path().join("freezer")).unwrap();
        fs::write(root.path().join("freezer/cgroup.procs"), "").unwrap();
        assert!(has_controller(root.path(), "freezer"));
    }

    #[test]
    fn the_second_lock_is_refused_while_the_first_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let directories =
            Directories { data: folder.path().into(), run: folder.path().into(), instance: "test".into() };
        let held = lock(&directories).unwrap();
        assert!(matches!(lock(&directories), Err(NotHere::OtherEngine(_))));
        assert!(is_running(&directories));
        drop(held);
        assert!(!is_running(&directories));
        assert!(lock(&directories).is_ok());
    }

    #[test]
    fn a_mesh_needs_ports_of_root() {
        assert!(check_mesh_ports("1024\n").is_ok() && check_mesh_ports("2000\n").is_ok());
        assert!(
            check_mesh_ports("0\n").is_err() && check_mesh_ports("746\n").is_err() && check_mesh_ports("").is_err()
        );
    }

    #[test]
    fn an_address_for_everyone_is_refused() {
        assert!(matches!(listen("0.0.0.0:0".parse().unwrap()), Err(NotHere::NotLoopback(_))));
    }
}
