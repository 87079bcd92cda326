//! The directory tree of one layer while it is filled. Every operation names a directory by descriptor, found with
//! `openat2(RESOLVE_IN_ROOT)`, and one name in it, created exclusively: links lead nowhere but into the tree.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dev, FileType, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::UnpackError;
use super::attributes::{Attributes, failed};
use super::member::{Member, MemberKind};
use super::merged::{Below, Found, is_opaque, open_tree};
use super::nodes::{
    Place, cannot_look, copy_up, create_file, create_symlink, duplicate, hide, is_directory, make_directory, make_node,
    make_opaque, no_directory, place, replace_whiteout,
};
use crate::images::limits::Limits;
use crate::open_inside::open_inside;

/// As the kernel: more links than this in one path are a loop.
const MOST_LINKS: usize = 40;

pub(crate) struct Tree {
    root: OwnedFd,
    below: Below,
    /// Applied last, so that no later entry changes a time or meets a closed door.
    directories: BTreeMap<PathBuf, Attributes>,
    path_bytes: usize,
    limits: Limits,
}

/// A directory of this layer, with its path free of links.
struct Directory {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Tree {
    pub(crate) fn open(root: &Path, below: &[PathBuf], limits: &Limits) -> Result<Tree, UnpackError> {
        let opened = |path: &Path, source| UnpackError::Create {
            member: path.display().to_string(),
            operation: "open the directory for",
            source,
        };
        let mut tree = Tree {
            root: open_tree(root).map_err(|source| opened(root, source))?,
            below: Below::open(below).map_err(|source| opened(root, source))?,
            directories: BTreeMap::new(),
            path_bytes: 0,
            limits: *limits,
        };
        let attributes = match below.last() {
            Some(highest) => root_attributes(highest).map_err(|source| opened(highest, source))?,
            None => Attributes::plain_directory(),
        };
        tree.directories.insert(PathBuf::new(), attributes);
        Ok(tree)
    }

    /// Gives all directories their attributes.
    pub(crate) fn finish(self) -> Result<(), UnpackError> {
        for (path, attributes) in self.directories.iter().rev() {
            let name = path.to_string_lossy();
            let directory = self.open_directory(path).map_err(|errno| failed(&name, "open", errno))?;
            attributes.apply_to(directory, &name)?;
        }
        Ok(())
    }

    pub(crate) fn add_directory(&mut self, member: &Member, attributes: Attributes) -> Result<(), UnpackError> {
        if member.kind == MemberKind::Root {
            self.directories.insert(PathBuf::new(), attributes);
            return Ok(());
        }
        let name = member.node_name()?;
        let parent = self.directory(member)?;
        match place(&parent.descriptor, name, member)? {
            Place::Taken(stat) if is_directory(&stat) => {}
            Place::Taken(_) => return Err(duplicate(member)),
            Place::Free => make_directory(&parent.descriptor, name, member)?,
            Place::Whiteout => replace_whiteout(&parent.descriptor, name, member)?,
        }
        self.give_last(parent.path.join(name), attributes)
    }

    /// Creates an empty file; the caller fills it and sets its attributes.
    pub(crate) fn add_file(&mut self, member: &Member, name: &OsStr) -> Result<File, UnpackError> {
        let parent = self.vacant(member, name)?;
        create_file(parent.descriptor.as_fd(), name, member)
    }

    pub(crate) fn add_symlink(
        &mut self,
        member: &Member,
        name: &OsStr,
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let parent = self.vacant(member, name)?;
        create_symlink(parent.descriptor.as_fd(), name, target, member, attributes)
    }

    pub(crate) fn add_fifo(
        &mut self,
        member: &Member,
        name: &OsStr,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let parent = self.vacant(member, name)?.descriptor;
        make_node(&parent, name, FileType::Fifo, 0, member)?;
        attributes.apply_to_special(parent, name, &member.text)
    }

    pub(crate) fn add_device(
        &mut self,
        member: &Member,
        name: &OsStr,
        kind: EntryType,
        device: Dev,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let kind = if kind.is_block_special() { FileType::BlockDevice } else { FileType::CharacterDevice };
        let parent = self.vacant(member, name)?.descriptor;
        make_node(&parent, name, kind, device, member)?;
        attributes.apply_to_special(parent, name, &member.text)
    }

    /// Links to a file of this layer, or to a copy of one from below.
    pub(crate) fn add_hard_link(&mut self, member: &Member, name: &OsStr, target: &[u8]) -> Result<(), UnpackError> {
        let missing = || UnpackError::LinkTarget {
            member: member.text.clone(),
            target: String::from_utf8_lossy(target).into_owned(),
        };
        let target = Member::parse(target)?;
        let MemberKind::Node(target_name) = &target.kind else {
            return Err(missing());
        };
        let from = self.resolve(&target.parent, &target)?;
        match place(&from.descriptor, target_name, member)? {
            Place::Taken(stat) if is_directory(&stat) => return Err(missing()),
            Place::Taken(_) => {}
            Place::Whiteout => return Err(missing()),
            Place::Free => {
                let found = self.find_below(&from.path.join(target_name), member)?;
                copy_up(&found.ok_or_else(missing)?, &from.descriptor, target_name, member)?;
            }
        }
        let parent = self.vacant(member, name)?.descriptor;
        rustix::fs::linkat(from.descriptor, target_name, parent, name, AtFlags::empty())
            .map_err(|errno| failed(&member.text, "create the hard link", errno))
    }

    /// Deletes what the layers below have at a name. What this layer has there stays.
    pub(crate) fn hide_below(&mut self, member: &Member, name: &OsStr) -> Result<(), UnpackError> {
        let parent = self.directory(member)?.descriptor;
        hide(&parent, name, member)
    }

    /// Deletes all that the layers below have in a directory. Overlayfs ignores the mark on its root, so there
    /// each name is deleted for itself.
    pub(crate) fn hide_everything_below(&mut self, member: &Member) -> Result<(), UnpackError> {
        if !member.parent.as_os_str().is_empty() {
            let directory = self.directory(member)?.descriptor;
            return make_opaque(&directory, member);
        }
        let names = self.below.root_names().map_err(|source| cannot_look(member, source))?;
        for name in names {
            hide(&self.root, &name, member)?;
        }
        Ok(())
    }

    /// The directory of a new entry, whose name must be free.
    fn vacant(&mut self, member: &Member, name: &OsStr) -> Result<Directory, UnpackError> {
        let parent = self.directory(member)?;
        match place(&parent.descriptor, name, member)? {
            Place::Free => {}
            Place::Taken(_) => return Err(duplicate(member)),
            Place::Whiteout => {
                rustix::fs::unlinkat(&parent.descriptor, name, AtFlags::empty())
                    .map_err(|errno| failed(&member.text, "replace", errno))?;
            }
        }
        Ok(parent)
    }

    fn directory(&mut self, member: &Member) -> Result<Directory, UnpackError> {
        self.resolve(&member.parent, member)
    }

    /// Opens a directory of this layer. One that only layers below have is made here with the same attributes, since
    /// overlayfs shows the attributes of the highest layer; links, wherever they are, are followed inside the image.
    fn resolve(&mut self, path: &Path, member: &Member) -> Result<Directory, UnpackError> {
        if let Ok(descriptor) = self.open_without_links(path) {
            return Ok(Directory { path: path.to_owned(), descriptor });
        }
        let mut waiting: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let mut real = PathBuf::new();
        let mut links = 0;
        while let Some(component) = waiting.pop_front() {
            if component == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&component);
            let Some(target) = self.enter(&real, &component, member)? else {
                real = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(no_directory(member));
            }
            if target.is_absolute() {
                real = PathBuf::new();
            }
            for part in normal_components(&target).rev() {
                waiting.push_front(part);
            }
        }
        let descriptor =
            self.open_directory(&real).map_err(|errno| failed(&member.text, "open the directory of", errno))?;
        Ok(Directory { path: real, descriptor })
    }

    /// Makes sure that `name` in this layer's directory `parent` is a directory. Answers the target if it's a link.
    fn enter(&mut self, parent: &Path, name: &OsStr, member: &Member) -> Result<Option<PathBuf>, UnpackError> {
        let directory =
            self.open_directory(parent).map_err(|errno| failed(&member.text, "open the directory of", errno))?;
        let path = parent.join(name);
        match place(&directory, name, member)? {
            Place::Taken(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return Ok(None),
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&directory, name, Vec::new())
                        .map_err(|errno| failed(&member.text, "follow a link to", errno))?;
                    return Ok(Some(bytes_to_path(&target.into_bytes())));
                }
                FileType::RegularFile
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => return Err(no_directory(member)),
            },
            Place::Whiteout => {
                replace_whiteout(&directory, name, member)?;
                self.give_last(path, Attributes::plain_directory())?;
                return Ok(None);
            }
            Place::Free => {}
        }
        let found = self.find_below(&path, member)?;
        if let Some(found) = &found
            && found.kind() == FileType::Symlink
        {
            let target = found.link_target().map_err(|source| cannot_look(member, source))?;
            return Ok(Some(bytes_to_path(&target)));
        }
        let attributes = attributes_of_parent(found.as_ref(), member)?;
        make_directory(&directory, name, member)?;
        self.give_last(path, attributes)?;
        Ok(None)
    }

    /// Remembers what a directory gets when everything is in it.
    fn give_last(&mut self, path: PathBuf, attributes: Attributes) -> Result<(), UnpackError> {
        let length = path.as_os_str().len();
        if self.directories.insert(path, attributes).is_none() {
            self.path_bytes += length;
        }
        if self.path_bytes > self.limits.directory_path_bytes {
            return Err(UnpackError::TooManyDirectories { limit: self.limits.directory_path_bytes });
        }
        if self.directories.len() as u64 > self.limits.layer_entries {
            return Err(UnpackError::TooManyEntries { limit: self.limits.layer_entries });
        }
        Ok(())
    }

    /// What the layers below show at a path, given what this layer hides.
    fn find_below(&self, path: &Path, member: &Member) -> Result<Option<Found>, UnpackError> {
        let look = || -> io::Result<_> {
            for directory in path.ancestors().skip(1) {
                if !directory.as_os_str().is_empty() && is_opaque(self.open_directory(directory)?)? {
                    return Ok(None);
                }
            }
            self.below.find(path)
        };
        look().map_err(|source| cannot_look(member, source))
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_by(path, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Succeeds only where every part of the path is a directory of this layer.
    fn open_without_links(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_by(path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    fn open_by(&self, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_inside(&self.root, path, flags, resolve)
    }
}

fn root_attributes(tree: &Path) -> io::Result<Attributes> {
    let stat = rustix::fs::fstat(open_tree(tree)?)?;
    Ok(Attributes::copied_from(&stat, Vec::new()))
}

fn attributes_of_parent(found: Option<&Found>, member: &Member) -> Result<Attributes, UnpackError> {
    match found {
        None => Ok(Attributes::plain_directory()),
        Some(found) if found.kind() == FileType::Directory => {
            found.attributes().map_err(|source| cannot_look(member, source))
        }
        Some(_) => Err(no_directory(member)),
    }
}

/// The parts of a link's target, `..` included: it stops at the image's root.
fn normal_components(target: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    target.iter().filter(|part| *part != "/" && *part != ".").map(OsStr::to_owned)
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
