//! The connections that requests are sent over: a worker's own, a new one for each request, or one for all workers.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::{Failure, Way};

type Outgoing = Full<Bytes>;
type Http2 = Arc<Mutex<Option<http2::SendRequest<Outgoing>>>>;

/// How a request failed, and what was seen of it.
pub(super) type Broken = (Failure, String);

/// The connections that workers have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    http2: Http2,
    grpc: Http2,
}

/// Where a worker has its connections from.
pub(super) enum Connections {
    Own(Option<http1::SendRequest<Outgoing>>),
    New,
    Shared(Http2),
}

/// A connection for the next request.
pub(super) enum Connection {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

/// A connection that was used before may have been closed meanwhile, and that is nobody's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Used,
}

impl Connections {
    pub(super) fn of(way: Way, shared: &Shared) -> Connections {
        match way {
            Way::KeptAlive => Connections::Own(None),
            Way::NewConnection => Connections::New,
            Way::Http2 => Connections::Shared(Arc::clone(&shared.http2)),
            Way::Grpc => Connections::Shared(Arc::clone(&shared.grpc)),
        }
    }

    /// One that is open, as far as anybody can tell.
    pub(super) async fn next(&mut self, target: SocketAddr) -> Result<(Connection, Age), Broken> {
        match self {
            Connections::Own(kept) => {
                if let Some(mut kept) = kept.take()
                    && kept.ready().await.is_ok()
                {
                    return Ok((Connection::Http1(kept), Age::Used));
                }
                open_http1(target).await
            }
            Connections::New => open_http1(target).await,
            Connections::Shared(shared) => {
                // Locked while it is opened, so that it is opened once.
                let mut shared = shared.lock().await;
                if let Some(open) = shared.as_mut()
                    && open.ready().await.is_ok()
                {
                    return Ok((Connection::Http2(open.clone()), Age::Used));
                }
                let opened = open_http2(target).await?;
                *shared = Some(opened.clone());
                Ok((Connection::Http2(opened), Age::New))
            }
        }
    }

    /// Takes a connection back whose last answer was read.
    pub(super) fn keep(&mut self, connection: Connection) {
        if let (Connections::Own(kept), Connection::Http1(connection)) = (self, connection) {
            *kept = Some(connection);
        }
    }
}

impl Connection {
    /// An error still has the request when nothing of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Connection::Http1(connection) => connection.try_send_request(request).await,
            Connection::Http2(connection) => connection.try_send_request(request).await,
        }
    }
}

async fn open_http1(target: SocketAddr) -> Result<(Connection, Age), Broken> {
    let (sender, connection) = http1::handshake(connect(target).await?).await.map_err(|error| broken(&error))?;
    // Its error is the request's error too, and is reported there.
    tokio::spawn(async move { drop(connection.await) });
    Ok((Connection::Http1(sender), Age::New))
}

async fn open_http2(target: SocketAddr) -> Result<http2::SendRequest<Outgoing>, Broken> {
    let handshake = http2::handshake(TokioExecutor::new(), connect(target).await?);
    let (sender, connection) = handshake.await.map_err(|error| broken(&error))?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn connect(target: SocketAddr) -> Result<TokioIo<TcpStream>, Broken> {
    let stream = TcpStream::connect(target).await.map_err(|error| {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let failure = if refused { Failure::Refused } else { Failure::Unreachable };
        (failure, error.to_string())
    })?;
    stream.set_nodelay(true).map_err(|error| (Failure::Reset, error.to_string()))?;
    Ok(TokioIo::new(stream))
}

/// What became of a request that has no answer.
pub(super) fn broken(error: &hyper::Error) -> Broken {
    let broke = causes(error).any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let http2 = cause.downcast_ref::<h2::Error>();
        io.is_some_and(|kind| kind != io::ErrorKind::UnexpectedEof)
            || http2.is_some_and(|error| error.is_io() || error.is_reset() || error.is_go_away())
    });
    let failure = match () {
        () if error.is_parse() => Failure::Malformed,
        () if broke => Failure::Reset,
        () => Failure::Unanswered,
    };
    (failure, chain(error))
}

/// Whether a goodbye that crossed the request says that it was left alone, so that asking elsewhere is no repeat
/// (RFC 9113, 6.8).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let goodbye = causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).find(|error| error.is_go_away());
    goodbye.is_some_and(|error| error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// An error and all its causes.
pub(super) fn chain(error: &hyper::Error) -> String {
    causes(error).fold(error.to_string(), |chain, cause| format!("{chain}: {cause}"))
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source())
}
