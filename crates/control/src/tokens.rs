//! Tokens of ServiceAccounts: JSON Web Tokens (RFC 7519) that the engine signs with a key of its own, with the claims that
//! Kubernetes gives them (KEP-1205). What they say is looked up in the store whenever one is shown.

use std::io;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};

use crate::pki::{self, PkiError};

/// Who gives them out, and whom they are shown to where nobody else is named.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

const KEY: &str = "service-accounts.key";

/// Signs tokens, and knows its own.
pub struct Tokens {
    signs: EncodingKey,
    knows: DecodingKey,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    /// `system:serviceaccount:NAMESPACE:NAME`
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    /// In seconds since 1970, as the two others.
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
}

/// What a token ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
}

/// One object, and no later one of its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Why tokens can't be given out.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("can't read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("can't make a key for tokens")]
    Make(#[from] PkiError),
    #[error("{path} holds no key for tokens; without it a new one is made, and tokens given out so far end")]
    Key { path: PathBuf, source: jsonwebtoken::errors::Error },
    #[error("{path} holds no key for tokens; without it a new one is made, and tokens given out so far end")]
    Public { path: PathBuf, source: rcgen::Error },
}

impl Tokens {
    /// Reads the key kept in `directory`, or makes it.
    ///
    /// # Errors
    /// When it can't be read or written, or is something else.
    pub fn open(directory: &Path) -> Result<Self, TokensError> {
        let path = directory.join(KEY);
        if !path.exists() {
            pki::make_key(&path)?;
        }
        let pem = std::fs::read_to_string(&path).map_err(|source| TokensError::Read { path: path.clone(), source })?;
        let public = KeyPair::from_pem(&pem).map_err(|source| TokensError::Public { path: path.clone(), source })?;
        let signs = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|source| TokensError::Key { path, source })?;
        Ok(Self { signs, knows: DecodingKey::from_ec_der(public.der_bytes()) })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &self.signs)
    }

    /// What a token says that is ours, in force, and for one of `audiences`.
    pub(crate) fn read(&self, token: &str, audiences: &[&str]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        jsonwebtoken::decode(token, &self.knows, &validation).ok().map(|read| read.claims)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use jiff::Timestamp;

    use super::*;

    fn claims(from: i64, until: i64, audience: &str) -> Claims {
        let now = Timestamp::now().as_second();
        let account = Reference { name: "robot".to_owned(), uid: "u".to_owned() };
        Claims {
            iss: ISSUER.to_owned(),
            sub: "system:serviceaccount:n:robot".to_owned(),
            aud: vec![audience.to_owned()],
            exp: now + until,
            iat: now + from,
            nbf: now + from,
            jti: "1".to_owned(),
            bound: Bound { namespace: "n".to_owned(), serviceaccount: account, pod: None, secret: None },
        }
    }

    #[test]
    fn a_token_is_known_while_it_is_in_force_and_by_its_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let known = claims(0, 60, ISSUER);
        let token = tokens.sign(&known).unwrap();
        assert_eq!(tokens.read(&token, &[ISSUER]), Some(known.clone()));
        assert_eq!(Tokens::open(directory.path()).unwrap().read(&token, &[ISSUER]), Some(known));
        assert_eq!(tokens.read(&token, &["vault"]), None);
        for (from, until) in [(-60, -1), (30, 60)] {
            let other = tokens.sign(&claims(from, until, ISSUER)).unwrap();
            assert_eq!(tokens.read(&other, &[ISSUER]), None, "{from} {until}");
        }
        let strangers = Tokens::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert_eq!(strangers.read(&token, &[ISSUER]), None);
    }

    #[test]
    fn nothing_that_is_changed_or_unsigned_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let token = tokens.sign(&claims(0, 60, ISSUER)).unwrap();
        let [_, body, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
        let other = BASE64_URL_SAFE_NO_PAD.encode(text.replace("robot", "admin"));
        let head = token.split('.').next().unwrap();
        let tried = [
            format!("{unsigned}.{body}."),
            format!("{unsigned}.{body}.{signature}"),
            format!("{head}.{other}.{signature}"),
            format!("{head}.{body}."),
            String::new(),
            "a.b.c".to_owned(),
        ];
        for token in tried {
            assert_eq!(tokens.read(&token, &[ISSUER]), None, "{token}");
        }
    }
}
