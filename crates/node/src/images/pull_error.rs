//! Why a pull failed, told so that its reader knows what to check next.

use std::io;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use super::digest::{Digest, InvalidDigest};
use super::disk::StoreError;
use super::layers::LayerError;
use super::manifest::ManifestError;
use super::mirrors::Endpoint;

/// Why an image could not be pulled. `endpoint` is the server that was asked, `image` what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(
        "no such host: {host} (asked at {endpoint}); check the registry in the image's name and this machine's DNS"
    )]
    UnknownHost { endpoint: String, host: String, source: io::Error },
    #[error("connection refused by {endpoint}; check that the registry runs and listens there")]
    ConnectionRefused { endpoint: String, source: Box<OciDistributionError> },
    #[error("cannot reach {endpoint}")]
    Unreachable { endpoint: String, source: Box<OciDistributionError> },
    #[error("{image} not found at {endpoint}; check the repository and the tag")]
    NotFound { endpoint: String, image: String, source: Box<OciDistributionError> },
    #[error(
        "{endpoint} does not allow pulling {image} with the credentials it was given, if any, or there is no such repository"
    )]
    Unauthorized { endpoint: String, image: String, source: Box<OciDistributionError> },
    #[error("{endpoint} refuses more pulls for now")]
    TooManyRequests { endpoint: String, source: Box<OciDistributionError> },
    #[error("{endpoint} did not answer as a registry does")]
    Answer { endpoint: String, source: Box<OciDistributionError> },
    #[error("{endpoint} broke off while sending {digest}")]
    Interrupted { endpoint: String, digest: Digest, source: io::Error },
    #[error("{endpoint} sent {actual} when asked for {expected}; its content is damaged or forged")]
    DigestMismatch { endpoint: String, expected: String, actual: String },
    #[error("{endpoint} sent more for {digest} than the {size} bytes that the manifest states")]
    TooLong { endpoint: String, digest: Digest, size: u64 },
    #[error("the digest in the image's name is not supported")]
    Digest {
        #[from]
        source: InvalidDigest,
    },
    #[error("{image} from {endpoint} cannot be used")]
    Manifest { endpoint: String, image: String, source: ManifestError },
    #[error("{image} from {endpoint} cannot be used")]
    Layer { endpoint: String, image: String, source: Box<LayerError> },
    #[error("cannot keep the image")]
    Store {
        #[from]
        source: StoreError,
    },
    #[error("{}", sentences(attempts))]
    NoEndpoint { attempts: Vec<PullError> },
}

impl PullError {
    /// Whether asking another server is no use: what failed is this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            PullError::Store { .. } | PullError::Digest { .. } => true,
            PullError::Layer { source, .. } => matches!(**source, LayerError::Store(_)),
            PullError::UnknownHost { .. }
            | PullError::ConnectionRefused { .. }
            | PullError::Unreachable { .. }
            | PullError::NotFound { .. }
            | PullError::Unauthorized { .. }
            | PullError::TooManyRequests { .. }
            | PullError::Answer { .. }
            | PullError::Interrupted { .. }
            | PullError::DigestMismatch { .. }
            | PullError::TooLong { .. }
            | PullError::Manifest { .. }
            | PullError::NoEndpoint { .. } => false,
        }
    }

    /// The whole story in one line: the error and its causes.
    pub fn chain(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        let mut sentences = vec![self.to_string()];
        sentences.extend(causes.map(ToString::to_string));
        sentences.dedup();
        sentences.join(": ")
    }

    /// One failure as it is, several together.
    pub(crate) fn of_attempts(mut attempts: Vec<PullError>) -> PullError {
        match attempts.len() {
            1 => attempts.remove(0),
            _ => PullError::NoEndpoint { attempts },
        }
    }

    /// Reads the registry client's error; looks the host up again to tell an unknown one from a silent one.
    pub(crate) async fn of_client(endpoint: &Endpoint, image: &str, error: OciDistributionError) -> PullError {
        if let OciDistributionError::RequestError(request) = &error
            && request.is_connect()
        {
            return connection_error(endpoint, error).await;
        }
        answer_error(endpoint, image, error)
    }
}

async fn connection_error(endpoint: &Endpoint, error: OciDistributionError) -> PullError {
    let (host, port) = endpoint.address();
    let looked_up = tokio::net::lookup_host((host.as_str(), port)).await.map(drop);
    let endpoint = endpoint.to_string();
    if let Err(source) = looked_up {
        return PullError::UnknownHost { endpoint, host, source };
    }
    if is_refused(&error) {
        return PullError::ConnectionRefused { endpoint, source: Box::new(error) };
    }
    PullError::Unreachable { endpoint, source: Box::new(error) }
}

fn answer_error(endpoint: &Endpoint, image: &str, error: OciDistributionError) -> PullError {
    let endpoint = endpoint.to_string();
    let image = image.to_owned();
    if let OciDistributionError::DigestError(oci_client::errors::DigestError::VerificationError { expected, actual }) =
        error
    {
        return PullError::DigestMismatch { endpoint, expected, actual };
    }
    let source = Box::new(error);
    match status(&source) {
        Some(401 | 403) => PullError::Unauthorized { endpoint, image, source },
        Some(404) => PullError::NotFound { endpoint, image, source },
        Some(429) => PullError::TooManyRequests { endpoint, source },
        Some(_) | None => PullError::Answer { endpoint, source },
    }
}

/// The HTTP status that an answer had or that its error code stands for.
fn status(error: &OciDistributionError) -> Option<u16> {
    if let OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) = error {
        return Some(401);
    }
    if let OciDistributionError::ServerError { code, .. } = error {
        return Some(*code);
    }
    let OciDistributionError::RegistryError { envelope, .. } = error else {
        return None;
    };
    envelope.errors.iter().find_map(|error| status_of(&error.code))
}

fn status_of(code: &OciErrorCode) -> Option<u16> {
    match code {
        OciErrorCode::Unauthorized | OciErrorCode::Denied => Some(401),
        OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestBlobUnknown
        | OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound => Some(404),
        OciErrorCode::Toomanyrequests => Some(429),
        OciErrorCode::BlobUploadInvalid
        | OciErrorCode::BlobUploadUnknown
        | OciErrorCode::DigestInvalid
        | OciErrorCode::ManifestInvalid
        | OciErrorCode::ManifestUnverified
        | OciErrorCode::NameInvalid
        | OciErrorCode::SizeInvalid
        | OciErrorCode::TagInvalid
        | OciErrorCode::Unsupported
        | OciErrorCode::Other(_) => None,
    }
}

fn is_refused(error: &OciDistributionError) -> bool {
    let error: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn sentences(attempts: &[PullError]) -> String {
    let sentences: Vec<String> = attempts.iter().map(PullError::chain).collect();
    sentences.join("; ")
}
