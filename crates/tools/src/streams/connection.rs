//! One long connection, as a source of messages.

use std::error::Error;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{End, Protocol};

/// What ends an event (WHATWG HTML, "Parsing an event stream"), as the bundled application writes it.
const END_OF_EVENT: &[u8] = b"\n\n";

/// An open one.
pub(super) enum Connection {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Events { body: Incoming, unread: BytesMut },
}

impl Connection {
    pub(super) async fn open(protocol: Protocol, target: SocketAddr) -> Result<Connection, End> {
        let opened = match protocol {
            Protocol::WebSocket => open_web_socket(target).await,
            Protocol::Events => open_events(target).await,
        };
        opened.map_err(|error| End::Failed(format!("not opened: {error}")))
    }

    /// The next message, or how the connection ended.
    pub(super) async fn next(&mut self) -> Result<String, End> {
        match self {
            Connection::WebSocket(socket) => next_of_web_socket(socket).await,
            Connection::Events { body, unread } => next_event(body, unread).await,
        }
    }
}

async fn open_web_socket(target: SocketAddr) -> Result<Connection, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    let (socket, _) = client_async(format!("ws://{target}/ws"), stream).await?;
    Ok(Connection::WebSocket(Box::new(socket)))
}

async fn open_events(target: SocketAddr) -> Result<Connection, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/events").header(header::HOST, target.to_string());
    let response =
        sender.send_request(request.header(header::ACCEPT, "text/event-stream").body(Empty::<Bytes>::new())?);
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(response.status().to_string().into());
    }
    Ok(Connection::Events { body: response.into_body(), unread: BytesMut::new() })
}

async fn next_of_web_socket(socket: &mut WebSocketStream<TcpStream>) -> Result<String, End> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(Message::Close(close))) => {
                // No code is 1005 to those who ask for one (RFC 6455, 7.1.5).
                return Err(End::Closed(close.map_or(1005, |close| close.code.into())));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(End::Failed(error.to_string())),
            None => return Err(End::Failed("ended without a close frame".to_owned())),
        }
    }
}

async fn next_event(body: &mut Incoming, unread: &mut BytesMut) -> Result<String, End> {
    loop {
        if let Some(end) = unread.windows(END_OF_EVENT.len()).position(|bytes| bytes == END_OF_EVENT) {
            let event = unread.split_to(end + END_OF_EVENT.len());
            let event = String::from_utf8_lossy(&event[..end]).into_owned();
            let data = event.strip_prefix("data: ").map(str::to_owned);
            return data.ok_or(End::OutOfOrder(format!("{event:.80?} has no data")));
        }
        match body.frame().await {
            Some(Ok(frame)) => unread.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default()),
            Some(Err(error)) => return Err(End::Failed(error.to_string())),
            None if unread.is_empty() => return Err(End::Complete),
            None => return Err(End::Failed("ended within an event".to_owned())),
        }
    }
}
