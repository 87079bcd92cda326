//! A request's body on its way to a pod: streamed as it comes. What was read is kept while it is short, so that the
//! request can be sent again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use decide::retries;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use objects::traffic::Cell;

use super::counts::Series;

/// Kept of one body. Longer uploads are few, and their senders know how to resume.
const MOST_KEPT: usize = 64 << 10;

/// A request's body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Streamed(Reading),
}

/// One reading of a body from its beginning.
#[derive(Debug)]
pub(crate) struct Reading {
    source: Arc<Mutex<Source>>,
    /// Only the latest reading reads on: one before it may not have heard yet that its connection is over.
    generation: u64,
    next: usize,
    length: SizeHint,
    /// Where what is read is counted.
    series: Option<Arc<Series>>,
}

#[derive(Debug)]
struct Source {
    client: Incoming,
    generation: u64,
    kept: Vec<Kept>,
    kept_bytes: usize,
    /// How many more bytes the Service takes.
    left: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that was read is in `kept`.
    Whole,
    /// Some of it is no more, or the client broke off.
    Lost,
    /// There is more than the Service takes.
    TooLong,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Why a body does not reach its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("the client broke off")]
    BrokenOff(#[from] hyper::Error),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error("it is sent again")]
    SentAgain,
}

/// The body is longer than the Service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's body is longer than {} allows", objects::names::MAX_REQUEST_BODY)]
pub(crate) struct TooLong;

impl RequestBody {
    /// A client's body, of which at most so many bytes are passed on. `most_bytes` is asked only if there is a body.
    ///
    /// # Errors
    /// When its length is known, and too much.
    pub(crate) fn new(client: Incoming, most_bytes: impl FnOnce() -> u64) -> Result<Self, TooLong> {
        if client.is_end_stream() {
            return Ok(Self::Empty);
        }
        let (length, left) = (client.size_hint(), most_bytes());
        if length.lower() > left {
            return Err(TooLong);
        }
        let source = Source { client, generation: 0, kept: Vec::new(), kept_bytes: 0, left, state: State::Whole };
        Ok(Self::Streamed(Reading {
            source: Arc::new(Mutex::new(source)),
            generation: 0,
            next: 0,
            length,
            series: None,
        }))
    }

    pub(crate) fn is_too_long(&self) -> bool {
        matches!(self, Self::Streamed(reading) if reading.source().state == State::TooLong)
    }

    /// Whether it may be longer than what is kept of it.
    pub(crate) fn is_long(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Streamed(reading) => reading.length.upper().is_none_or(|most| most > MOST_KEPT as u64),
        }
    }

    /// The same body once more, from its beginning and counted there; good for use only while [`RequestBody::kept`] says so.
    pub(crate) fn again(&self, series: &Arc<Series>) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Streamed(Reading { source, length, .. }) => {
                let series = Some(series.clone());
                let generation = {
                    let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
                    source.generation += 1;
                    source.generation
                };
                Self::Streamed(Reading { source: source.clone(), generation, next: 0, length: *length, series })
            }
        }
    }

    pub(crate) fn kept(&self) -> retries::Body {
        match self {
            Self::Empty => retries::Body::Kept,
            Self::Streamed(reading) => match reading.source().state {
                State::Whole => retries::Body::Kept,
                State::Lost | State::TooLong => retries::Body::Gone,
            },
        }
    }
}

impl Reading {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.generation != self.generation {
            return Poll::Ready(Some(Err(Unread::SentAgain)));
        }
        if let Some(kept) = source.kept.get(self.next).cloned() {
            self.next += 1;
            return Poll::Ready(Some(Ok(match kept {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let polled = source.poll_next(context);
        self.next = source.kept.len();
        polled
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        let Some(frame) = std::task::ready!(Pin::new(&mut self.client).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let taken = frame.map_err(Unread::from).and_then(|frame| Ok(self.take(frame)?));
        if let Err(unread) = &taken {
            self.lose(if matches!(unread, Unread::TooLong(_)) { State::TooLong } else { State::Lost });
        }
        Poll::Ready(Some(taken))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, TooLong> {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.left = self.left.checked_sub(length).ok_or(TooLong)?;
        self.keep(&frame);
        Ok(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Kept::Data(data.clone()),
            (None, Some(trailers)) => Kept::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if let Kept::Data(data) = &kept {
            self.kept_bytes += data.len();
        }
        if self.kept_bytes > MOST_KEPT {
            return self.lose(State::Lost);
        }
        if self.state == State::Whole {
            self.kept.push(kept);
        }
    }

    fn lose(&mut self, state: State) {
        self.state = state;
        self.kept = Vec::new();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        let Self::Streamed(reading) = &mut *self else { return Poll::Ready(None) };
        let polled = reading.poll_next(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(series)) = (&polled, &reading.series)
            && let Some(data) = frame.data_ref()
        {
            series.add(Cell::BytesFromClients, data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(reading) => {
                let source = reading.source();
                reading.next >= source.kept.len() && source.client.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(reading) => reading.length,
        }
    }
}
