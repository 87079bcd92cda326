//! DNS for pods, served by the proxy process so that it outlives the engine: names of Services from the
//! configuration in force, every other name from the host's resolvers.

mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod any_bytes;
mod cache;
mod forward;
mod layout;
mod names;
mod resolver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::proxy::Balancer;
use answer::{Question, Reply, Via, answer};
use forward::Forwarder;
pub(crate) use names::Names;
use resolver::{read_message, write_message};

/// How long a stream may stay open without a query.
const LONGEST_STREAM_PAUSE: Duration = Duration::from_secs(10);
/// Longest query over UDP that is read; EDNS clients send no more.
const LONGEST_QUERY: usize = 4096;

/// Answers queries.
pub(crate) struct Server {
    balancer: Arc<Balancer>,
    forwarder: Arc<Forwarder>,
}

impl Server {
    pub(crate) fn new(balancer: Arc<Balancer>) -> Self {
        Self { balancer, forwarder: Arc::new(Forwarder::new()) }
    }

    /// Whether DNS is served at this address.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        self.balancer.names().dns.listen.contains(&address)
    }

    /// Answers datagrams until it is aborted.
    /// While a copy of `open` lives, an answer is on its way.
    pub(crate) async fn serve_datagrams<T: Clone + Send + 'static>(self: Arc<Self>, socket: UdpSocket, open: T) {
        let socket = Arc::new(socket);
        let mut query = vec![0; LONGEST_QUERY];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut query).await else { continue };
            match answer(&self.balancer.names(), &query[..length], Via::Datagram) {
                Reply::Answer(bytes) => send(&socket, &bytes, client).await,
                Reply::Ignore => {}
                Reply::AskOthers(question) => {
                    let (server, socket, open) = (self.clone(), socket.clone(), open.clone());
                    tokio::spawn(async move {
                        let _open = open;
                        if let Some(bytes) = server.ask_others(*question).await {
                            send(&socket, &bytes, client).await;
                        }
                    });
                }
            }
        }
    }

    /// Answers the queries of one connection until it ends.
    pub(crate) async fn serve_stream(self: Arc<Self>, mut stream: TcpStream) {
        while let Ok(Ok(query)) = timeout(LONGEST_STREAM_PAUSE, read_message(&mut stream)).await {
            let bytes = match answer(&self.balancer.names(), &query, Via::Stream) {
                Reply::Answer(bytes) => Some(bytes),
                Reply::AskOthers(question) => self.ask_others(*question).await,
                Reply::Ignore => None,
            };
            let Some(bytes) = bytes else { return };
            if write_message(&mut stream, &bytes).await.is_err() {
                return;
            }
        }
    }

    async fn ask_others(&self, question: Question) -> Option<Vec<u8>> {
        let resolvers = self.balancer.names().dns.forward_to.clone();
        let theirs = self.forwarder.ask(&resolvers, question.bytes(), question.via()).await;
        match question.answered(theirs) {
            Reply::Answer(bytes) => Some(bytes),
            Reply::AskOthers(_) | Reply::Ignore => None,
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!("an answer to {client} was not sent: {error}");
    }
}
