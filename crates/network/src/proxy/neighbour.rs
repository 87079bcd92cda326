//! Another machine of the mesh: connected to, and asked whether it is there at all when its engine is not heard any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// It is asked so often, since one packet may be lost, and each time for so long: twice what connecting to it took before, within
/// these bounds.
const PROBES: u32 = 3;
const SHORTEST_PROBE: Duration = Duration::from_millis(65);
const LONGEST_PROBE: Duration = Duration::from_millis(650);
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// Shared by all that is asked for there.
#[derive(Debug)]
pub(crate) struct Neighbour {
    /// This machine's address on the way there.
    from: IpAddr,
    /// Where its proxy is.
    at: SocketAddr,
    /// How long connecting took last, in microseconds; 0 before the first time.
    connecting_took: AtomicU64,
    /// Whether its engine is not heard.
    is_doubtful: AtomicBool,
    /// Whether its proxy doesn't answer either: what is in flight there is lost.
    is_gone: watch::Sender<bool>,
}

impl Neighbour {
    pub(crate) fn new(from: IpAddr, at: SocketAddr) -> Self {
        Self {
            from,
            at,
            connecting_took: AtomicU64::new(0),
            is_doubtful: AtomicBool::new(false),
            is_gone: watch::Sender::new(false),
        }
    }

    /// A connection to its proxy.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let began = Instant::now();
        // Without this address there is no tailnet, and whoever has the other one may be anybody.
        let socket = if self.from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.at).await?;
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.connecting_took.store(took, Ordering::Relaxed);
        Ok(stream)
    }

    /// Notes whether its engine is heard. While it is not, its proxy is looked after.
    pub(crate) fn doubt(self: &Arc<Self>, is_doubtful: bool) {
        if self.is_doubtful.swap(is_doubtful, Ordering::Relaxed) == is_doubtful {
            return;
        }
        if is_doubtful {
            tokio::spawn(look_whether_gone(Arc::downgrade(self)));
        } else {
            self.is_gone.send_replace(false);
        }
    }

    /// Waits until it has gone.
    pub(crate) fn is_gone(&self) -> impl Future<Output = ()> + Send + 'static {
        is_true(self.is_gone.subscribe())
    }

    async fn is_unreachable(&self) -> bool {
        let took = Duration::from_micros(self.connecting_took.load(Ordering::Relaxed));
        let patience = (took * 2).clamp(SHORTEST_PROBE, LONGEST_PROBE);
        for _ in 0..PROBES {
            if tokio::time::timeout(patience, self.connect()).await.is_ok_and(|connected| connected.is_ok()) {
                return false;
            }
        }
        true
    }
}

/// As long as it is doubtful, and anybody wants to know.
async fn look_whether_gone(neighbour: Weak<Neighbour>) {
    while let Some(neighbour) = neighbour.upgrade() {
        let is_gone = neighbour.is_unreachable().await;
        if !neighbour.is_doubtful.load(Ordering::Relaxed) {
            return;
        }
        neighbour.is_gone.send_if_modified(|known| std::mem::replace(known, is_gone) != is_gone);
        drop(neighbour);
        tokio::time::sleep(PROBE_PAUSE).await;
    }
}

/// Waits until this is true, which it may never be.
pub(crate) async fn is_true(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        std::future::pending::<()>().await;
    }
}
