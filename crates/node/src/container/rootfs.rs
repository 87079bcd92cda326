//! The container's root filesystem, mounted as an overlay in the shim's own mount namespace: it vanishes with the
//! shim, however that ends. Paths inside it are only ever resolved as the container would.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::Overlay;
use crate::open_inside::open_inside;

/// Nothing in it outlives the machine's next start, so nothing has to reach the disk when it is unmounted, which would
/// keep the shim waiting.
const VOLATILE: &str = "volatile";

/// Why a root filesystem could not be made or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("a root filesystem needs at least one layer")]
    NoLayers,
    #[error("cannot create directory {path:?}")]
    CreateDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount the overlay of {layers} layers at {target:?}")]
    MountOverlay {
        layers: usize,
        target: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount memory at {target:?}")]
    MountTmpfs {
        target: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot create working directory {path:?} in the container")]
    WorkingDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {path:?} of volume {volume:?}")]
    SubPath {
        volume: PathBuf,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot unmount {target:?}")]
    Unmount {
        target: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Mounts the overlay, on which devices don't work. Directories that are missing are made; `upper` becomes `/`.
pub(crate) fn mount(overlay: &Overlay, target: &Path) -> Result<(), RootfsError> {
    if overlay.lower.is_empty() {
        return Err(RootfsError::NoLayers);
    }
    for path in [&overlay.upper, &overlay.work, target] {
        create_directory(path)?;
    }
    // What a volatile mount leaves, so that its directories aren't used again; for a second try at the same container
    // they may be. Whether there is such a thing, the kernel says when mounting.
    let _ = fs::remove_dir_all(overlay.work.join("work/incompat/volatile"));
    mount_overlay(overlay, target).map_err(|source| RootfsError::MountOverlay {
        layers: overlay.lower.len(),
        target: target.to_owned(),
        source,
    })
}

/// Kernels before 6.5 take all layers in one string instead. Some say so only when everything is there.
fn mount_overlay(overlay: &Overlay, target: &Path) -> io::Result<()> {
    match mount_overlay_by_layers(overlay, target) {
        Err(Errno::INVAL) => mount_overlay_by_options(overlay, target),
        result => Ok(result?),
    }
}

fn mount_overlay_by_layers(overlay: &Overlay, target: &Path) -> Result<(), Errno> {
    let filesystem = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in overlay.lower.iter().rev() {
        rustix::mount::fsconfig_set_string(&filesystem, "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(&filesystem, "upperdir", &overlay.upper)?;
    rustix::mount::fsconfig_set_string(&filesystem, "workdir", &overlay.work)?;
    rustix::mount::fsconfig_set_flag(&filesystem, VOLATILE)?;
    rustix::mount::fsconfig_create(&filesystem)?;
    attach(&filesystem, target)
}

fn attach(filesystem: &OwnedFd, target: &Path) -> Result<(), Errno> {
    let mounted =
        rustix::mount::fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    rustix::mount::move_mount(mounted.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount_overlay_by_options(overlay: &Overlay, target: &Path) -> io::Result<()> {
    let lower: Vec<String> = overlay.lower.iter().rev().map(|layer| escaped(layer)).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), escaped(&overlay.upper), escaped(&overlay.work));
    let mount = |options: String| -> io::Result<()> {
        let options = std::ffi::CString::new(options)?;
        Ok(rustix::mount::mount("overlay", target, "overlay", MountFlags::NODEV, options.as_c_str())?)
    };
    // Kernels before 5.10 don't know the last of them.
    mount(format!("{options},{VOLATILE}")).or_else(|_| mount(options))
}

fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

/// Mounts memory at a directory, unless that has been done.
pub(crate) fn mount_tmpfs(target: &Path, size_bytes: Option<u64>) -> Result<(), RootfsError> {
    create_directory(target)?;
    let size = size_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let failed = |source| RootfsError::MountTmpfs { target: target.to_owned(), source };
    let options = std::ffi::CString::new(format!("mode=1777{size}")).map_err(|error| failed(error.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str()).map_err(|errno| failed(errno.into()))
}

/// Unmounts; what isn't mounted is no error.
pub(crate) fn unmount(target: &Path) -> Result<(), RootfsError> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(RootfsError::Unmount { target: target.to_owned(), source: errno.into() }),
    }
}

/// Makes the working directory in the container, as every runtime does. Links are followed within `rootfs` only.
pub(crate) fn create_working_directory(rootfs: &Path, cwd: &Path) -> Result<(), RootfsError> {
    let opened = open_within(rootfs, cwd, Mode::from_raw_mode(0o755));
    let is_directory = opened.and_then(|opened| Ok(rustix::fs::fstat(opened)?.st_mode));
    match is_directory.map(FileType::from_raw_mode) {
        Ok(FileType::Directory) => Ok(()),
        Ok(_) => Err(Errno::NOTDIR.into()),
        Err(error) => Err(error),
    }
    .map_err(|source| RootfsError::WorkingDirectory { path: cwd.to_owned(), source })
}

/// Mounts what is at `path` in a volume at `target`, which is made. Links are followed within the volume only.
pub(crate) fn mount_sub_path(volume: &Path, path: &Path, target: &Path) -> Result<(), RootfsError> {
    let mount = || -> io::Result<()> {
        let opened = open_within(volume, path, rustix::fs::stat(volume)?.st_mode.into())?;
        make_place_for(&opened, target)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let flags = clone | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(&opened, "", flags)?;
        Ok(rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    };
    mount().map_err(|source| RootfsError::SubPath { volume: volume.to_owned(), path: path.to_owned(), source })
}

fn make_place_for(opened: &OwnedFd, target: &Path) -> io::Result<()> {
    target.parent().map_or(Ok(()), fs::create_dir_all)?;
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(opened)?.st_mode) == FileType::Directory;
    if is_directory { fs::create_dir_all(target) } else { fs::File::create(target).map(drop) }
}

/// Opens what is at `path` as it is seen from `root`; directories that are missing on the way are made.
fn open_within(root: &Path, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let open = |path: &Path| open_inside(&root, path, flags, ResolveFlags::IN_ROOT);
    let mut reached = PathBuf::from("/");
    let mut opened = open(&reached)?;
    for name in path.components().filter(|part| *part != Component::RootDir) {
        reached.push(name);
        opened = match open(&reached) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&opened, name.as_os_str(), mode)?;
                open(&reached)?
            }
            opened => opened?,
        };
    }
    Ok(opened)
}

fn create_directory(path: &Path) -> Result<(), RootfsError> {
    if path.is_dir() {
        return Ok(());
    }
    // The mode is that of `/` in the container, where users other than root must be let in.
    let create = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    create().map_err(|source| RootfsError::CreateDirectory { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_is_made_inside_the_root_only() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        for path in [&root, &outside] {
            fs::create_dir(path).unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        create_working_directory(&root, Path::new("/a/../b/c")).unwrap();
        assert!(root.join("b/c").is_dir());
        assert!(create_working_directory(&root, Path::new("/link/x")).is_err());
        create_working_directory(&root, Path::new("/../../up")).unwrap();
        assert!(root.join("up").is_dir());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_way_of_the_working_directory_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let error = create_working_directory(root.path(), Path::new("/file/x")).unwrap_err();
        assert!(matches!(error, RootfsError::WorkingDirectory { .. }));
    }
}
