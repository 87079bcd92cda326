//! Single steps on one directory of a layer: look at a name, create something under it, mark it as deleted.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::UnpackError;
use super::attributes::{Attributes, failed};
use super::member::Member;
use super::merged::{Found, OPAQUE, is_whiteout};

/// What stands at a name in this layer.
pub(super) enum Place {
    Free,
    /// The name was free for this layer's entries; it is marked as deleted for those below.
    Whiteout,
    Taken(Stat),
}

pub(super) fn place(directory: impl AsFd, name: &OsStr, member: &Member) -> Result<Place, UnpackError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_whiteout(&stat) => Ok(Place::Whiteout),
        Ok(stat) => Ok(Place::Taken(stat)),
        Err(Errno::NOENT) => Ok(Place::Free),
        Err(errno) => Err(failed(&member.text, "look at", errno)),
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn hide(directory: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), UnpackError> {
    match place(directory, name, member)? {
        Place::Free => make_node(directory, name, FileType::CharacterDevice, 0, member),
        Place::Whiteout => Ok(()),
        Place::Taken(stat) if is_directory(&stat) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(directory, name, flags, Mode::empty())
                .map_err(|errno| failed(&member.text, "open", errno))?;
            make_opaque(&inner, member)
        }
        Place::Taken(_) => Ok(()),
    }
}

pub(super) fn make_opaque(directory: &OwnedFd, member: &Member) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(|errno| failed(&member.text, "mark the deletion of", errno))
}

/// Puts a directory where the layers below have something that this layer deleted: nothing of it shows through.
pub(super) fn replace_whiteout(directory: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), UnpackError> {
    rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(|errno| failed(&member.text, "replace", errno))?;
    make_directory(directory, name, member)?;
    hide(directory, name, member)
}

pub(super) fn make_directory(directory: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), UnpackError> {
    rustix::fs::mkdirat(directory, name, Mode::RWXU)
        .map_err(|errno| failed(&member.text, "create the directory", errno))
}

pub(super) fn make_node(
    directory: &OwnedFd,
    name: &OsStr,
    kind: FileType,
    device: Dev,
    member: &Member,
) -> Result<(), UnpackError> {
    rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device)
        .map_err(|errno| failed(&member.text, "create the device or fifo", errno))
}

pub(super) fn create_file(directory: BorrowedFd<'_>, name: &OsStr, member: &Member) -> Result<File, UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|errno| failed(&member.text, "create", errno))
}

pub(super) fn create_symlink(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    target: &[u8],
    member: &Member,
    attributes: &Attributes,
) -> Result<(), UnpackError> {
    rustix::fs::symlinkat(target, directory, name)
        .map_err(|errno| failed(&member.text, "create the symbolic link", errno))?;
    attributes.apply_to_symlink(directory, name, &member.text)
}

/// Copies a file or link of a layer below into this one, so that it can be linked to.
pub(super) fn copy_up(found: &Found, into: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), UnpackError> {
    let unreadable = |source| cannot_look(member, source);
    let attributes = found.attributes().map_err(unreadable)?;
    match found.kind() {
        FileType::RegularFile => {
            let mut original = found.open().map_err(unreadable)?;
            let mut copy = create_file(into.as_fd(), name, member)?;
            io::copy(&mut original, &mut copy).map_err(unreadable)?;
            attributes.apply_to(&copy, &member.text)
        }
        FileType::Symlink => {
            let target = found.link_target().map_err(unreadable)?;
            create_symlink(into.as_fd(), name, &target, member, &attributes)
        }
        FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => {
            Err(UnpackError::LinkTarget { member: member.text.clone(), target: name.to_string_lossy().into_owned() })
        }
    }
}

pub(super) fn duplicate(member: &Member) -> UnpackError {
    UnpackError::Duplicate { member: member.text.clone() }
}

pub(super) fn no_directory(member: &Member) -> UnpackError {
    UnpackError::Parent { member: member.text.clone() }
}

pub(super) fn cannot_look(member: &Member, source: io::Error) -> UnpackError {
    UnpackError::Create { member: member.text.clone(), operation: "look up what the image already has for", source }
}
