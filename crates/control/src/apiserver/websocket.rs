//! How a request becomes a WebSocket (RFC 6455), and how that ends.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use objects::status::Failure;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::Asked;
use super::answer::{Body, full};

/// A client that was told the end closes the connection. Closing it first could lose what is under way.
const CLIENT_CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// Clients send pieces of 32 KiB.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A connection that is about to become a WebSocket.
pub(super) struct Handshake {
    upgrade: OnUpgrade,
    key: String,
    /// The client's favourite of those that both sides know.
    pub(super) protocol: &'static str,
}

/// One that has become one.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What the client sends.
pub(super) type Client = SplitStream<Socket>;

impl Handshake {
    /// Reads a request for a WebSocket of one of these protocols.
    pub(super) fn read(asked: &Asked, known: &[&'static str]) -> Result<Self, Failure> {
        let header = |name: HeaderName| asked.headers.get(name).and_then(|value| value.to_str().ok());
        let is_websocket = header(UPGRADE).is_some_and(|wanted| wanted.eq_ignore_ascii_case("websocket"));
        let (Some(upgrade), Some(key), true) = (&asked.upgrade, header(SEC_WEBSOCKET_KEY), is_websocket) else {
            let message = "Upgrade request required: ask for a WebSocket, as kubectl 1.31 and newer do";
            return Err(Failure::bad_request(message));
        };
        let offered = asked.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
        let protocol = offered.find_map(|offered| known.iter().copied().find(|known| *known == offered));
        let protocol = protocol.ok_or_else(|| {
            Failure::bad_request(format!("no WebSocket protocol was offered that is known here: {}", known.join(", ")))
        })?;
        Ok(Self { upgrade: upgrade.clone(), key: key.to_owned(), protocol })
    }

    /// The answer after which the connection speaks WebSocket.
    pub(super) fn answer(&self) -> Response<Body> {
        let mut answer = Response::new(full(bytes::Bytes::new()));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        if let Ok(accepted) = HeaderValue::from_str(&derive_accept_key(self.key.as_bytes())) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
        }
        answer
    }

    /// Waits until the answer is sent.
    pub(super) async fn open(self) -> Result<Socket, hyper::Error> {
        let connection = TokioIo::new(self.upgrade.await?);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        Ok(WebSocketStream::from_raw_socket(connection, Role::Server, Some(limits)).await)
    }
}

/// Sends what is to be said, and a goodbye when nobody is left to say anything.
pub(super) async fn tell(mut sink: SplitSink<Socket, Message>, mut said: mpsc::Receiver<Message>) {
    while let Some(message) = said.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    // A client that has gone needs none.
    let _ = sink.send(Message::Close(Some(goodbye))).await;
}

/// Waits for the client to close the connection, but not for long.
pub(super) async fn until_closed(client: &mut Client) {
    let closes = async { while let Some(Ok(_)) = client.next().await {} };
    let _ = tokio::time::timeout(CLIENT_CLOSES_WITHIN, closes).await;
}
