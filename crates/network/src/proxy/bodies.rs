//! Bodies on their way through the proxy: streamed as they come, held back when the other side is slow.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use objects::traffic::{ConnectionClass, Outcome};

use super::balancer::InFlight;
use super::counts::Tally;
use super::grpc::Messages;
use super::lent::Connection;
use super::paced::Answered;
use super::workers::WorkerNumber;

/// A response's body on its way to a client.
#[expect(clippy::large_enum_variant, reason = "nearly all are streamed, and a box would cost each an allocation")]
pub(crate) enum ReplyBody {
    /// Written by the proxy.
    Own(Option<Bytes>, Option<Answered>),
    /// From a pod. What was borrowed for the request is given back when the pod has sent everything.
    Streamed { body: Incoming, borrowed: Option<Borrowed>, stream: Stream, answered: Option<Answered> },
}

/// Whether the response is one whose end nobody can predict.
pub(crate) enum Stream {
    No,
    /// Server-sent events: they end like any body, and clients come back for more.
    Events(IsOver),
    /// gRPC: a call that streams shows it with its third message; it ends with the status "unavailable".
    Grpc {
        messages: Messages,
        is_over: Option<IsOver>,
    },
}

type IsOver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Messages after which a gRPC call counts as streaming.
const MOST_MESSAGES_OF_A_CALL: u32 = 2;

impl Stream {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if kind.starts_with(b"text/event-stream") {
            Self::Events(Box::pin(std::future::pending()))
        } else if kind.starts_with(b"application/grpc") {
            Self::Grpc { messages: Messages::default(), is_over: None }
        } else {
            Self::No
        }
    }

    /// Looks at a frame. A call that turns out to stream becomes long.
    fn note_frame(&mut self, frame: &Frame<Bytes>, borrowed: Option<&mut Borrowed>) {
        let (Self::Grpc { messages, is_over }, Some(data)) = (self, frame.data_ref()) else { return };
        messages.read(data);
        if messages.begun() > MOST_MESSAGES_OF_A_CALL
            && is_over.is_none()
            && let Some(borrowed) = borrowed
        {
            *is_over = Some(borrowed.become_long(ConnectionClass::GrpcStream));
        }
    }

    /// The last frame, once the stream has to end and no message is half way; None for an end without one.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        match self {
            Self::No | Self::Grpc { is_over: None, .. } => Poll::Pending,
            Self::Events(is_over) => is_over.as_mut().poll(context).map(|()| None),
            Self::Grpc { messages, .. } if !messages.is_between() => Poll::Pending,
            Self::Grpc { is_over: Some(is_over), .. } => is_over.as_mut().poll(context).map(|()| {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                trailers.insert("grpc-message", HeaderValue::from_static("the pod is being replaced"));
                Some(Frame::trailers(trailers))
            }),
        }
    }
}

/// What a request occupies until its response was wholly received. Dropped earlier, the connection is closed.
pub(crate) struct Borrowed {
    pub(crate) connection: Connection,
    pub(crate) worker: WorkerNumber,
    pub(crate) in_flight: InFlight,
    pub(crate) tally: Tally,
}

impl Borrowed {
    fn become_long(&mut self, class: ConnectionClass) -> IsOver {
        self.in_flight.become_long(class);
        self.tally.become_long();
        Box::pin(self.in_flight.is_over())
    }

    fn note_frame(&mut self, frame: &Frame<Bytes>, stream: &Stream) {
        if let Some(data) = frame.data_ref() {
            self.tally.sent(data.len() as u64);
        }
        if let (Stream::Grpc { .. }, Some(trailers)) = (stream, frame.trailers_ref()) {
            self.tally.answered_grpc(trailers);
        }
    }

    fn give_back(mut self) {
        self.tally.complete();
        self.in_flight.upstream.keep(self.worker, self.connection);
    }
}

impl ReplyBody {
    pub(crate) fn sentence(sentence: String) -> Self {
        Self::Own(Some(Bytes::from(sentence)), None)
    }

    pub(crate) fn empty() -> Self {
        Self::Own(None, None)
    }

    /// The same, which counts as being answered as long as it lives.
    pub(crate) fn holding(mut self, request: Answered) -> Self {
        match &mut self {
            Self::Own(_, answered) | Self::Streamed { answered, .. } => *answered = Some(request),
        }
        self
    }

    pub(crate) fn streamed(body: Incoming, mut borrowed: Borrowed, mut stream: Stream) -> Self {
        if let Stream::Events(is_over) = &mut stream {
            *is_over = borrowed.become_long(ConnectionClass::Events);
        }
        let mut streamed = Self::Streamed { body, borrowed: Some(borrowed), stream, answered: None };
        streamed.give_back_at_the_end();
        streamed
    }

    fn give_back_at_the_end(&mut self) {
        if let Self::Streamed { body, borrowed, .. } = self
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
        let (body, borrowed, stream) = match &mut *self {
            Self::Own(bytes, _) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            // Its end was told.
            Self::Streamed { borrowed: None, .. } => return Poll::Ready(None),
            Self::Streamed { body, borrowed, stream, .. } => (body, borrowed, stream),
        };
        // Before the body: a pod that always has more must not keep its stream from ending.
        if let Poll::Ready(last) = stream.poll_end(context) {
            if let Some(mut borrowed) = borrowed.take() {
                last.iter().for_each(|frame| borrowed.note_frame(frame, stream));
                borrowed.tally.complete();
            }
            return Poll::Ready(last.map(Ok));
        }
        let polled = Pin::new(body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => {
                if let Some(borrowed) = borrowed.take() {
                    borrowed.give_back();
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(borrowed) = borrowed.as_mut() {
                    borrowed.note_frame(frame, stream);
                }
                stream.note_frame(frame, borrowed.as_mut());
                self.give_back_at_the_end();
            }
            Poll::Ready(Some(Err(_))) => {
                if let Some(mut borrowed) = borrowed.take() {
                    borrowed.tally.end_as(Outcome::BrokenOff);
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes, _) => bytes.is_none(),
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}
