//! A connection to a pod, lent for one request: all of it in HTTP/1.1, one stream of it in HTTP/2.

use std::error::Error;
use std::sync::Arc;

use decide::retries::Broke;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::request_body::RequestBody;

/// How a pod is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodSpeaks {
    Http1,
    Http2,
}

/// What is lent.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Stream),
}

/// A place in a shared connection. Those who share it count each other by the references to `open`.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    sender: http2::SendRequest<RequestBody>,
    open: Arc<()>,
}

impl PodSpeaks {
    pub(crate) fn version(self) -> Version {
        match self {
            Self::Http1 => Version::HTTP_11,
            Self::Http2 => Version::HTTP_2,
        }
    }
}

impl Connection {
    /// Sends a request that has the connection's version.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, Unanswered> {
        let sent = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(stream) => stream.sender.try_send_request(request).await,
        };
        sent.map_err(Unanswered::from)
    }
}

impl Stream {
    pub(crate) fn first_of(sender: http2::SendRequest<RequestBody>) -> Self {
        Self { sender, open: Arc::new(()) }
    }

    /// Streams in use, when one is kept for lending.
    pub(crate) fn lent(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Why there is no answer, and whether the request can have been processed.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) broke: Broke,
    pub(crate) source: BoxError,
}

/// Why a connection broke.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        // What hyper gives back was never written.
        let unsent = error.take_message().is_some();
        let source = error.into_error();
        let broke = if unsent || is_refused(&source) { Broke::Unprocessed } else { Broke::BeforeTheAnswer };
        Self { broke, source: source.into() }
    }
}

/// Whether a pod has said that it did not process a stream (RFC 9113, 8.7): refused it, or went away before it.
fn is_refused(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => cause.is_remote(),
        Some(h2::Reason::NO_ERROR) => cause.is_go_away(),
        Some(_) | None => false,
    })
}
