//! What clients with WebSockets and event streams see while something is deployed: whether each message comes in order,
//! and when and how each connection ends. As such clients do, they connect again then.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use connection::Connection;

mod connection;

/// Longer than any pause between two messages of the bundled application.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits that could not connect.
const PAUSE: Duration = Duration::from_millis(500);

/// Whom to connect to, and how often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub target: SocketAddr,
    pub web_sockets: u16,
    pub event_streams: u16,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    WebSocket,
    Events,
}

/// All connections that there were, in the order in which they ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub streams: Vec<Stream>,
}

/// One connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    pub protocol: Protocol,
    /// Of the first message; empty without one.
    pub version: String,
    pub pod: String,
    pub opened: SystemTime,
    pub ended: SystemTime,
    /// How many messages came.
    pub messages: u64,
    pub end: End,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Not before the clients were told to stop.
    Stopped,
    /// A close frame with this code.
    Closed(u16),
    /// The end of the answer.
    Complete,
    /// A message was not the next one of its pod; nothing more was read.
    OutOfOrder(String),
    /// It could not be opened, or broke, or no message came for too long.
    Failed(String),
}

/// Clients under way. Dropping them ends them at once and loses the report.
#[derive(Debug)]
pub struct Running {
    log: Arc<Log>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

/// Starts the clients of `plan` on the current Tokio runtime.
#[must_use]
pub fn start(plan: &Plan) -> Running {
    let log = Arc::new(Log::default());
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    let web_sockets = std::iter::repeat_n(Protocol::WebSocket, plan.web_sockets.into());
    let event_streams = std::iter::repeat_n(Protocol::Events, plan.event_streams.into());
    for protocol in web_sockets.chain(event_streams) {
        clients.spawn(follow(protocol, plan.target, Arc::clone(&log), stopped.clone()));
    }
    Running { log, stop, clients }
}

impl Running {
    /// Waits until `count` connections since the start have had their first message.
    pub async fn opened(&self, count: u64) {
        // The sender is ours.
        let _ = self.log.opened.subscribe().wait_for(|opened| *opened >= count).await;
    }

    /// Ends all connections and reports.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            assert!(ended.is_ok(), "a client that panics would leave its connections out of the report: {ended:?}");
        }
        std::mem::take(&mut *self.log.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Default)]
struct Log {
    report: Mutex<Report>,
    opened: watch::Sender<u64>,
}

async fn follow(protocol: Protocol, target: SocketAddr, log: Arc<Log>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let mut stream = Stream::new(protocol);
        stream.end = stream.read(target, &log, stopped.clone()).await;
        stream.ended = SystemTime::now();
        let failed = matches!(stream.end, End::Failed(_));
        log.report.lock().unwrap_or_else(PoisonError::into_inner).streams.push(stream);
        if failed {
            sleep(PAUSE).await;
        }
    }
}

impl Stream {
    fn new(protocol: Protocol) -> Stream {
        let now = SystemTime::now();
        let (version, pod) = Default::default();
        Stream { protocol, version, pod, opened: now, ended: now, messages: 0, end: End::Stopped }
    }

    async fn read(&mut self, target: SocketAddr, log: &Log, mut stopped: watch::Receiver<bool>) -> End {
        let opening = in_time(Connection::open(self.protocol, target));
        let mut connection = match opening.await {
            Ok(connection) => connection,
            Err(end) => return end,
        };
        loop {
            let message = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return End::Stopped,
                message = in_time(connection.next()) => message,
            };
            let next = message.and_then(|message| self.note(&message));
            match next {
                Ok(()) if self.messages == 1 => log.opened.send_modify(|opened| *opened += 1),
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    /// Counts a message if it is the next one of the pod that sent the first.
    fn note(&mut self, message: &str) -> Result<(), End> {
        if self.messages == 0
            && let Some((version, pod)) = message.strip_prefix("1 ").and_then(|from| from.split_once(' '))
        {
            (self.version, self.pod) = (version.to_owned(), pod.to_owned());
        }
        let next = format!("{} {} {}", self.messages + 1, self.version, self.pod);
        if message != next {
            return Err(End::OutOfOrder(format!("{message:.80?} instead of {next:?}")));
        }
        self.messages += 1;
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(End::Failed(format!("silent for {PATIENCE:?}"))))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.streams.iter().try_for_each(|stream| writeln!(f, "{stream}"))
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stream { protocol, version, pod, opened, ended, messages, end } = self;
        let length = ended.duration_since(*opened).unwrap_or_default().as_secs_f64();
        write!(f, "{protocol:?} of {version} on {pod}: {messages} messages in {length:.1} s, then {end:?}")
    }
}

#[cfg(test)]
mod tests;
