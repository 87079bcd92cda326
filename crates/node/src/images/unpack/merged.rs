//! What do the layers below show at a path? Follows overlayfs' rules: the highest layer that has the path wins,
//! unless something in between deleted it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Attributes, ExtendedAttribute, is_allowed};
use crate::open_inside::open_inside;

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// The layers below the one that is being unpacked.
pub(crate) struct Below {
    /// The highest first.
    trees: Vec<OwnedFd>,
}

/// Something that a layer has at a path.
pub(crate) struct Found {
    tree: OwnedFd,
    path: PathBuf,
    pub(crate) stat: Stat,
}

enum InTree {
    Found(Found),
    /// Deleted here, or below something that is no directory: lower layers don't show through.
    Hidden,
    Absent,
    /// Absent here, and a directory above it is opaque.
    AbsentBelowOpaque,
}

impl Below {
    /// `below` has the lowest layer first.
    pub(crate) fn open(below: &[PathBuf]) -> io::Result<Below> {
        let trees = below.iter().rev().map(|tree| open_tree(tree)).collect::<io::Result<_>>()?;
        Ok(Below { trees })
    }

    /// Looks a path up; its directories are real ones, never links.
    pub(crate) fn find(&self, path: &Path) -> io::Result<Option<Found>> {
        for tree in &self.trees {
            match look_up(tree, path)? {
                InTree::Found(found) => return Ok(Some(found)),
                InTree::Hidden | InTree::AbsentBelowOpaque => return Ok(None),
                InTree::Absent => {}
            }
        }
        Ok(None)
    }

    /// All names in the roots of the layers.
    pub(crate) fn root_names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        let mut names = Vec::new();
        for tree in &self.trees {
            let directory = open_in(tree, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in rustix::fs::Dir::read_from(directory)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "." && name != ".." {
                    names.push(name.to_owned());
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

impl Found {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file or directory for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        open_in(&self.tree, &self.path, OFlags::RDONLY | OFlags::NOFOLLOW).map(File::from)
    }

    pub(crate) fn link_target(&self) -> io::Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.tree, &self.path, Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Owner, mode, time, and for files and directories the attributes that images may have.
    pub(crate) fn attributes(&self) -> io::Result<Attributes> {
        let extended = match self.kind() {
            FileType::RegularFile | FileType::Directory => extended(&self.open()?)?,
            FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Vec::new(),
        };
        Ok(Attributes::copied_from(&self.stat, extended))
    }
}

pub(crate) fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Overlayfs' mark for something deleted: a character device with the number 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn is_opaque(directory: impl AsFd) -> io::Result<bool> {
    let mut value = [0_u8; 8];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn look_up(tree: &OwnedFd, path: &Path) -> io::Result<InTree> {
    let mut prefix = PathBuf::new();
    let mut below_opaque = false;
    let components: Vec<Component<'_>> = path.components().collect();
    for (position, component) in components.iter().enumerate() {
        prefix.push(component);
        let stat = match rustix::fs::statat(tree, &prefix, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if below_opaque => return Ok(InTree::AbsentBelowOpaque),
            Err(Errno::NOENT) => return Ok(InTree::Absent),
            Err(errno) => return Err(errno.into()),
        };
        if is_whiteout(&stat) {
            return Ok(InTree::Hidden);
        }
        if position + 1 == components.len() {
            return Ok(InTree::Found(Found { tree: tree.try_clone()?, path: prefix, stat }));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(InTree::Hidden);
        }
        let directory = open_in(tree, &prefix, OFlags::RDONLY | OFlags::DIRECTORY)?;
        below_opaque |= is_opaque(directory)?;
    }
    Ok(InTree::Absent)
}

fn open_in(tree: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(open_inside(tree, path, flags, resolve)?)
}

fn extended(node: &File) -> io::Result<Vec<ExtendedAttribute>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(node, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| is_allowed(name))
        .map(|name| {
            let mut value = vec![0_u8; 64 << 10];
            let length = rustix::fs::fgetxattr(node, name, &mut value[..])?;
            value.truncate(length);
            Ok(ExtendedAttribute { name: name.to_vec(), value })
        })
        .collect()
}
