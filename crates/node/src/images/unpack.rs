//! Turns one layer, a tar stream from a stranger, into a directory tree that overlayfs stacks on the layers below.
//! Nothing is created, linked or changed outside that tree, whatever the stream says.

mod attributes;
mod compression;
mod member;
mod merged;
mod meter;
mod nodes;
mod tree;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use tar::{Entry, EntryType};

use attributes::Attributes;
pub(crate) use compression::decompressed;
use member::{Member, MemberKind};
use meter::Exceeded;
pub(crate) use meter::{Allowance, Meter};
use tree::Tree;

use super::digest::{Digest, Hashed};
use super::limits::Limits;

/// Why a layer can't be used. `member` is the name in the tar stream.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the layer is not a readable tar stream")]
    Tar { source: io::Error },
    #[error("the content of {member:?} cannot be read")]
    Content { member: String, source: io::Error },
    #[error("{member:?} would leave the image's root directory")]
    Escape { member: String },
    #[error("{member:?} is not a usable name: {reason}")]
    Name { member: String, reason: &'static str },
    #[error("{member:?} occurs twice in one layer")]
    Duplicate { member: String },
    #[error("{member:?} has entry type {kind:?}, which is not supported")]
    EntryKind { member: String, kind: char },
    #[error("{member:?} is a hard link to {target:?}, which is not in the image")]
    LinkTarget { member: String, target: String },
    #[error("{member:?} has the owner {id}, which Linux cannot represent")]
    Owner { member: String, id: u64 },
    #[error("{member:?} lies below something that is not a directory, or in a loop of links")]
    Parent { member: String },
    #[error("cannot {operation} {member:?}")]
    Create { member: String, operation: &'static str, source: io::Error },
    #[error("the image unpacks to more than {limit} bytes")]
    TooManyBytes { limit: u64 },
    #[error("the layer has more than {limit} entries")]
    TooManyEntries { limit: u64 },
    #[error("the paths of the layer's directories have more than {limit} bytes")]
    TooManyDirectories { limit: usize },
    #[error("an entry of the layer has more than {limit} bytes of headers")]
    HeadersTooLong { limit: u64 },
}

/// A layer that was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The digest of the uncompressed tar stream, padding included.
    pub(crate) diff_id: Digest,
    /// The length of that stream, and what sparse files add to it.
    pub(crate) bytes: u64,
}

/// Unpacks `layer` (plain, gzip or zstd) into the empty directory `into`. `below` are the directories of the layers
/// beneath, the lowest first: what this layer mentions without containing it is taken from there.
pub(crate) fn unpack(layer: File, into: &Path, below: &[PathBuf], limits: &Limits) -> Result<Unpacked, UnpackError> {
    let unreadable = |source| UnpackError::Tar { source };
    let stream = decompressed(BufReader::new(layer)).map_err(unreadable)?;
    let allowance = Allowance::new(limits);
    let mut archive = tar::Archive::new(Meter::new(Hashed::new(stream), allowance.clone()));
    let mut tree = Tree::open(into, below, limits)?;
    unpack_entries(&mut archive, &mut tree, &allowance, limits)?;
    tree.finish()?;
    let stream = archive.into_inner().finish().map_err(|source| read_error(source, unreadable))?;
    Ok(Unpacked { diff_id: stream.finish(), bytes: allowance.used() })
}

fn unpack_entries(
    archive: &mut tar::Archive<impl Read>,
    tree: &mut Tree,
    allowance: &Allowance,
    limits: &Limits,
) -> Result<(), UnpackError> {
    let unreadable = |source| read_error(source, |source| UnpackError::Tar { source });
    let mut entries = archive.entries().map_err(unreadable)?;
    for number in 1_u64.. {
        allowance.expect_headers();
        let Some(entry) = entries.next() else {
            break;
        };
        let mut entry = entry.map_err(unreadable)?;
        if number > limits.layer_entries {
            return Err(UnpackError::TooManyEntries { limit: limits.layer_entries });
        }
        allowance.expect_content();
        unpack_entry(&mut entry, tree, allowance)?;
        io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
    }
    allowance.expect_content();
    Ok(())
}

fn unpack_entry(entry: &mut Entry<'_, impl Read>, tree: &mut Tree, allowance: &Allowance) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    if kind == EntryType::XGlobalHeader {
        return Ok(());
    }
    let member = Member::parse(&entry.path_bytes())?;
    match &member.kind {
        MemberKind::Ignored => Ok(()),
        MemberKind::Opaque => tree.hide_everything_below(&member),
        MemberKind::Whiteout(name) => tree.hide_below(&member, name),
        MemberKind::Root | MemberKind::Node(_) => {
            let attributes = Attributes::of(entry, &member)?;
            create(entry, kind, &member, attributes, tree, allowance)
        }
    }
}

fn create(
    entry: &mut Entry<'_, impl Read>,
    kind: EntryType,
    member: &Member,
    attributes: Attributes,
    tree: &mut Tree,
    allowance: &Allowance,
) -> Result<(), UnpackError> {
    if kind.is_dir() {
        return tree.add_directory(member, attributes);
    }
    let name = member.node_name()?;
    if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
        let mut file = tree.add_file(member, name)?;
        copy_content(entry, &mut file, member, allowance)?;
        return attributes.apply_to(&file, &member.text);
    }
    if kind.is_symlink() {
        return tree.add_symlink(member, name, &link_target(entry, member)?, &attributes);
    }
    if kind.is_hard_link() {
        return tree.add_hard_link(member, name, &link_target(entry, member)?);
    }
    if kind.is_fifo() {
        return tree.add_fifo(member, name, &attributes);
    }
    if kind.is_character_special() || kind.is_block_special() {
        let device = device_number(entry, member)?;
        return tree.add_device(member, name, kind, device, &attributes);
    }
    Err(UnpackError::EntryKind { member: member.text.clone(), kind: char::from(kind.as_byte()) })
}

/// Copies a file's content; holes of sparse files count, although they take nothing from the stream.
fn copy_content(
    entry: &mut Entry<'_, impl Read>,
    file: &mut File,
    member: &Member,
    allowance: &Allowance,
) -> Result<(), UnpackError> {
    if has_pax_sparse_content(entry) {
        return Err(UnpackError::EntryKind { member: member.text.clone(), kind: 'S' });
    }
    let streamed = allowance.used();
    let copied = io::copy(&mut allowance.bounded(&mut *entry), file)
        .map_err(|source| read_error(source, |source| UnpackError::Content { member: member.text.clone(), source }))?;
    let from_stream = allowance.used() - streamed;
    allowance.spend(copied.saturating_sub(from_stream)).map_err(too_much)
}

fn has_pax_sparse_content(entry: &mut Entry<'_, impl Read>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else {
        return false;
    };
    extensions.filter_map(Result::ok).any(|extension| extension.key_bytes().starts_with(b"GNU.sparse."))
}

fn link_target(entry: &Entry<'_, impl Read>, member: &Member) -> Result<Vec<u8>, UnpackError> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(target.into_owned()),
        Some(_) | None => Err(UnpackError::Name { member: member.text.clone(), reason: "the link has no target" }),
    }
}

fn device_number(entry: &Entry<'_, impl Read>, member: &Member) -> Result<rustix::fs::Dev, UnpackError> {
    let header = entry.header();
    match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) if (major, minor) != (0, 0) => Ok(rustix::fs::makedev(major, minor)),
        (Ok(_), Ok(_)) => Err(UnpackError::Name {
            member: member.text.clone(),
            reason: "a device needs a number, and 0:0 is overlayfs' own mark for what is deleted",
        }),
        (Err(source), _) | (_, Err(source)) => Err(UnpackError::Tar { source }),
    }
}

/// Tells limits from broken streams.
fn read_error(source: io::Error, otherwise: impl FnOnce(io::Error) -> UnpackError) -> UnpackError {
    match Exceeded::find(&source) {
        Some(exceeded) => too_much(exceeded),
        None => otherwise(source),
    }
}

fn too_much(exceeded: Exceeded) -> UnpackError {
    match exceeded {
        Exceeded::Bytes { limit } => UnpackError::TooManyBytes { limit },
        Exceeded::Headers { limit } => UnpackError::HeadersTooLong { limit },
    }
}

#[cfg(test)]
mod tests;
