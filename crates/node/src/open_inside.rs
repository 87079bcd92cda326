//! Opens a path without leaving a directory that somebody else has filled.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// When something is renamed or mounted anywhere on the machine while the kernel follows a `..`, it gives up. It would
/// be unlucky a second time.
const ATTEMPTS: usize = 128;

pub(crate) fn open_inside(
    directory: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    let mut results = std::iter::repeat_with(open).take(ATTEMPTS);
    results.find(|result| !matches!(result, Err(Errno::AGAIN))).unwrap_or(Err(Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn a_rename_elsewhere_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        let over = AtomicBool::new(false);
        let opened = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    rustix::fs::renameat(CWD, at("b"), CWD, at("c")).unwrap();
                    rustix::fs::renameat(CWD, at("c"), CWD, at("b")).unwrap();
                }
            });
            let open = || open_inside(&root, Path::new("a/.."), flags, ResolveFlags::IN_ROOT).map(drop);
            let opened: Vec<_> = std::iter::repeat_with(open).take(1000).collect();
            over.store(true, Ordering::Relaxed);
            opened
        });
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    }
}
