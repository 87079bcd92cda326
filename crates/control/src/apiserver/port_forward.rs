//! A pod's `portforward` subresource: connections to its ports as streams of SPDY, which a WebSocket carries. For each
//! connection the client opens two: one for its bytes, one on which it hears what went wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::pod_access::PodAccess;
use super::spdy::{self, Frame, SpdyError};
use super::websocket::{self, Client, Handshake};
use super::{Answer, ApiServer, Asked, Place};

const PROTOCOLS: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];

/// Messages that wait for a slow client, and for a slow pod.
const MESSAGES_AHEAD: usize = 8;
const CHUNK_BYTES: usize = 32 * 1024;
/// A connection whose pod takes nothing for so long is given up: others wait behind it.
const POD_TAKES_WITHIN: Duration = Duration::from_secs(60);
/// Connections that one client may have open.
const CONNECTIONS_MAX: usize = 1024;

type Say = mpsc::Sender<Message>;

impl ApiServer {
    pub(super) fn port_forward(&self, place: &Place, asked: &Asked) -> Answer {
        let pod = self.find(place)?.value.clone();
        let handshake = Handshake::read(asked, &PROTOCOLS)?;
        let answer = handshake.answer();
        tokio::spawn(serve(Arc::clone(&self.pods), handshake, pod));
        Ok(answer)
    }
}

async fn serve(node: Arc<dyn PodAccess>, handshake: Handshake, pod: Value) {
    let socket = match handshake.open().await {
        Ok(socket) => socket,
        Err(error) => return tracing::trace!(%error, "a client that asked to forward ports has gone"),
    };
    let (sink, mut client) = socket.split();
    let (say, said) = mpsc::channel(MESSAGES_AHEAD);
    let forwards = async {
        if let Err(error) = forward_all(node, pod, &mut client, say).await {
            tracing::debug!(%error, "a client that forwards ports can't be understood");
        }
    };
    tokio::join!(websocket::tell(sink, said), forwards);
    websocket::until_closed(&mut client).await;
}

/// Forwards until the client has gone; its connections end with it.
async fn forward_all(node: Arc<dyn PodAccess>, pod: Value, client: &mut Client, say: Say) -> Result<(), SpdyError> {
    let mut forwards = Forwards {
        node,
        pod: Arc::new(pod),
        say,
        writer: spdy::Writer::new()?,
        announced: HashMap::new(),
        open: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut reader = spdy::Reader::new();
    while let Some(Ok(heard)) = client.next().await {
        let Message::Binary(bytes) = heard else { continue };
        reader.push(&bytes);
        while let Some(frame) = reader.next_frame()? {
            forwards.hear(frame).await?;
        }
    }
    Ok(())
}

/// What one client forwards.
struct Forwards {
    node: Arc<dyn PodAccess>,
    pod: Arc<Value>,
    say: Say,
    writer: spdy::Writer,
    /// Streams for errors, by the number of the connection that they are about.
    announced: HashMap<String, u32>,
    /// By the stream of a connection's bytes.
    open: HashMap<u32, Open>,
    tasks: JoinSet<()>,
}

/// A connection. Dropping this ends it.
struct Open {
    /// None once the client has sent its last.
    input: Option<mpsc::Sender<Bytes>>,
    life: oneshot::Sender<()>,
}

impl Forwards {
    async fn hear(&mut self, frame: Frame) -> Result<(), SpdyError> {
        if self.tasks.try_join_next().is_some() {
            self.open.retain(|_, open| !open.life.is_closed());
        }
        match frame {
            Frame::Open { stream, headers } => self.open(stream, &headers).await?,
            Frame::Data { stream, bytes, is_last } => self.pass_on(stream, bytes, is_last).await,
            Frame::Reset { stream } => drop(self.open.remove(&stream)),
            Frame::Ping { id } => self.say(spdy::pong(id)).await,
            Frame::GoAway | Frame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)]) -> Result<(), SpdyError> {
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let (kind, port) = (header("streamtype"), header("port").and_then(|port| port.parse().ok()));
        let connection = header("requestid").unwrap_or_default().to_owned();
        let is_room = self.tasks.len() < CONNECTIONS_MAX && self.announced.len() < CONNECTIONS_MAX;
        match (kind, port, self.announced.remove(&connection)) {
            (Some("error"), Some(_), None) if is_room => drop(self.announced.insert(connection, stream)),
            (Some("data"), Some(port), Some(errors)) if is_room => self.start(port, stream, errors),
            _ => {
                self.say(spdy::reset(stream)).await;
                return Ok(());
            }
        }
        let accepted = self.writer.accept(stream)?;
        self.say(accepted).await;
        Ok(())
    }

    fn start(&mut self, port: u16, stream: u32, errors: u32) {
        let (input, inputs) = mpsc::channel(MESSAGES_AHEAD);
        let (life, ended) = oneshot::channel();
        self.open.insert(stream, Open { input: Some(input), life });
        let (node, pod, say) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.say.clone());
        self.tasks.spawn(async move {
            let carries = carry(&*node, &pod, port, stream, inputs, &say);
            let failure = tokio::select! {
                carried = carries => carried.err(),
                // The client wants no more.
                _ = ended => None,
            };
            let sentence = failure.unwrap_or_default();
            // Clients wait for the end of the errors before they count the connection as over.
            let _ = say.send(Message::Binary(spdy::last_data(errors, sentence.as_bytes()))).await;
        });
    }

    async fn pass_on(&mut self, stream: u32, bytes: Bytes, is_last: bool) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        if let Some(input) = open.input.as_ref().filter(|_| !bytes.is_empty())
            && let Err(mpsc::error::SendTimeoutError::Timeout(_)) = input.send_timeout(bytes, POD_TAKES_WITHIN).await
        {
            self.open.remove(&stream);
            return self.say(spdy::reset(stream)).await;
        }
        if is_last {
            open.input = None;
        }
    }

    async fn say(&self, frame: Bytes) {
        // A client that has gone is noticed where it is heard.
        let _ = self.say.send(Message::Binary(frame)).await;
    }
}

/// Connects to the pod and carries bytes both ways until both are over.
async fn carry(
    node: &dyn PodAccess,
    pod: &Value,
    port: u16,
    stream: u32,
    mut inputs: mpsc::Receiver<Bytes>,
    say: &Say,
) -> Result<(), String> {
    let connection = match node.connect(pod, port).await {
        Ok(connection) => connection,
        Err(sentence) => {
            let _ = say.send(Message::Binary(spdy::last_data(stream, &[]))).await;
            return Err(sentence);
        }
    };
    let (mut output, mut input) = tokio::io::split(connection);
    let inwards = async {
        while let Some(bytes) = inputs.recv().await {
            // The pod's end of the connection is told by the other direction.
            if input.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = input.shutdown().await;
    };
    let outwards = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(length @ 1..) = output.read(&mut chunk).await {
            if say.send(Message::Binary(spdy::data(stream, &chunk[..length]))).await.is_err() {
                return;
            }
        }
        let _ = say.send(Message::Binary(spdy::last_data(stream, &[]))).await;
    };
    tokio::join!(inwards, outwards);
    Ok(())
}
