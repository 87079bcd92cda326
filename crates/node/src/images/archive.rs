//! Loads images from a file: what `docker save` writes, and OCI archives. Members become blobs as they are read, in
//! whatever order they come; the archive's description then says which of them make up images.

mod members;

use std::io::{self, Read};

use decide::images::{ImageReference, InvalidImageName};
use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use serde_json::json;

use members::{Members, digest_of};

use super::blobs::{Blobs, Staged};
use super::digest::Digest;
use super::disk::StoreError;
use super::index::{Entry, Origin};
use super::layers::LayerError;
use super::manifest::{Blob, Contents, Manifest, ManifestError};
use super::{Image, Inner};

/// The full name, as Docker and containerd write it; `ref.name` often holds only the tag.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, now in the store.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub reference: ImageReference,
    pub image: Image,
}

/// Why an archive can't be loaded. `member` is a file in it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the archive; it must be a tar file, plain or compressed by gzip or zstd")]
    Tar { source: io::Error },
    #[error(
        "this is no image archive: it has neither index.json nor manifest.json; make one by docker save or skopeo copy"
    )]
    NotAnImageArchive,
    #[error("the archive has more than {limit} members")]
    TooManyMembers { limit: usize },
    #[error("the archive has a file whose name is longer than {limit} bytes")]
    LongName { limit: usize },
    #[error("the archive names {member}, and does not contain it")]
    Missing { member: String },
    #[error("{member} has the content {actual}")]
    DigestMismatch { member: String, actual: Digest },
    #[error("{member} cannot be used")]
    Manifest { member: String, source: ManifestError },
    #[error("the archive names an image {name:?}, which is not a valid name")]
    Name { name: String, source: InvalidImageName },
    #[error(
        "no image in the archive has a name; write it with one, as in: skopeo copy SOURCE oci-archive:FILE:NAME:TAG"
    )]
    Unnamed,
    #[error("cannot unpack {image}")]
    Layer { image: String, source: LayerError },
    #[error("cannot keep the image")]
    Store {
        #[from]
        source: StoreError,
    },
}

/// An image that an archive describes, its blobs in the store.
struct Described {
    reference: ImageReference,
    target: Digest,
    manifest_digest: Digest,
    manifest: Manifest,
}

/// An entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn load(store: &Inner, archive: impl Read + Send + 'static) -> Result<Vec<Loaded>, LoadError> {
    let members = Members::read(archive, &store.blobs, &store.limits)?;
    let described = describe(&members, &store.blobs)?;
    described.into_iter().map(|image| install(store, image)).collect()
}

/// Docker writes both descriptions; its `manifest.json` has the names when the index has none.
fn describe(members: &Members, blobs: &Blobs) -> Result<Vec<Described>, LoadError> {
    let by_index = match members.find("index.json") {
        Some(index) => describe_by_index(members, index, blobs)?,
        None => Vec::new(),
    };
    if !by_index.is_empty() {
        return Ok(by_index);
    }
    match (members.find("manifest.json"), members.find("index.json")) {
        (Some(manifest), _) => describe_by_docker(members, manifest, blobs),
        (None, Some(_)) => Err(LoadError::Unnamed),
        (None, None) => Err(LoadError::NotAnImageArchive),
    }
}

fn describe_by_index(members: &Members, index: &Staged, blobs: &Blobs) -> Result<Vec<Described>, LoadError> {
    let bytes = members.read_document("index.json", index)?;
    let index: ImageIndex = parse("index.json", &bytes)?;
    let mut described = Vec::new();
    for descriptor in index.manifests() {
        let Some(name) = full_name(descriptor) else {
            continue;
        };
        let reference = parse_name(&name)?;
        let target = digest_of("index.json", descriptor)?;
        let (manifest_digest, manifest) = members.manifest(&target, blobs)?;
        described.push(Described { reference, target, manifest_digest, manifest });
    }
    Ok(described)
}

/// A manifest of our own, since Docker's format has none: the same image always gets the same one.
fn describe_by_docker(members: &Members, manifest: &Staged, blobs: &Blobs) -> Result<Vec<Described>, LoadError> {
    let bytes = members.read_document("manifest.json", manifest)?;
    let images: Vec<DockerImage> = parse("manifest.json", &bytes)?;
    let mut described = Vec::new();
    for image in images {
        let config = members.keep(&image.config, blobs)?;
        let layers = image.layers.iter().map(|layer| members.keep(layer, blobs)).collect::<Result<Vec<Blob>, _>>()?;
        let digest = blobs.write(oci_manifest(&config, &layers).to_string().as_bytes())?;
        for name in image.repo_tags.unwrap_or_default() {
            described.push(Described {
                reference: parse_name(&name)?,
                target: digest.clone(),
                manifest_digest: digest.clone(),
                manifest: Manifest { config: config.clone(), layers: layers.clone() },
            });
        }
    }
    if described.is_empty() {
        return Err(LoadError::Unnamed);
    }
    Ok(described)
}

fn install(store: &Inner, described: Described) -> Result<Loaded, LoadError> {
    let unusable = |source| LoadError::Manifest { member: described.reference.to_string(), source };
    described.manifest.check(&store.limits).map_err(unusable)?;
    let config = &described.manifest.config.digest;
    let config = store.blobs.read(config)?.unwrap_or_default();
    let contents = Contents::read(&described.manifest, &config).map_err(unusable)?;
    let mut limits = store.limits;
    for top in 1..=contents.layers.len() {
        store
            .layers
            .ensure(&contents.layers[..top], &store.blobs, &mut limits)
            .map_err(|source| LoadError::Layer { image: described.reference.to_string(), source })?;
    }
    let entry = Entry {
        repository: described.reference.name(),
        target: described.target,
        manifest: described.manifest_digest,
        origin: Origin::Loaded,
    };
    let image = store.record(&described.reference, entry, contents)?;
    Ok(Loaded { reference: described.reference, image })
}

/// Only a name with a repository; a bare tag names no image.
fn full_name(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    let ref_name = || annotations.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    annotations.get(FULL_NAME).or_else(ref_name).cloned()
}

fn parse_name(name: &str) -> Result<ImageReference, LoadError> {
    ImageReference::parse(name).map_err(|source| LoadError::Name { name: name.to_owned(), source })
}

fn oci_manifest(config: &Blob, layers: &[Blob]) -> serde_json::Value {
    let descriptor = |kind: &str, blob: &Blob| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": blob.digest.to_string(),
            "size": blob.size,
        })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
    })
}

fn parse<'a, T: Deserialize<'a>>(member: &'static str, bytes: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Manifest {
        member: member.to_owned(),
        source: ManifestError::Json { document: member, source },
    })
}

#[cfg(test)]
mod tests;
