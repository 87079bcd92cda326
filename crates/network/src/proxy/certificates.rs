//! Certificates for connections with TLS, chosen by the host that a client asks for. New ones hold for every handshake
//! that begins after them; connections that are open go on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::crypto::ring::Ticketer;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;

use crate::config::Certificate;

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("can't read the PEM of Secret {secret}")]
    Pem {
        secret: String,
        #[source]
        source: pem::Error,
    },
    #[error("the key of Secret {secret} can't be used with its certificate")]
    Key {
        secret: String,
        #[source]
        source: rustls::Error,
    },
}

/// Those in force.
#[derive(Default)]
pub(crate) struct Certificates {
    in_force: RwLock<InForce>,
    /// Made once: clients that come back resume what it remembers of them.
    config: OnceLock<Arc<ServerConfig>>,
}

#[derive(Default)]
struct InForce {
    given: Vec<Certificate>,
    /// What can be used, by the Secret that it comes from.
    secrets: HashMap<String, Arc<CertifiedKey>>,
    /// By host; wildcards by what follows the star.
    hosts: HashMap<String, Arc<CertifiedKey>>,
    /// For whoever has no other.
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Puts these in force. Those that can't be used are told; their Secrets' last ones that could be go on holding.
    pub(crate) fn renew(&self, given: &[Certificate]) -> Vec<CertificateError> {
        let last = {
            let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
            if in_force.given == given {
                return Vec::new();
            }
            in_force.secrets.clone()
        };
        let mut renewed = InForce { given: given.to_vec(), ..InForce::default() };
        let mut errors = Vec::new();
        for certificate in given {
            match certified(certificate) {
                Ok(certified) => renewed.add(certificate, &Arc::new(certified)),
                Err(error) => {
                    last.get(&certificate.secret).iter().for_each(|last| renewed.add(certificate, last));
                    errors.push(error);
                }
            }
        }
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        errors
    }

    /// What TLS needs to know: HTTP/2 or HTTP/1.1, and these certificates.
    pub(crate) fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        self.config.get_or_init(|| self.new_config()).clone()
    }

    fn new_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .expect("the provider has what its own default versions need")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        match Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!("no TLS session can be resumed by a ticket: {error}"),
        }
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    fn find(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        let host = host.map(str::to_ascii_lowercase);
        let own = host.as_ref().and_then(|host| in_force.hosts.get(host));
        let wildcard = || host.as_ref().and_then(|host| in_force.hosts.get(&host[host.find('.')?..]));
        own.or_else(wildcard).or(in_force.default.as_ref()).cloned()
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

impl InForce {
    fn add(&mut self, certificate: &Certificate, certified: &Arc<CertifiedKey>) {
        self.secrets.insert(certificate.secret.clone(), certified.clone());
        if certificate.hosts.is_empty() {
            self.default.get_or_insert_with(|| certified.clone());
        }
        for host in &certificate.hosts {
            let host = host.strip_prefix('*').unwrap_or(host).to_ascii_lowercase();
            self.hosts.entry(host).or_insert_with(|| certified.clone());
        }
    }
}

/// Whether a certificate can be used.
///
/// # Errors
/// When it is no PEM, or its key is another's.
pub(crate) fn check(certificate: &Certificate) -> Result<(), CertificateError> {
    certified(certificate).map(drop)
}

fn certified(certificate: &Certificate) -> Result<CertifiedKey, CertificateError> {
    let secret = || certificate.secret.clone();
    let pem = |source| CertificateError::Pem { secret: secret(), source };
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(pem)?;
    let unusable = |source| CertificateError::Key { secret: secret(), source };
    let certified = CertifiedKey::new(chain, any_supported_type(&key).map_err(unusable)?);
    certified.keys_match().map_err(unusable)?;
    Ok(certified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(hosts: &[&str], made_for: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed([made_for.to_owned()]).unwrap();
        Certificate {
            secret: format!("default/{made_for}"),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    #[test]
    fn the_most_specific_host_decides_and_the_first_of_two_holds() {
        let given = [
            certificate(&["a.test"], "a"),
            certificate(&["*.test"], "wildcard"),
            certificate(&["a.test"], "second"),
            certificate(&[], "default"),
        ];
        let certificates = Certificates::default();
        assert!(certificates.renew(&given).is_empty());
        let found = |host| certificates.find(host).map(|found| found.cert[0].clone());
        let made = |index: usize| Some(certified(&given[index]).unwrap().cert[0].clone());
        assert_eq!(found(Some("A.test")), made(0));
        assert_eq!(found(Some("b.test")), made(1));
        assert_eq!(found(Some("c.b.test")), made(3));
        assert_eq!(found(None), made(3));
    }

    #[test]
    fn what_can_not_be_used_is_told_and_the_rest_holds() {
        let good = certificate(&["a.test"], "a");
        let other_key = Certificate { key: certificate(&[], "x").key, ..certificate(&["b.test"], "b") };
        let no_pem = Certificate { key: "no key".to_owned(), ..certificate(&["c.test"], "c") };
        let certificates = Certificates::default();
        let errors: Vec<String> =
            certificates.renew(&[good, other_key, no_pem]).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "the key of Secret default/b can't be used with its certificate",
                "can't read the PEM of Secret default/c",
            ]
        );
        assert!(certificates.find(Some("a.test")).is_some() && certificates.find(Some("b.test")).is_none());
    }

    #[test]
    fn the_last_one_that_could_be_used_holds_until_its_secret_is_gone() {
        let good = certificate(&["a.test"], "a");
        let broken = Certificate { chain: "half a fi".to_owned(), ..good.clone() };
        let certificates = Certificates::default();
        assert!(certificates.renew(&[good]).is_empty());
        for _ in 0..2 {
            let more = certificate(&["b.test"], "b");
            assert_eq!(certificates.renew(&[broken.clone(), more]).len(), 1);
            assert!(certificates.find(Some("a.test")).is_some());
        }
        certificates.renew(&[]);
        assert!(certificates.find(Some("a.test")).is_none());
    }
}
