//! Pulls an image from a registry into the store: manifest, configuration, layers. Every blob is verified while it is
//! written; layers are unpacked from the bottom while those above are still being fetched.

use std::path::Path;

use bytes::Bytes;
use decide::images::ImageReference;
use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{BlobResponse, SizedStream};
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError};
use oci_client::secrets::RegistryAuth;
use tokio::sync::mpsc;
use tokio::time::Duration;

use super::blobs::{Blobs, Staged};
use super::credentials::Keyring;
use super::digest::Digest;
use super::disk::StoreError;
use super::index::{Entry, Origin};
use super::manifest::{self, Blob, Contents, Document, Layer, Manifest, ManifestError};
use super::mirrors::{Endpoint, Mirrors, Scheme};
use super::pull_error::PullError;
use super::{Image, ImageStore, blocking};

/// As many layers at a time as Docker fetches.
const CONCURRENT_DOWNLOADS: usize = 3;

/// Pieces that wait for the disk before the network is read on; a piece is a few KiB.
const QUEUED_PIECES: usize = 64;

/// A registry that doesn't answer a connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A transfer that stands still for this long is given up; the pull is tried again after its back-off.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// One image at one server.
struct Source<'a> {
    store: &'a ImageStore,
    client: Client,
    endpoint: &'a Endpoint,
    remote: Reference,
    image: String,
    auth: RegistryAuth,
}

/// The manifest for this machine and what the name stood for.
struct Resolved {
    target: Digest,
    manifest_digest: Digest,
    manifest: Manifest,
}

pub(super) async fn pull(
    store: &ImageStore,
    reference: &ImageReference,
    mirrors: &Mirrors,
    keyring: &Keyring,
) -> Result<Image, PullError> {
    if let Some(digest) = reference.digest() {
        Digest::parse(digest)?;
    }
    let _turn = store.inner.turns.wait(&format!("image {}", reference.canonical())).await;
    let mut attempts = Vec::new();
    for endpoint in mirrors.endpoints(reference.registry()) {
        let authorities = authorities(&mirrors.certificates_of(&endpoint));
        match pull_as_somebody(store, reference, &endpoint, keyring, &authorities).await {
            Ok(image) => return Ok(image),
            Err(error) if error.is_local() => return Err(error),
            Err(error) => {
                tracing::debug!(%endpoint, error = error.chain(), "could not pull here");
                attempts.push(error);
            }
        }
    }
    Err(PullError::of_attempts(attempts))
}

/// As each of those whom the server may know, until one is let in; as nobody when there are none.
async fn pull_as_somebody(
    store: &ImageStore,
    reference: &ImageReference,
    endpoint: &Endpoint,
    keyring: &Keyring,
    authorities: &[Certificate],
) -> Result<Image, PullError> {
    let remote = endpoint.locate(reference);
    let logins = keyring.find(&endpoint.host, remote.repository());
    let mut auths = logins.iter().map(|login| RegistryAuth::Basic(login.user.clone(), login.password.clone()));
    let first = auths.next().unwrap_or(RegistryAuth::Anonymous);
    let mut pulled = pull_from(store, reference, endpoint, first, authorities).await;
    for auth in auths {
        if !matches!(pulled, Err(PullError::Unauthorized { .. })) {
            break;
        }
        pulled = pull_from(store, reference, endpoint, auth, authorities).await;
    }
    pulled
}

async fn pull_from(
    store: &ImageStore,
    reference: &ImageReference,
    endpoint: &Endpoint,
    auth: RegistryAuth,
    authorities: &[Certificate],
) -> Result<Image, PullError> {
    let image = reference.to_string();
    // Fails only where the process has chosen its cryptography already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = match Client::try_from(client_config(endpoint, authorities)) {
        Ok(client) => client,
        Err(error) => return Err(PullError::of_client(endpoint, &image, error).await),
    };
    let source = Source { store, client, endpoint, remote: endpoint.locate(reference), image, auth };
    let resolved = source.resolve().await?;
    let contents = source.fetch_config(&resolved.manifest).await?;
    source.fetch_layers(&contents.layers).await?;
    let entry = Entry {
        repository: reference.name(),
        target: resolved.target,
        manifest: resolved.manifest_digest,
        origin: Origin::Pulled,
    };
    tracing::debug!(image = source.image, %endpoint, bytes = contents.size, "pulled an image");
    Ok(store.record(reference, entry, contents).await?)
}

impl Source<'_> {
    async fn resolve(&self) -> Result<Resolved, PullError> {
        let (target, document) = self.fetch_document(&self.remote).await?;
        let index = match document {
            Document::Manifest(manifest) => {
                return Ok(Resolved { manifest_digest: target.clone(), target, manifest: self.checked(manifest)? });
            }
            Document::Index(index) => index,
        };
        let entry = manifest::for_this_platform(&index).and_then(Blob::read).map_err(|source| self.unusable(source))?;
        let remote = self.remote.clone_with_digest(entry.digest.to_string());
        match self.fetch_document(&remote).await? {
            (manifest_digest, Document::Manifest(manifest)) => {
                Ok(Resolved { target, manifest_digest, manifest: self.checked(manifest)? })
            }
            (_, Document::Index(_)) => {
                Err(self.unusable(ManifestError::NotAnImage { what: "an index inside an index".to_owned() }))
            }
        }
    }

    fn checked(&self, manifest: Manifest) -> Result<Manifest, PullError> {
        manifest.check(&self.store.inner.limits).map_err(|source| self.unusable(source))?;
        Ok(manifest)
    }

    /// Fetches and keeps a manifest or index.
    async fn fetch_document(&self, remote: &Reference) -> Result<(Digest, Document), PullError> {
        let fetched = self.client.pull_manifest_raw(remote, &self.auth, &ACCEPTED).await;
        let bytes = match fetched {
            Ok((bytes, _)) => bytes,
            Err(error) => return Err(self.failed(error).await),
        };
        let limit = self.store.inner.limits.document_bytes;
        let document = manifest::check_size("the manifest", bytes.len() as u64, limit)
            .and_then(|()| Document::parse(&bytes))
            .map_err(|source| self.unusable(source))?;
        let digest = Digest::of(&bytes);
        self.verify(remote.digest(), &digest)?;
        let blobs = self.store.inner.blobs.clone();
        blocking(move || blobs.write(&bytes)).await?;
        Ok((digest, document))
    }

    async fn fetch_config(&self, manifest: &Manifest) -> Result<Contents, PullError> {
        self.fetch_blob(&manifest.config).await?;
        let blobs = self.store.inner.blobs.clone();
        let digest = manifest.config.digest.clone();
        let bytes = blocking(move || blobs.read(&digest)).await?;
        Contents::read(manifest, bytes.as_deref().unwrap_or_default()).map_err(|source| self.unusable(source))
    }

    /// Fetches the layers that aren't here and unpacks each as soon as it and all below it are.
    async fn fetch_layers(&self, layers: &[Layer]) -> Result<(), PullError> {
        let (fetched, mut to_unpack) = mpsc::channel::<usize>(layers.len().max(1));
        let fetching = async move {
            // By position: a closure over borrowed layers makes a future that can't be proved to be Send.
            let mut downloads = futures::stream::iter(0..layers.len())
                .map(|position| async move { self.fetch_layer(&layers[position]).await.map(|()| position) })
                .buffered(CONCURRENT_DOWNLOADS);
            while let Some(position) = downloads.try_next().await? {
                // It fails only when unpacking has failed, which ends the pull.
                if fetched.send(position).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let unpacking = async {
            let mut limits = self.store.inner.limits;
            while let Some(position) = to_unpack.recv().await {
                let layers = layers[..=position].to_vec();
                let (blobs, trees) = (self.store.inner.blobs.clone(), self.store.inner.layers.clone());
                let unpacked = blocking(move || trees.ensure(&layers, &blobs, &mut limits).map(|()| limits)).await;
                limits = unpacked.map_err(|source| PullError::Layer {
                    endpoint: self.endpoint.to_string(),
                    image: self.image.clone(),
                    source: Box::new(source),
                })?;
            }
            Ok(())
        };
        futures::try_join!(fetching, unpacking).map(|_| ())
    }

    async fn fetch_layer(&self, layer: &Layer) -> Result<(), PullError> {
        if self.store.inner.layers.contains(layer) {
            return Ok(());
        }
        self.fetch_blob(&layer.blob).await
    }

    async fn fetch_blob(&self, blob: &Blob) -> Result<(), PullError> {
        let _turn = self.store.inner.turns.wait(&format!("blob {}", blob.digest)).await;
        let blobs = &self.store.inner.blobs;
        if blobs.contains(&blob.digest) {
            return Ok(());
        }
        let staged = self.download(blob).await?;
        self.verify(Some(&blob.digest.to_string()), &staged.digest)?;
        tracing::debug!(digest = %staged.digest, bytes = staged.size, "fetched a blob");
        let blobs = blobs.clone();
        Ok(blocking(move || blobs.commit(&staged)).await?)
    }

    /// A transfer that breaks off goes on where it stopped, as long as each try brings something.
    async fn download(&self, blob: &Blob) -> Result<Staged, PullError> {
        let (pieces, received) = mpsc::channel(QUEUED_PIECES);
        let writing = tokio::task::spawn_blocking({
            let (blobs, size) = (self.store.inner.blobs.clone(), blob.size);
            move || write_pieces(&blobs, received, size)
        });
        let mut passed_on = 0;
        let interrupted = loop {
            let before = passed_on;
            let stream = self.open_blob(blob, passed_on).await?;
            match pass_on(stream, &pieces, &mut passed_on).await {
                Err(error) if passed_on > before && !is_mismatch(&error) => {
                    tracing::debug!(digest = %blob.digest, at = passed_on, %error, "a transfer broke off; it goes on");
                }
                ended => break ended.err(),
            }
        };
        drop(pieces);
        let written = super::finished(writing.await)?;
        if let Some(error) = interrupted {
            return Err(self.broken_off(blob, error));
        }
        written.ok_or_else(|| PullError::TooLong {
            endpoint: self.endpoint.to_string(),
            digest: blob.digest.clone(),
            size: blob.size,
        })
    }

    /// The blob's bytes from there on. A server that knows no ranges sends all of them.
    async fn open_blob(&self, blob: &Blob, from: u64) -> Result<Transfer, PullError> {
        let name = blob.digest.to_string();
        if from == 0 {
            return match self.client.pull_blob_stream(&self.remote, name.as_str()).await {
                Ok(stream) => Ok(Transfer { stream, to_skip: 0 }),
                Err(error) => Err(self.failed(error).await),
            };
        }
        let rest = blob.size.saturating_sub(from);
        match self.client.pull_blob_stream_partial(&self.remote, name.as_str(), from, Some(rest)).await {
            Ok(BlobResponse::Partial(stream)) => Ok(Transfer { stream, to_skip: 0 }),
            Ok(BlobResponse::Full(stream)) => Ok(Transfer { stream, to_skip: from }),
            Err(error) => Err(self.failed(error).await),
        }
    }

    fn broken_off(&self, blob: &Blob, source: std::io::Error) -> PullError {
        let mismatch = source.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>());
        match mismatch {
            Some(DigestError::VerificationError { expected, actual }) => PullError::DigestMismatch {
                endpoint: self.endpoint.to_string(),
                expected: expected.clone(),
                actual: actual.clone(),
            },
            Some(
                DigestError::InvalidHeader(_) | DigestError::UnsupportedAlgorithm(_) | DigestError::MissingAlgorithm,
            )
            | None => {
                PullError::Interrupted { endpoint: self.endpoint.to_string(), digest: blob.digest.clone(), source }
            }
        }
    }

    fn verify(&self, expected: Option<&str>, actual: &Digest) -> Result<(), PullError> {
        match expected {
            Some(expected) if expected != actual.to_string() => Err(PullError::DigestMismatch {
                endpoint: self.endpoint.to_string(),
                expected: expected.to_owned(),
                actual: actual.to_string(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn unusable(&self, source: ManifestError) -> PullError {
        PullError::Manifest { endpoint: self.endpoint.to_string(), image: self.image.clone(), source }
    }

    async fn failed(&self, error: OciDistributionError) -> PullError {
        PullError::of_client(self.endpoint, &self.image, error).await
    }
}

/// Every `*.crt` of a directory, as Docker has it. One that can't be read will be missed when it is needed.
fn authorities(directory: &Path) -> Vec<Certificate> {
    let paths = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let texts =
        paths.filter(|path| path.extension().is_some_and(|end| end == "crt")).filter_map(|it| std::fs::read(it).ok());
    texts.map(|data| Certificate { encoding: CertificateEncoding::Pem, data }).collect()
}

fn client_config(endpoint: &Endpoint, authorities: &[Certificate]) -> ClientConfig {
    ClientConfig {
        protocol: match endpoint.scheme {
            Scheme::Http => ClientProtocol::Http,
            Scheme::Https => ClientProtocol::Https,
        },
        platform_resolver: None,
        extra_root_certificates: authorities.to_vec(),
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("segue/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }
}

/// What a server sends of a blob.
struct Transfer {
    stream: SizedStream,
    /// Bytes that are here already.
    to_skip: u64,
}

async fn pass_on(transfer: Transfer, pieces: &mpsc::Sender<Bytes>, passed_on: &mut u64) -> std::io::Result<()> {
    let Transfer { mut stream, mut to_skip } = transfer;
    while let Some(piece) = stream.next().await {
        let mut piece = piece?;
        let skipped = usize::try_from(to_skip).unwrap_or(usize::MAX).min(piece.len());
        to_skip -= skipped as u64;
        let piece = piece.split_off(skipped);
        *passed_on += piece.len() as u64;
        // The writer stops receiving when it fails, and tells why itself.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether it is the content that is wrong, and not the way it came.
fn is_mismatch(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<DigestError>())
}

/// Writes pieces as they come. `None` when there are more bytes than announced.
fn write_pieces(blobs: &Blobs, mut pieces: mpsc::Receiver<Bytes>, size: u64) -> Result<Option<Staged>, StoreError> {
    let mut staging = blobs.stage()?;
    while let Some(piece) = pieces.blocking_recv() {
        staging.write(&piece)?;
        if staging.size() > size {
            return Ok(None);
        }
    }
    staging.finish().map(Some)
}

#[cfg(test)]
mod tests;
