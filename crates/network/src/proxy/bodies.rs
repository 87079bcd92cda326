//! Bodies on their way through the proxy: streamed as they come, held back when the other side is slow.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::balancer::InFlight;
use super::lent::Connection;
use super::workers::WorkerNumber;

/// A response's body on its way to a client.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// Written by the proxy.
    Own(Option<Bytes>),
    /// From a pod. What was borrowed for the request is given back when the pod has sent everything.
    Streamed { body: Incoming, borrowed: Option<Borrowed> },
}

/// What a request occupies until its response was wholly received. Dropped earlier, the connection is closed.
#[derive(Debug)]
pub(crate) struct Borrowed {
    pub(crate) connection: Connection,
    pub(crate) worker: WorkerNumber,
    pub(crate) in_flight: InFlight,
}

impl Borrowed {
    fn give_back(self) {
        self.in_flight.upstream.keep(self.worker, self.connection);
    }
}

impl ReplyBody {
    pub(crate) fn sentence(sentence: String) -> Self {
        Self::Own(Some(Bytes::from(sentence)))
    }

    pub(crate) fn streamed(body: Incoming, borrowed: Borrowed) -> Self {
        let mut streamed = Self::Streamed { body, borrowed: Some(borrowed) };
        streamed.give_back_at_the_end();
        streamed
    }

    fn give_back_at_the_end(&mut self) {
        if let Self::Streamed { body, borrowed } = self
            && body.is_end_stream()
            && let Some(borrowed) = borrowed.take()
        {
            borrowed.give_back();
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, borrowed) = match &mut *self {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed { body, borrowed } => (body, borrowed),
        };
        let polled = Pin::new(body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => {
                if let Some(borrowed) = borrowed.take() {
                    borrowed.give_back();
                }
            }
            Poll::Ready(Some(Ok(_))) => self.give_back_at_the_end(),
            Poll::Ready(Some(Err(_))) => *borrowed = None,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}
