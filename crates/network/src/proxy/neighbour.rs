//! Another machine of the mesh: connected to, and asked whether it is there at all when its engine is not heard any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::select_ok;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// An answer has so long: four times what connecting took before, within these bounds.
const SHORTEST_PROBE: Duration = Duration::from_millis(250);
const LONGEST_PROBE: Duration = Duration::from_secs(2);
/// The pause before a machine that answered is asked again.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// A machine that gave no answer for so long is gone. A link that is cut for a shorter time costs nothing but the time: what is
/// under way on it arrives when it is back.
const LONGEST_SILENCE: Duration = Duration::from_millis(2500);

/// Shared by all that is asked for there.
#[derive(Debug)]
pub(crate) struct Neighbour {
    /// This machine's address on the way there.
    from: IpAddr,
    /// Where its proxy is.
    at: SocketAddr,
    /// How long connecting took last, in microseconds; 0 before the first time.
    connecting_took: AtomicU64,
    presence: watch::Sender<Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether its engine is not heard.
    is_doubtful: bool,
    /// How often that has changed.
    changes: u64,
    presence: Presence,
}

/// Whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Presence {
    #[default]
    There,
    /// It does not answer: what can be asked of others is.
    Silent,
    /// It has not answered for long: what is in flight there is lost.
    Gone,
}

impl Neighbour {
    pub(crate) fn new(from: IpAddr, at: SocketAddr) -> Self {
        Self { from, at, connecting_took: AtomicU64::new(0), presence: watch::Sender::default() }
    }

    /// A connection to its proxy.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        self.connect_from(self.bound()?).await
    }

    /// Without this machine's address there is no tailnet, and whoever has the other one may be anybody.
    fn bound(&self) -> io::Result<TcpSocket> {
        let socket = if self.from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((self.from, 0).into())?;
        Ok(socket)
    }

    async fn connect_from(&self, socket: TcpSocket) -> io::Result<TcpStream> {
        let began = Instant::now();
        let stream = socket.connect(self.at).await?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.connecting_took.store(took, Ordering::Relaxed);
        Ok(stream)
    }

    /// Notes whether its engine is heard. While it is not, its proxy is looked after.
    pub(crate) fn doubt(self: &Arc<Self>, is_doubtful: bool) {
        let mut changes = None;
        self.presence.send_if_modified(|known| {
            if known.is_doubtful != is_doubtful {
                *known = Known { is_doubtful, changes: known.changes + 1, presence: Presence::There };
                changes = Some(known.changes);
            }
            changes.is_some()
        });
        if let Some(changes) = changes.filter(|_| is_doubtful) {
            tokio::spawn(look_after(Arc::downgrade(self), changes));
        }
    }

    /// Waits until it is at least so far away.
    pub(crate) fn is(&self, presence: Presence) -> impl Future<Output = ()> + Send + 'static {
        let mut known = self.presence.subscribe();
        async move {
            if known.wait_for(|known| known.presence >= presence).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether there is any answer. Of packets one may be lost, so three are sent.
    async fn answers(&self) -> bool {
        let took = Duration::from_micros(self.connecting_took.load(Ordering::Relaxed));
        let patience = (took * 4).clamp(SHORTEST_PROBE, LONGEST_PROBE);
        let probes = [Duration::ZERO, patience / 4, patience / 2].map(|pause| Box::pin(self.answers_after(pause)));
        tokio::time::timeout(patience, select_ok(probes)).await.is_ok_and(|answered| answered.is_ok())
    }

    /// A machine that refuses is there, and its own kernel ends what nobody has there any more. Whether it is, nobody knows who has
    /// no way to ask.
    async fn answers_after(&self, pause: Duration) -> io::Result<()> {
        tokio::time::sleep(pause).await;
        let Ok(socket) = self.bound() else { return Ok(()) };
        match self.connect_from(socket).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// As long as it is doubtful for the same reason, and anybody wants to know.
async fn look_after(neighbour: Weak<Neighbour>, changes: u64) {
    let mut last_answer = Instant::now();
    while let Some(neighbour) = neighbour.upgrade() {
        let answers = neighbour.answers().await;
        let presence = match answers {
            true => Presence::There,
            false if last_answer.elapsed() < LONGEST_SILENCE => Presence::Silent,
            false => Presence::Gone,
        };
        let mut goes_on = true;
        neighbour.presence.send_if_modified(|known| {
            goes_on = known.changes == changes;
            goes_on && std::mem::replace(&mut known.presence, presence) != presence
        });
        drop(neighbour);
        if !goes_on {
            return;
        }
        if answers {
            last_answer = Instant::now();
        }
        if presence != Presence::Silent {
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
}

type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that breaks off when the machine at its other end has gone.
pub(crate) struct Tied {
    stream: TcpStream,
    /// None where no machine is behind it, and after it has broken off.
    gone: Option<Gone>,
    is_broken: bool,
}

impl Tied {
    pub(crate) fn new(stream: TcpStream, neighbour: Option<&Neighbour>) -> Self {
        let gone = neighbour.map(|neighbour| Box::pin(neighbour.is(Presence::Gone)) as Gone);
        Self { stream, gone, is_broken: false }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.gone.as_mut().is_some_and(|gone| gone.as_mut().poll(context).is_ready()) {
            (self.gone, self.is_broken) = (None, true);
        }
        if self.is_broken { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Tied {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Tied {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
