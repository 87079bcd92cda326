//! The files in an image archive, staged as blobs, and looked up by the names that the archive gives them.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use oci_spec::image::Descriptor;
use tar::{Entry, EntryType};

use super::LoadError;
use crate::images::blobs::{Blobs, Staged};
use crate::images::digest::Digest;
use crate::images::disk::StoreError;
use crate::images::limits::Limits;
use crate::images::manifest::{self, Blob, Document, Manifest, ManifestError};
use crate::images::unpack::{Allowance, Meter, decompressed};

/// An archive has a few members per layer; this many are a hundred images of a hundred layers.
const MOST_MEMBERS: usize = 40_000;

/// The kernel's limit on a path; names are held in memory.
const LONGEST_NAME: usize = 4095;

/// More links than this in a row are a loop.
const MOST_LINKS: usize = 8;

/// What an archive contains, by name.
pub(super) struct Members {
    by_name: BTreeMap<String, Content>,
    document_limit: u64,
}

enum Content {
    Blob(Staged),
    /// Another member has the content.
    Link(String),
}

impl Members {
    pub(super) fn read(
        archive: impl Read + Send + 'static,
        blobs: &Blobs,
        limits: &Limits,
    ) -> Result<Members, LoadError> {
        let unreadable = |source| LoadError::Tar { source };
        let stream = decompressed(BufReader::new(archive)).map_err(unreadable)?;
        let allowance = Allowance::new(limits);
        let mut archive = tar::Archive::new(Meter::new(stream, allowance.clone()));
        let mut entries = archive.entries().map_err(unreadable)?;
        let mut by_name = BTreeMap::new();
        loop {
            allowance.expect_headers();
            let Some(entry) = entries.next() else {
                break;
            };
            let mut entry = entry.map_err(unreadable)?;
            allowance.expect_content();
            let name = name_of(&entry.path_bytes())?;
            if let Some(content) = read_member(&name, &mut entry, blobs)? {
                by_name.insert(name, content);
            }
            io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
            if by_name.len() > MOST_MEMBERS {
                return Err(LoadError::TooManyMembers { limit: MOST_MEMBERS });
            }
        }
        Ok(Members { by_name, document_limit: limits.document_bytes })
    }

    /// Follows links.
    pub(super) fn find(&self, name: &str) -> Option<&Staged> {
        let mut name = name;
        for _ in 0..=MOST_LINKS {
            match self.by_name.get(name)? {
                Content::Blob(staged) => return Some(staged),
                Content::Link(target) => name = target,
            }
        }
        None
    }

    pub(super) fn read_document(&self, name: &str, staged: &Staged) -> Result<Vec<u8>, LoadError> {
        manifest::check_size("it", staged.size, self.document_limit)
            .map_err(|source| LoadError::Manifest { member: name.to_owned(), source })?;
        Ok(staged.read()?)
    }

    /// Moves a member into the store.
    pub(super) fn keep(&self, name: &str, blobs: &Blobs) -> Result<Blob, LoadError> {
        let name = tidy(name);
        let staged = self.find(&name).ok_or_else(|| LoadError::Missing { member: name.clone() })?;
        if !blobs.contains(&staged.digest) {
            blobs.commit(staged)?;
        }
        Ok(Blob { digest: staged.digest.clone(), size: staged.size })
    }

    fn keep_blob(&self, digest: &Digest, blobs: &Blobs) -> Result<Blob, LoadError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        if self.find(&name).is_none() && blobs.contains(digest) {
            // Archives may leave out layers that the receiver has; then its size is the file's.
            return self.already_here(digest, blobs);
        }
        let kept = self.keep(&name, blobs)?;
        if kept.digest != *digest {
            return Err(LoadError::DigestMismatch { member: name, actual: kept.digest });
        }
        Ok(kept)
    }

    fn already_here(&self, digest: &Digest, blobs: &Blobs) -> Result<Blob, LoadError> {
        let path = blobs.path(digest);
        let size = std::fs::metadata(&path).map_err(|source| StoreError::Read { path, source })?.len();
        Ok(Blob { digest: digest.clone(), size })
    }

    /// The manifest for this machine that a digest stands for, with all its blobs moved into the store.
    pub(super) fn manifest(&self, target: &Digest, blobs: &Blobs) -> Result<(Digest, Manifest), LoadError> {
        let document = self.document(target, blobs)?;
        let manifest_digest = match &document {
            Document::Manifest(_) => target.clone(),
            Document::Index(index) => {
                let unusable = |source| LoadError::Manifest { member: target.to_string(), source };
                let entry = manifest::for_this_platform(index).map_err(unusable)?;
                digest_of(&target.to_string(), entry)?
            }
        };
        let Document::Manifest(manifest) = self.document(&manifest_digest, blobs)? else {
            return Err(LoadError::Manifest {
                member: manifest_digest.to_string(),
                source: ManifestError::NotAnImage { what: "an index inside an index".to_owned() },
            });
        };
        self.keep_blob(&manifest.config.digest, blobs)?;
        for layer in &manifest.layers {
            self.keep_blob(&layer.digest, blobs)?;
        }
        Ok((manifest_digest, manifest))
    }

    fn document(&self, digest: &Digest, blobs: &Blobs) -> Result<Document, LoadError> {
        let unusable = |source| LoadError::Manifest { member: digest.to_string(), source };
        let kept = self.keep_blob(digest, blobs)?;
        manifest::check_size("it", kept.size, self.document_limit).map_err(unusable)?;
        let bytes = blobs.read(digest)?.unwrap_or_default();
        Document::parse(&bytes).map_err(unusable)
    }
}

fn read_member(name: &str, entry: &mut Entry<'_, impl Read>, blobs: &Blobs) -> Result<Option<Content>, LoadError> {
    let kind = entry.header().entry_type();
    if kind == EntryType::Symlink || kind == EntryType::Link {
        let target = entry.link_name_bytes().unwrap_or_default();
        let base = if kind == EntryType::Link { "" } else { parent(name) };
        let target = [base.as_bytes(), b"/", &target].concat();
        return Ok(Some(Content::Link(name_of(&target)?)));
    }
    if !kind.is_file() {
        return Ok(None);
    }
    let mut staging = blobs.stage()?;
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let read = entry.read(&mut buffer).map_err(|source| LoadError::Tar { source })?;
        if read == 0 {
            return Ok(Some(Content::Blob(staging.finish()?)));
        }
        staging.write(&buffer[..read])?;
    }
}

pub(super) fn digest_of(member: &str, descriptor: &Descriptor) -> Result<Digest, LoadError> {
    Blob::read(descriptor)
        .map(|blob| blob.digest)
        .map_err(|source| LoadError::Manifest { member: member.to_owned(), source })
}

fn name_of(bytes: &[u8]) -> Result<String, LoadError> {
    if bytes.len() > LONGEST_NAME {
        return Err(LoadError::LongName { limit: LONGEST_NAME });
    }
    Ok(tidy(&String::from_utf8_lossy(bytes)))
}

/// Resolves `.`, `..` and doubled slashes in a name, which is only ever a key here.
fn tidy(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}
