//! Connections whose end their clients can't predict: WebSockets and server-sent events. Both carry numbered messages
//! that name the version and the pod they come from, until the application drains.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::answers::{Body, State, text};

/// The pause between two messages of a connection.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// `1 VERSION POD`, `2 VERSION POD` and so on.
struct Messages {
    sent: u64,
    from: String,
    pauses: Interval,
    draining: watch::Receiver<bool>,
}

impl Messages {
    fn of(state: &State) -> Messages {
        let mut pauses = interval(PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let from = format!("{} {}", state.settings.version, state.settings.pod);
        Messages { sent: 0, from, pauses, draining: state.draining() }
    }

    /// `None` once the application drains.
    async fn next(&mut self) -> Option<String> {
        tokio::select! {
            biased;
            _ = self.draining.wait_for(|draining| *draining) => return None,
            _ = self.pauses.tick() => {}
        }
        self.sent += 1;
        Some(format!("{} {}", self.sent, self.from))
    }
}

/// A stream of server-sent events.
pub(super) fn events(state: &State) -> Response<Body> {
    let events = stream::unfold(Messages::of(state), |mut messages| async move {
        let event = format!("data: {}\n\n", messages.next().await?);
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), messages))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Switches to a WebSocket.
pub(super) fn websocket(state: &State, mut request: Request<Incoming>) -> Response<Body> {
    let Some(accept) = accept(request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "/ws wants the handshake of a WebSocket\n");
    };
    let messages = Messages::of(state);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A client that is gone concerns nobody.
        let _ = send_all(messages, socket).await;
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(header::UPGRADE).filter(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

async fn send_all(mut messages: Messages, mut socket: WebSocketStream<TokioIo<Upgraded>>) -> Result<(), Error> {
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => socket.send(Message::text(message)).await?,
                None => break,
            },
            // Reading is what answers pings and the client's close frame.
            received = socket.next() => match received {
                Some(received) => drop(received?),
                None => return Ok(()),
            },
        }
    }
    let reason = "the application drains".into();
    socket.close(Some(CloseFrame { code: CloseCode::Away, reason })).await?;
    while socket.next().await.transpose()?.is_some() {}
    Ok(())
}
