//! Reads what describes an image: index, manifest, configuration. Pure; the bytes were verified by who fetched them.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::Deserialize;

use super::digest::{Digest, Digester, InvalidDigest};
use super::limits::Limits;

/// Why a description can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the {document} is not valid")]
    Json { document: &'static str, source: serde_json::Error },
    #[error("the manifest has schema version 1, which registries stopped serving; push the image again")]
    SchemaVersion1,
    #[error("this is {what}, not a container image")]
    NotAnImage { what: String },
    #[error("the image uses a digest that is not supported")]
    Digest {
        #[from]
        source: InvalidDigest,
    },
    #[error("the image is for {offered}; this machine runs {wanted}")]
    WrongPlatform { offered: String, wanted: String },
    #[error("the manifest has {layers} layers, its configuration names {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("the image has {layers} layers; at most {limit} are supported")]
    TooManyLayers { layers: usize, limit: usize },
    #[error("{what} has {bytes} bytes; at most {limit} are supported")]
    TooLarge { what: &'static str, bytes: u64, limit: u64 },
}

/// A document that an image's name can stand for.
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Manifest),
}

/// What an image consists of, as its manifest says.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    /// Bottom to top.
    pub(crate) layers: Vec<Blob>,
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// One layer with all its names.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
    /// The digest of the uncompressed tar stream.
    pub(crate) diff_id: Digest,
    /// The digest of this layer on top of exactly those below it.
    pub(crate) chain_id: Digest,
}

/// An image, read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    pub(crate) config: ImageConfiguration,
    pub(crate) config_digest: Digest,
    /// Bottom to top.
    pub(crate) layers: Vec<Layer>,
    /// Bytes of configuration and layers as they are transferred.
    pub(crate) size: u64,
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Outline {
            schema_version: u32,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let outline: Outline = parse("manifest", bytes)?;
        if outline.schema_version == 1 {
            return Err(ManifestError::SchemaVersion1);
        }
        match (outline.manifests, outline.layers) {
            (Some(_), None) => parse("image index", bytes).map(|index| Document::Index(Box::new(index))),
            (None, Some(_)) => Manifest::read(&parse("manifest", bytes)?).map(Document::Manifest),
            (None, None) | (Some(_), Some(_)) => Err(ManifestError::NotAnImage {
                what: outline.media_type.unwrap_or_else(|| "an unknown document".to_owned()),
            }),
        }
    }
}

impl Manifest {
    fn read(manifest: &ImageManifest) -> Result<Manifest, ManifestError> {
        Ok(Manifest {
            config: Blob::read(manifest.config())?,
            layers: manifest.layers().iter().map(Blob::read).collect::<Result<_, _>>()?,
        })
    }

    /// Refuses what is larger than any honest image, before anything is fetched.
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), ManifestError> {
        if self.layers.len() > limits.layers {
            return Err(ManifestError::TooManyLayers { layers: self.layers.len(), limit: limits.layers });
        }
        check_size("the configuration", self.config.size, limits.document_bytes)?;
        self.layers.iter().try_for_each(|layer| check_size("a layer", layer.size, limits.blob_bytes))
    }
}

impl Blob {
    pub(crate) fn read(descriptor: &Descriptor) -> Result<Blob, ManifestError> {
        Ok(Blob { digest: Digest::parse(descriptor.digest().as_ref())?, size: descriptor.size() })
    }
}

impl Contents {
    /// Joins a manifest with its configuration.
    pub(crate) fn read(manifest: &Manifest, config: &[u8]) -> Result<Contents, ManifestError> {
        let config: ImageConfiguration = parse("image configuration", config)?;
        check_platform(&config)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers.len() {
            return Err(ManifestError::LayerCount { layers: manifest.layers.len(), diff_ids: diff_ids.len() });
        }
        let mut layers: Vec<Layer> = Vec::new();
        for (blob, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let diff_id = Digest::parse(diff_id)?;
            layers.push(Layer { chain_id: chain_id(layers.last(), &diff_id), blob: blob.clone(), diff_id });
        }
        let size = manifest.layers.iter().fold(manifest.config.size, |sum, layer| sum.saturating_add(layer.size));
        Ok(Contents { config, config_digest: manifest.config.digest.clone(), layers, size })
    }
}

/// The entry for this machine's platform; an index with a single entry may leave the platform out.
pub(crate) fn for_this_platform(index: &ImageIndex) -> Result<&Descriptor, ManifestError> {
    let entries = index.manifests();
    let exact = entries.iter().find(|entry| {
        entry
            .platform()
            .as_ref()
            .is_some_and(|platform| *platform.os() == Os::Linux && *platform.architecture() == Arch::default())
    });
    match (exact, entries.as_slice()) {
        (Some(entry), _) => Ok(entry),
        (None, [only]) if only.platform().is_none() => Ok(only),
        (None, _) => Err(ManifestError::WrongPlatform { offered: offered(entries), wanted: this_platform() }),
    }
}

pub(crate) fn check_size(what: &'static str, bytes: u64, limit: u64) -> Result<(), ManifestError> {
    if bytes > limit {
        return Err(ManifestError::TooLarge { what, bytes, limit });
    }
    Ok(())
}

/// `linux/amd64` and the like.
pub(crate) fn this_platform() -> String {
    format!("linux/{}", Arch::default())
}

fn check_platform(config: &ImageConfiguration) -> Result<(), ManifestError> {
    let (os, architecture) = (config.os(), config.architecture());
    let unstated = architecture.to_string().is_empty();
    if *os == Os::Linux && (*architecture == Arch::default() || unstated) {
        return Ok(());
    }
    Err(ManifestError::WrongPlatform { offered: format!("{os}/{architecture}"), wanted: this_platform() })
}

fn offered(entries: &[Descriptor]) -> String {
    let platforms: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        .map(|platform| format!("{}/{}", platform.os(), platform.architecture()))
        .filter(|platform| platform != "unknown/unknown")
        .collect();
    if platforms.is_empty() { "no stated platform".to_owned() } else { platforms.join(", ") }
}

/// The name that the image specification gives to a stack of layers.
fn chain_id(below: Option<&Layer>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => {
            let mut digester = Digester::default();
            digester.update(format!("{} {diff_id}", below.chain_id).as_bytes());
            digester.finish()
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(document: &'static str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Json { document, source })
}
