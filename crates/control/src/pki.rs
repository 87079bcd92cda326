//! The engine's own certificate authority, the certificates it gives, and the kubeconfig that carries one.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};

use crate::apiserver::ADMINISTRATORS;

/// How long the authority lasts: longer than the machine.
const AUTHORITY_DAYS: i64 = 3_650;

/// How long a certificate lasts; new ones are made at each start, and when two thirds of this are over.
const CERTIFICATE_DAYS: i64 = 365;

/// Clocks of clients may be behind by this much.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// The user name in the kubeconfig's certificate.
const ADMINISTRATOR: &str = "segue-admin";

/// What the engine needs to serve TLS and to write a kubeconfig.
pub struct Pki {
    directory: PathBuf,
    addresses: Vec<IpAddr>,
    authority_pem: String,
    server: Arc<ServerCertificate>,
    client: (String, String),
    renew_at: Timestamp,
}

/// The certificate that the API shows at the moment.
#[derive(Debug)]
struct ServerCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What is given anew each time.
struct Issued {
    authority_pem: String,
    server: CertifiedKey,
    client: (String, String),
    renew_at: Timestamp,
}

/// Why certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("could not read or write {path}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("could not read a certificate that was just made")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("could not set up the check of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("the clock is beyond what a certificate can say")]
    Clock,
}

impl Pki {
    /// Reads the authority kept in `directory`, or makes it, and gives new certificates for a server at `addresses`
    /// and for an administrator.
    ///
    /// # Errors
    /// When a file can't be read or written, or holds something else.
    pub fn open(directory: &Path, addresses: &[IpAddr]) -> Result<Self, PkiError> {
        let Issued { authority_pem, server, client, renew_at } = issue_all(directory, addresses)?;
        let server = Arc::new(ServerCertificate(RwLock::new(Arc::new(server))));
        let (directory, addresses) = (directory.to_owned(), addresses.to_owned());
        Ok(Self { directory, addresses, authority_pem, server, client, renew_at })
    }

    /// Gives new certificates in the place of the last ones, if these have lasted for most of their time.
    ///
    /// # Errors
    /// As [`Pki::open`]; the last ones stay then.
    pub fn renew(&mut self, now: Timestamp) -> Result<bool, PkiError> {
        if now < self.renew_at {
            return Ok(false);
        }
        let Issued { server, client, renew_at, .. } = issue_all(&self.directory, &self.addresses)?;
        *self.server.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(server);
        (self.client, self.renew_at) = (client, renew_at);
        Ok(true)
    }

    /// TLS for the API: our certificate, and client certificates of our authority where a client shows one.
    ///
    /// # Errors
    /// When the certificates don't fit together, which would be a bug.
    pub fn server_config(&self) -> Result<ServerConfig, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority_pem.as_bytes())?)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.server) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols();
        Ok(config)
    }

    /// TLS for the API with a certificate of somebody else's: a key and certificates, PEM, in any order. No client
    /// certificates are asked for.
    ///
    /// # Errors
    /// When they can't be read, or don't fit together.
    pub fn server_config_of(pair: &str) -> Result<ServerConfig, PkiError> {
        let chain = CertificateDer::pem_slice_iter(pair.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.as_bytes())?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = protocols();
        Ok(config)
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// Writes a kubeconfig for the administrator, readable by its owner only.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_kubeconfig(&self, path: &Path, server: &str) -> Result<(), PkiError> {
        let encode = |pem: &str| BASE64_STANDARD.encode(pem);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: segue\n\
             clusters:\n- name: segue\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
             users:\n- name: {ADMINISTRATOR}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: segue\n  context:\n    cluster: segue\n    user: {ADMINISTRATOR}\n",
            encode(&self.authority_pem),
            encode(&self.client.0),
            encode(&self.client.1),
        );
        let beside = path.with_extension("new");
        write_private(&beside, &text)?;
        fs::rename(&beside, path).map_err(|source| PkiError::File { path: path.to_owned(), source })
    }
}

/// Reads the authority, or makes it, and gives new certificates.
fn issue_all(directory: &Path, addresses: &[IpAddr]) -> Result<Issued, PkiError> {
    fs::create_dir_all(directory).map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
    let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
    if !certificate.exists() || !key.exists() {
        let (certificate_pem, key_pem) = make_authority()?;
        // The key first: a certificate is only looked for beside its key.
        write_private(&key, &key_pem)?;
        write_private(&certificate, &certificate_pem)?;
    }
    let authority_pem = read(&certificate)?;
    let issuer = Issuer::from_ca_cert_pem(&authority_pem, KeyPair::from_pem(&read(&key)?)?)?;
    let server = certified(&issue(server_params(addresses)?, &issuer)?)?;
    let client = issue(client_params()?, &issuer)?;
    let lasts = SignedDuration::from_hours(24 * CERTIFICATE_DAYS * 2 / 3);
    let renew_at = Timestamp::now().checked_add(lasts).map_err(|_| PkiError::Clock)?;
    Ok(Issued { authority_pem, server, client, renew_at })
}

fn certified((chain, key): &(String, String)) -> Result<CertifiedKey, PkiError> {
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let key = rustls::crypto::ring::default_provider().key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(chain, key))
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn make_authority() -> Result<(String, String), PkiError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "segue-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, AUTHORITY_DAYS)?;
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Makes a key that its owner alone can read.
pub(crate) fn make_key(path: &Path) -> Result<(), PkiError> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|source| PkiError::File { path: directory.to_owned(), source })?;
    let beside = path.with_extension("new");
    write_private(&beside, &KeyPair::generate()?.serialize_pem())?;
    fs::rename(&beside, path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn server_params(addresses: &[IpAddr]) -> Result<CertificateParams, PkiError> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut params = CertificateParams::new(names.map(str::to_owned))?;
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, "segue");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_validity(&mut params, CERTIFICATE_DAYS)?;
    Ok(params)
}

fn client_params() -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, ADMINISTRATOR);
    params.distinguished_name.push(DnType::OrganizationName, ADMINISTRATORS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, CERTIFICATE_DAYS)?;
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, days: i64) -> Result<(), PkiError> {
    let now = Timestamp::now();
    let at = |time: Timestamp| time::OffsetDateTime::from_unix_timestamp(time.as_second()).map_err(|_| PkiError::Clock);
    let end = now.checked_add(SignedDuration::from_hours(24 * days)).map_err(|_| PkiError::Clock)?;
    let start = now.checked_sub(CLOCK_SKEW).map_err(|_| PkiError::Clock)?;
    params.not_before = at(start)?;
    params.not_after = at(end)?;
    Ok(())
}

fn issue(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| PkiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_given_anew_before_they_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut pki = Pki::open(directory.path(), &[]).unwrap();
        let shown = |pki: &Pki| pki.server.0.read().unwrap().cert.clone();
        let (server, client, now) = (shown(&pki), pki.client.clone(), Timestamp::now());
        assert!(!pki.renew(now + SignedDuration::from_hours(24 * 200)).unwrap());
        assert_eq!((shown(&pki), pki.client.clone()), (server.clone(), client.clone()));
        assert!(pki.renew(now + SignedDuration::from_hours(24 * 250)).unwrap());
        assert!(shown(&pki) != server && pki.client != client);
        assert!(!pki.renew(Timestamp::now()).unwrap());
    }
}
