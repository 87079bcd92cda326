//! Owner, mode, time and extended attributes of what a layer contains.

use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::Entry;

use super::UnpackError;
use super::member::Member;

const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// Permission bits with setuid, setgid and the sticky bit.
const MODE_BITS: u32 = 0o7777;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    owner: Uid,
    group: Gid,
    mode: Mode,
    /// Seconds since 1970.
    modified: i64,
    extended: Vec<ExtendedAttribute>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedAttribute {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Attributes {
    pub(crate) fn of(entry: &mut Entry<'_, impl Read>, member: &Member) -> Result<Attributes, UnpackError> {
        let extended = extended_attributes(entry)?;
        let header = entry.header();
        let unreadable = |source| UnpackError::Tar { source };
        Ok(Attributes {
            owner: Uid::from_raw(id(header.uid().map_err(unreadable)?, member)?),
            group: Gid::from_raw(id(header.gid().map_err(unreadable)?, member)?),
            mode: Mode::from_raw_mode(header.mode().map_err(unreadable)? & MODE_BITS),
            modified: i64::try_from(header.mtime().map_err(unreadable)?).unwrap_or(i64::MAX),
            extended,
        })
    }

    /// What a file or directory of a layer below has.
    pub(crate) fn copied_from(stat: &Stat, extended: Vec<ExtendedAttribute>) -> Attributes {
        Attributes {
            owner: Uid::from_raw(stat.st_uid),
            group: Gid::from_raw(stat.st_gid),
            mode: Mode::from_raw_mode(stat.st_mode & MODE_BITS),
            modified: stat.st_mtime,
            extended,
        }
    }

    /// For directories that no layer describes.
    pub(crate) fn plain_directory() -> Attributes {
        Attributes {
            owner: Uid::ROOT,
            group: Gid::ROOT,
            mode: Mode::from_raw_mode(0o755),
            modified: 0,
            extended: Vec::new(),
        }
    }

    /// Applies everything to an open file or directory. The owner comes first: changing it clears setuid and
    /// file capabilities.
    pub(crate) fn apply_to(&self, node: impl AsFd, member: &str) -> Result<(), UnpackError> {
        let node = node.as_fd();
        rustix::fs::fchown(node, Some(self.owner), Some(self.group))
            .map_err(|errno| failed(member, "set the owner of", errno))?;
        rustix::fs::fchmod(node, self.mode).map_err(|errno| failed(member, "set the mode of", errno))?;
        for attribute in &self.extended {
            set_extended(node, attribute, member)?;
        }
        rustix::fs::futimens(node, &self.times()).map_err(|errno| failed(member, "set the time of", errno))
    }

    /// Applies owner and time to a symbolic link, which has no mode.
    pub(crate) fn apply_to_symlink(
        &self,
        parent: impl AsFd,
        name: &std::ffi::OsStr,
        member: &str,
    ) -> Result<(), UnpackError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let parent = parent.as_fd();
        rustix::fs::chownat(parent, name, Some(self.owner), Some(self.group), flags)
            .map_err(|errno| failed(member, "set the owner of", errno))?;
        rustix::fs::utimensat(parent, name, &self.times(), flags)
            .map_err(|errno| failed(member, "set the time of", errno))
    }

    /// Applies owner, mode and time to a fifo or device, which cannot be opened without effects. It was created a
    /// moment ago by this process in a tree that nobody else can reach, so `name` is no link.
    pub(crate) fn apply_to_special(
        &self,
        parent: impl AsFd,
        name: &std::ffi::OsStr,
        member: &str,
    ) -> Result<(), UnpackError> {
        let parent = parent.as_fd();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(self.owner), Some(self.group), flags)
            .map_err(|errno| failed(member, "set the owner of", errno))?;
        rustix::fs::chmodat(parent, name, self.mode, AtFlags::empty())
            .map_err(|errno| failed(member, "set the mode of", errno))?;
        rustix::fs::utimensat(parent, name, &self.times(), flags)
            .map_err(|errno| failed(member, "set the time of", errno))
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.modified, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

pub(crate) fn failed(member: &str, operation: &'static str, errno: Errno) -> UnpackError {
    UnpackError::Create { member: member.to_owned(), operation, source: errno.into() }
}

/// Whether an image may set an extended attribute: file capabilities and what belongs to users. `trusted.*` would let
/// it steer overlayfs, and the others belong to this machine.
pub(crate) fn is_allowed(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

fn extended_attributes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<ExtendedAttribute>, UnpackError> {
    let unreadable = |source| UnpackError::Tar { source };
    let mut found = Vec::new();
    let Some(extensions) = entry.pax_extensions().map_err(unreadable)? else {
        return Ok(found);
    };
    for extension in extensions {
        let extension = extension.map_err(unreadable)?;
        if let Some(name) = extension.key_bytes().strip_prefix(PAX_XATTR)
            && is_allowed(name)
        {
            found.push(ExtendedAttribute { name: name.to_vec(), value: extension.value_bytes().to_vec() });
        }
    }
    Ok(found)
}

/// The kernel reads `u32::MAX` as "leave the owner as it is".
fn id(id: u64, member: &Member) -> Result<u32, UnpackError> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        Ok(_) | Err(_) => Err(UnpackError::Owner { member: member.text.clone(), id }),
    }
}

fn set_extended(node: impl AsFd, attribute: &ExtendedAttribute, member: &str) -> Result<(), UnpackError> {
    let ExtendedAttribute { name, value } = attribute;
    match rustix::fs::fsetxattr(node, name.as_slice(), value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::NOTSUP) if name.starts_with(b"user.") => {
            tracing::debug!(member, "the filesystem keeps no user.* attributes");
            Ok(())
        }
        Err(errno) => Err(failed(member, "set an extended attribute of", errno)),
    }
}
