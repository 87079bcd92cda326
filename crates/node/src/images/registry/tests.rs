use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::images::LayerError;
use crate::images::fixtures::{Tar, TestImage, gzip, image_of_layers, reference};
use crate::images::limits::Limits;

const NAME: &str = "registry.example.com/team/app:1";

/// A registry that answers what it is told to, even lies.
struct Registry {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    content_length: usize,
    /// Ranges are served, and each answer breaks off after so many bytes.
    breaks_after: Option<usize>,
}

impl Answer {
    fn ok(body: &[u8]) -> Answer {
        Answer::with(200, body)
    }

    fn with(status: u16, body: &[u8]) -> Answer {
        Answer { status, body: body.to_vec(), content_length: body.len(), breaks_after: None }
    }

    fn error(status: u16, code: &str) -> Answer {
        let body = json!({"errors": [{"code": code, "message": code}]}).to_string();
        Answer::with(status, body.as_bytes())
    }

    /// The answer to a request for a range, or for everything.
    fn part(self, request: &str) -> Answer {
        let Some(longest) = self.breaks_after else { return self };
        let range = request.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("range: bytes=")?.split_once('-')?.0.parse::<usize>().ok()
        });
        let rest = &self.body[range.unwrap_or(0)..];
        let status = if range.is_some() { 206 } else { 200 };
        Answer {
            status,
            body: rest[..longest.min(rest.len())].to_vec(),
            content_length: rest.len(),
            breaks_after: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {} Answer\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.status, self.content_length
        );
        [head.as_bytes(), &self.body].concat()
    }
}

impl Registry {
    async fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry =
            Registry { address: listener.local_addr().unwrap(), answers: Arc::default(), asked: Arc::default() };
        registry.answer("/v2/", Answer::ok(b"{}"));
        let (answers, asked) = (Arc::clone(&registry.answers), Arc::clone(&registry.asked));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&answers), Arc::clone(&asked)));
            }
        });
        registry
    }

    /// One with an image under the tag `1` and its digest.
    async fn with(image: &TestImage) -> Registry {
        let registry = Registry::start().await;
        registry.hold(image);
        registry.tag(&image.blobs[&image.manifest.to_string()]);
        registry
    }

    fn hold(&self, image: &TestImage) {
        for (digest, bytes) in &image.blobs {
            self.answer(&format!("/v2/team/app/blobs/{digest}"), Answer::ok(bytes));
            self.answer(&format!("/v2/team/app/manifests/{digest}"), Answer::ok(bytes));
        }
    }

    fn tag(&self, manifest: &[u8]) {
        self.answer("/v2/team/app/manifests/1", Answer::ok(manifest));
    }

    fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn mirrors(&self) -> Mirrors {
        let line = format!("registry.example.com=http://{}", self.address);
        Mirrors::parse([line.as_str()]).unwrap()
    }

    /// How often a path was asked for.
    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

async fn serve(
    mut connection: TcpStream,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else {
            return;
        };
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap().to_owned();
    let answer = answers.lock().unwrap().get(&path).cloned();
    asked.lock().unwrap().push(path);
    let answer = answer.unwrap_or_else(|| Answer::error(404, "MANIFEST_UNKNOWN")).part(&request);
    // A client that has read enough hangs up.
    if connection.write_all(&answer.bytes()).await.is_ok() {
        connection.shutdown().await.ok();
    }
}

fn store() -> (TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

fn two_layers() -> TestImage {
    image_of_layers(&[
        Tar::default().file("app", b"version 1").bytes(),
        Tar::default().file("etc/conf", b"conf").file(".wh.old", b"").bytes(),
    ])
}

/// The digests of an image's blobs that are layers.
fn layer_digests(image: &TestImage) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&image.blobs[&image.manifest.to_string()]).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// The failure at the mirror; the registry itself, which is asked next, does not exist.
fn at_the_mirror(error: PullError) -> PullError {
    let PullError::NoEndpoint { mut attempts } = error else {
        panic!("the registry was not asked: {}", error.chain());
    };
    assert_eq!(attempts.len(), 2);
    assert!(matches!(attempts[1], PullError::UnknownHost { .. }), "{}", attempts[1]);
    attempts.remove(0)
}

async fn failure(registry: &Registry, store: &ImageStore) -> PullError {
    let error = store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.unwrap_err();
    at_the_mirror(error)
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn a_tag_is_pulled_through_its_mirror() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (directory, store) = store();
    let pulled = store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.unwrap();
    assert_eq!(pulled.reference, NAME);
    let repo_digest = format!("registry.example.com/team/app@{}", image.manifest);
    assert_eq!(pulled.repo_digests, [repo_digest.as_str()]);
    assert_eq!(pulled.image_id(), repo_digest);
    let config = pulled.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_deref(), Some(["/app".to_owned()].as_slice()));
    let [bottom, top] = pulled.layers.as_slice() else {
        panic!("{:?}", pulled.layers);
    };
    assert_eq!(std::fs::read(bottom.join("app")).unwrap(), b"version 1");
    assert_eq!(std::fs::read(top.join("etc/conf")).unwrap(), b"conf");
    let sizes: usize = image
        .blobs
        .iter()
        .filter(|(digest, _)| **digest != image.manifest.to_string())
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert_eq!(pulled.size, sizes as u64);
    let scratch = std::fs::read_dir(directory.path().join("tmp")).unwrap().next().unwrap();
    assert!(is_empty(&scratch.unwrap().path()));
}

#[tokio::test]
async fn a_pulled_image_is_found_by_tag_and_by_digest_after_a_restart() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (directory, store) = store();
    let pulled = store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.unwrap();
    drop(store);
    let store = ImageStore::open(directory.path()).unwrap();
    let by_digest = format!("registry.example.com/team/app@{}", image.manifest);
    for name in [NAME, &by_digest, &format!("{NAME}@{}", image.manifest)] {
        let found = store.resolve(&reference(name)).await.unwrap().unwrap();
        assert_eq!((found.id, found.layers), (pulled.id.clone(), pulled.layers.clone()));
    }
    let elsewhere = format!("registry.example.com/other@{}", image.manifest);
    assert!(store.resolve(&reference(&elsewhere)).await.unwrap().is_none());
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert!(store.remove(&reference(NAME)).await.unwrap());
    assert!(!store.remove(&reference(NAME)).await.unwrap());
    assert!(store.resolve(&reference(NAME)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_digest_is_pulled_and_verified() {
    let image = two_layers();
    let registry = Registry::start().await;
    registry.hold(&image);
    let (_directory, store) = store();
    let by_digest = reference(&format!("registry.example.com/team/app@{}", image.manifest));
    let pulled = store.pull(&by_digest, &registry.mirrors(), &Keyring::default()).await.unwrap();
    assert_eq!(pulled.reference, by_digest.to_string());

    let other = image_of_layers(&[Tar::default().file("app", b"forged").bytes()]);
    let path = format!("/v2/team/app/manifests/{}", image.manifest);
    registry.answer(&path, Answer::ok(&other.blobs[&other.manifest.to_string()]));
    let error = store.pull(&by_digest, &registry.mirrors(), &Keyring::default()).await.unwrap_err();
    let error = at_the_mirror(error);
    assert!(matches!(error, PullError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn an_index_leads_to_this_machines_platform() {
    let image = two_layers();
    let registry = Registry::start().await;
    registry.hold(&image);
    let architecture = oci_spec::image::Arch::default().to_string();
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "m", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
         "platform": {"os": "linux", "architecture": "mips"}},
        {"mediaType": "m", "digest": image.manifest.to_string(), "size": 1,
         "platform": {"os": "linux", "architecture": architecture}},
    ]})
    .to_string();
    registry.tag(index.as_bytes());
    let (_directory, store) = store();
    let pulled = store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.unwrap();
    let target = Digest::of(index.as_bytes());
    assert_eq!(pulled.repo_digests, [format!("registry.example.com/team/app@{target}")]);
    for digest in [&target, &image.manifest] {
        let name = reference(&format!("registry.example.com/team/app@{digest}"));
        assert!(store.resolve(&name).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_index_without_this_platform_says_what_it_offers() {
    let registry = Registry::start().await;
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "m", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
         "platform": {"os": "windows", "architecture": "mips"}}]});
    registry.tag(index.to_string().as_bytes());
    let (_directory, store) = store();
    let error = failure(&registry, &store).await.chain();
    let sentence = format!("the image is for windows/mips; this machine runs {}", manifest::this_platform());
    assert!(error.ends_with(&sentence), "{error}");
}

#[tokio::test]
async fn an_absent_tag_is_not_found() {
    let registry = Registry::start().await;
    let (_directory, store) = store();
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    let sentence = format!("{NAME} not found at http://{}; check the repository and the tag", registry.address);
    assert_eq!(error.to_string(), sentence);
}

#[tokio::test]
async fn a_registry_that_wants_credentials_says_so() {
    let registry = Registry::start().await;
    registry.answer("/v2/team/app/manifests/1", Answer::error(401, "UNAUTHORIZED"));
    let (_directory, store) = store();
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
    registry.answer("/v2/team/app/manifests/1", Answer::error(403, "DENIED"));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn other_answers_are_told_apart() {
    let registry = Registry::start().await;
    let (_directory, store) = store();
    registry.answer("/v2/team/app/manifests/1", Answer::error(429, "TOOMANYREQUESTS"));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::TooManyRequests { .. }), "{error}");
    registry.answer("/v2/team/app/manifests/1", Answer::with(500, b"out of order"));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Answer { .. }), "{error}");
    assert!(error.chain().contains("out of order"), "{}", error.chain());
    registry.answer("/v2/team/app/manifests/1", Answer::ok(b"<html>"));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Manifest { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_host_and_a_closed_port_are_told_apart() {
    let (_directory, store) = store();
    let unknown = reference("no-such-host.invalid/app:1");
    let error = store.pull(&unknown, &Mirrors::default(), &Keyring::default()).await.unwrap_err();
    assert!(matches!(error, PullError::UnknownHost { .. }), "{error}");
    assert!(error.to_string().starts_with("no such host: no-such-host.invalid"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let closed = reference(&format!("{address}/app:1"));
    let error = store.pull(&closed, &Mirrors::default(), &Keyring::default()).await.unwrap_err();
    assert!(matches!(error, PullError::ConnectionRefused { .. }), "{error}");
}

#[tokio::test]
async fn a_dead_mirror_is_passed_over() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap();
    drop(listener);
    let mirrors = Mirrors::parse([
        format!("registry.example.com=http://{dead}").as_str(),
        format!("registry.example.com=http://{}", registry.address).as_str(),
    ])
    .unwrap();
    let (_directory, store) = store();
    assert!(store.pull(&reference(NAME), &mirrors, &Keyring::default()).await.is_ok());
}

#[tokio::test]
async fn a_truncated_layer_is_refused_and_fetched_again() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (directory, store) = store();
    let layer = &layer_digests(&image)[0];
    let path = format!("/v2/team/app/blobs/{layer}");
    let whole = Answer::ok(&image.blobs[layer]);
    let mut cut = whole.clone();
    cut.body.truncate(cut.body.len() / 2);
    registry.answer(&path, cut);
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Interrupted { .. }), "{error}");
    assert!(!directory.path().join("blobs/sha256").join(&layer[7..]).exists());
    assert!(store.resolve(&reference(NAME)).await.unwrap().is_none());
    registry.answer(&path, whole);
    assert!(store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.is_ok());
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (_directory, store) = store();
    let layer = &layer_digests(&image)[0];
    let path = format!("/v2/team/app/blobs/{layer}");
    let whole = &image.blobs[layer];
    registry.answer(&path, Answer { breaks_after: Some(whole.len() / 4 + 1), ..Answer::ok(whole) });
    assert!(store.pull(&reference(NAME), &registry.mirrors(), &Keyring::default()).await.is_ok());
    assert_eq!(registry.asked(&path), 4);
}

#[tokio::test]
async fn a_forged_layer_is_refused() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (directory, store) = store();
    let layer = &layer_digests(&image)[1];
    let mut forged = image.blobs[layer].clone();
    forged[20] ^= 1;
    registry.answer(&format!("/v2/team/app/blobs/{layer}"), Answer::ok(&forged));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::DigestMismatch { .. }), "{error}");
    assert!(!directory.path().join("blobs/sha256").join(&layer[7..]).exists());
}

#[tokio::test]
async fn a_layer_longer_than_announced_is_not_read_to_its_end() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let (_directory, store) = store();
    let layer = &layer_digests(&image)[0];
    let endless = vec![7; 64 << 20];
    registry.answer(&format!("/v2/team/app/blobs/{layer}"), Answer::ok(&endless));
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn a_layer_with_another_diff_id_than_the_configuration_says_is_refused() {
    let honest = two_layers();
    let swapped = gzip(&Tar::default().file("app", b"swapped").bytes());
    let mut image = honest.clone();
    let digest = Digest::of(&swapped);
    let manifest = String::from_utf8(image.blobs[&image.manifest.to_string()].clone()).unwrap();
    let layer = &layer_digests(&image)[0];
    let old_size = format!("\"size\":{}", image.blobs[layer].len());
    let manifest =
        manifest.replace(layer, &digest.to_string()).replace(&old_size, &format!("\"size\":{}", swapped.len()));
    image.manifest = Digest::of(manifest.as_bytes());
    image.blobs.insert(digest.to_string(), swapped);
    image.blobs.insert(image.manifest.to_string(), manifest.into_bytes());
    let registry = Registry::with(&image).await;
    let (directory, store) = store();
    let PullError::Layer { source, .. } = failure(&registry, &store).await else {
        panic!("the layer was not refused");
    };
    assert!(matches!(*source, LayerError::DiffId { .. }), "{source}");
    assert!(is_empty(&directory.path().join("layers")));
}

#[tokio::test]
async fn what_is_announced_as_too_large_is_not_fetched() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { blob_bytes: 10, ..Limits::DEFAULT };
    let store = ImageStore::open_with(directory.path(), limits).unwrap();
    let error = failure(&registry, &store).await;
    assert!(matches!(error, PullError::Manifest { source: ManifestError::TooLarge { .. }, .. }), "{error}");
    for layer in layer_digests(&image) {
        assert_eq!(registry.asked(&format!("/v2/team/app/blobs/{layer}")), 0);
    }
}

#[tokio::test]
async fn concurrent_pulls_fetch_each_blob_once() {
    let image = two_layers();
    let registry = Registry::with(&image).await;
    registry.answer("/v2/team/app/manifests/2", Answer::ok(&image.blobs[&image.manifest.to_string()]));
    let (_directory, store) = store();
    let mirrors = registry.mirrors();
    let names = [NAME, NAME, "registry.example.com/team/app:2", NAME];
    let pulls = names.map(|name| {
        let (store, mirrors) = (store.clone(), mirrors.clone());
        async move { store.pull(&reference(name), &mirrors, &Keyring::default()).await }
    });
    let pulled = futures::future::try_join_all(pulls).await.unwrap();
    assert!(pulled.iter().all(|image| image.layers == pulled[0].layers));
    for layer in layer_digests(&image) {
        assert_eq!(registry.asked(&format!("/v2/team/app/blobs/{layer}")), 1);
    }
}
