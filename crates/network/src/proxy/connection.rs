//! One connection of a client, from its acceptance to its end: finds out what it speaks, then passes it on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use objects::traffic::ConnectionClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::attempts::{NotTaken, connect};
use super::balancer::{Balancer, InFlight, Work};
use super::caller::Caller;
use super::daemon::{self, From};
use super::detect::{Spoken, spoken};
use super::headers::{Origin, Scheme};
use super::http::{self, Entry, Target};
use super::lent::PodSpeaks;
use super::metered::Metered;
use super::paced::Answering;
use super::passage::{self, Announced, Carries};
use super::prefixed::Prefixed;
use super::proxy_protocol;
use super::upstream::Upstream;
use super::workers::WorkerNumber;
use crate::config::Speaks;

/// A client that says nothing for so long may be waiting for the server to speak first.
const SILENCE: Duration = Duration::from_millis(50);
/// A client that began what looks like a request line may take so long to finish it, as HTTP.
const LONGEST_UNCLEAR: Duration = Duration::from_secs(10);
/// Servers in a row that may hang up on a silent client before it is hung up on too.
const MOST_HANG_UPS: u32 = 3;

/// A client may take so long to agree on TLS.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);
/// Another machine may take so long to say what a connection is for.
const LONGEST_ANNOUNCEMENT: Duration = Duration::from_secs(2);
/// More than most request heads have.
const FIRST_READ: usize = 1024;

/// Why a connection ended before it was known what it speaks.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("only machines of the mesh may connect here")]
    NotOfTheMesh,
    #[error("only Tailscale's daemon may connect here")]
    NotTheDaemon,
    #[error("the client has too many connections")]
    TooMany,
    #[error("nothing took the connection")]
    NotTaken(#[from] NotTaken),
    #[error("the proxy ends")]
    Leaving,
    #[error("no Service is here any more")]
    NoService,
    #[error("the client left without a word")]
    Silent,
}

/// Whom the connection turned out to be for.
enum Turn {
    Http1(Bytes),
    Http2(Bytes),
    /// Opaque; some server may be connected already.
    Opaque(Bytes, Option<(TcpStream, InFlight)>),
}

impl Turn {
    /// What can be nothing but HTTP, however it begins.
    fn of_http(self) -> Self {
        match self {
            Self::Opaque(read_already, _) => Self::Http1(read_already),
            Self::Http1(_) | Self::Http2(_) => self,
        }
    }
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    Yes,
    No,
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) balancer: Arc<Balancer>,
    /// How the proxy comes to its end. Connections subscribe to it for as long as they live.
    pub(crate) leaving: Arc<watch::Sender<Leaving>>,
}

/// What the proxy's end means for a client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leaving {
    #[default]
    No,
    /// Another proxy takes the connections that come from now on. HTTP/2 says so at once; in HTTP/1.1 an idle connection
    /// can't be closed without a race, so the next answer says it.
    AfterTheNextAnswer,
    /// Idle connections are closed, and each other one after its answer.
    Now,
}

/// Waits until the proxy's end has come so far.
pub(crate) async fn has_come(leaving: &mut watch::Receiver<Leaving>, to: Leaving) {
    if leaving.wait_for(|leaving| *leaving >= to).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves a connection that came in at `at`.
pub(crate) async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    serving: Serving,
    worker: WorkerNumber,
) {
    if let Err(error) = find_out_and_pass(stream, client, at, serving, worker).await {
        tracing::trace!("a connection from {client} to {at} ended: {error}");
    }
}

async fn find_out_and_pass(
    mut stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    Serving { balancer, leaving }: Serving,
    worker: WorkerNumber,
) -> Result<(), Ended> {
    let speaks = balancer.speaks(at);
    // A Service that has just gone: nothing takes the connection, which is how it ends.
    let series = balancer.counts_at(at).ok_or(Ended::NoService)?;
    let reached = reached(&stream, at);
    let mut leaving = leaving.subscribe();
    let still_open = leaving.clone();
    let from = tokio::select! {
        from = from_tailnet(&mut stream, client, at, &balancer) => from?,
        () = has_come(&mut leaving, Leaving::Now) => return Err(Ended::Leaving),
    };
    let (client, caller) = match from {
        Some(From::Caller(caller)) => (caller, Caller::Elsewhere(caller.ip())),
        Some(From::Requests) | None => (client, Caller::new(client.ip(), reached.ip())),
    };
    let _present = match from {
        Some(From::Caller(caller)) => Some(balancer.clients().enter(caller.ip()).ok_or(Ended::TooMany)?),
        Some(From::Requests) | None => None,
    };
    let is_http = from == Some(From::Requests);
    let turn = Box::pin(async {
        match speaks {
            // The daemon has requests of many callers on one connection: they never pass as bytes of one.
            Speaks::Opaque if is_http => Err(Ended::NotTheDaemon),
            Speaks::Opaque => Ok(Turn::Opaque(Bytes::new(), None)),
            Speaks::FindOut if !is_http => find_out(&mut stream, at, caller, &balancer).await,
            // The client speaks first, so no server has to be watched.
            Speaks::FindOut | Speaks::Http1 | Speaks::Http2 => wait_for_the_client(&mut stream).await,
        }
    });
    let turn = tokio::select! {
        turn = turn => turn.map_err(|ended| refused(&stream, ended))?,
        () = has_come(&mut leaving, Leaving::Now) => return Err(Ended::Leaving),
    };
    let turn = if is_http { turn.of_http() } else { turn };
    let http_client = |balancer: Arc<Balancer>, by_client| {
        let origin = Origin::new(client.ip(), reached, Scheme::Http);
        let origin = if is_http { origin.trusted() } else { origin };
        let pods_speak = pods_speak(speaks, by_client);
        let sticky_cookie = balancer.sticky_cookie(at);
        let entry = Entry::Service(Target { at, pods_speak, series, sticky_cookie });
        let answering = Answering::default();
        http::Client { balancer, worker, caller, origin, entry, answering, leaving: still_open.clone() }
    };
    match turn {
        Turn::Http1(read_already) => {
            let client = http_client(balancer, PodSpeaks::Http1);
            Box::pin(http::serve_http1(Prefixed::new(read_already, stream), client, leaving)).await;
        }
        Turn::Http2(read_already) => {
            let client = http_client(balancer, PodSpeaks::Http2);
            Box::pin(http::serve_http2(Prefixed::new(read_already, stream), client, leaving)).await;
        }
        Turn::Opaque(read_already, connected) => {
            let (server, in_flight) = match connected {
                Some(connected) => connected,
                None => {
                    let connected = connect(&balancer, at, caller, Work::Long).await;
                    connected.map_err(|not_taken| refused(&stream, not_taken.into()))?
                }
            };
            // Another machine writes it itself.
            let version = balancer.proxy_protocol(at).filter(|_| !in_flight.upstream.is_elsewhere());
            let header = version.map(|version| proxy_protocol::header(version, client, reached));
            pass_bytes(Prefixed::new(read_already, stream), server, in_flight, header).await?;
        }
    }
    Ok(())
}

/// Passes bytes both ways until both ends have closed, or the server's end has come. `header` comes before the client's.
async fn pass_bytes(
    client: Prefixed,
    mut server: TcpStream,
    mut in_flight: InFlight,
    header: Option<Vec<u8>>,
) -> Result<(), Ended> {
    in_flight.become_long(ConnectionClass::Opaque);
    if let Some(header) = header {
        server.write_all(&header).await?;
    }
    let mut client = Metered::new(client, in_flight.series.clone());
    let passed = tokio::select! {
        passed = Box::pin(tokio::io::copy_bidirectional(&mut client, &mut server)) => passed.map(drop),
        () = in_flight.is_over() => tokio::try_join!(client.shutdown(), server.shutdown()).map(drop),
    };
    drop(in_flight);
    Ok(passed?)
}

/// Whom a connection comes from that Tailscale's daemon leads here; None: it comes from elsewhere.
async fn from_tailnet(
    stream: &mut TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    balancer: &Balancer,
) -> Result<Option<From>, Ended> {
    let Some(tailnet) = balancer.tailnet_before(at) else { return Ok(None) };
    if !daemon::is_the_daemons(&tailnet, client, at)? {
        return Err(refused(stream, Ended::NotTheDaemon));
    }
    Ok(Some(daemon::from(stream).await?))
}

/// The address that a client connected to, which is more than is known of a socket on every address.
fn reached(stream: &TcpStream, at: SocketAddr) -> SocketAddr {
    stream.local_addr().map_or(at, |local| SocketAddr::new(local.ip().to_canonical(), local.port()))
}

/// A client that may reach nobody gets a reset, so that it knows this is no answer.
fn refused(stream: &TcpStream, ended: Ended) -> Ended {
    if let Ended::NotTaken(NotTaken::Forbidden) | Ended::NotTheDaemon | Ended::NotOfTheMesh = ended
        && let Err(error) = stream.set_zero_linger()
    {
        return error.into();
    }
    ended
}

/// Serves a connection of another machine's proxy, for one port of one Service.
pub(crate) async fn serve_machine(stream: TcpStream, client: SocketAddr, serving: Serving, worker: WorkerNumber) {
    if let Err(error) = pass_from_machine(stream, client, serving, worker).await {
        tracing::trace!("a connection of the machine {client} ended: {error}");
    }
}

async fn pass_from_machine(
    mut stream: TcpStream,
    client: SocketAddr,
    Serving { balancer, leaving }: Serving,
    worker: WorkerNumber,
) -> Result<(), Ended> {
    let machine = client.ip().to_canonical();
    if !balancer.is_machine(machine) {
        return Err(refused(&stream, Ended::NotOfTheMesh));
    }
    let mut leaving = leaving.subscribe();
    // Its pods and users have its address too, and may only be so many until one has said the key.
    let unproven = balancer.unproven().enter(machine).ok_or(Ended::TooMany)?;
    let announced = tokio::select! {
        announced = timeout(LONGEST_ANNOUNCEMENT, passage::announced(&mut stream)) => announced.map_err(|_| Ended::Silent)??,
        () = has_come(&mut leaving, Leaving::Now) => return Err(Ended::Leaving),
    };
    let Announced { key, passage, carries } = announced;
    let place = balancer.place_of(machine, &passage, &key).and_then(|at| Some((at, balancer.counts_at(at)?)));
    // What is sent on it may be longer than what can be sent again: better not to begin.
    let place = place.filter(|(at, _)| balancer.has_pod_at(*at));
    let Some((at, series)) = place else {
        passage::refuse(&mut stream).await?;
        return Err(Ended::NoService);
    };
    drop(unproven);
    let pods_speak = match carries {
        Carries::Requests(speaks) => speaks,
        Carries::Bytes(client) => return pass_bytes_from(stream, (machine, client), at, &balancer).await,
    };
    passage::take(&mut stream).await?;
    let client = http::Client {
        worker,
        caller: Caller::Machine(machine),
        origin: Origin::new(machine, at, Scheme::Http).trusted(),
        // Cookies are a matter of the machine where clients come in.
        entry: Entry::Service(Target { at, pods_speak, series, sticky_cookie: None }),
        answering: Answering::default(),
        leaving: leaving.clone(),
        balancer,
    };
    let stream = Prefixed::new(Bytes::new(), stream);
    match pods_speak {
        PodSpeaks::Http1 => Box::pin(http::serve_http1(stream, client, leaving)).await,
        PodSpeaks::Http2 => Box::pin(http::serve_http2(stream, client, leaving)).await,
    }
    Ok(())
}

async fn pass_bytes_from(
    mut stream: TcpStream,
    (machine, client): (IpAddr, IpAddr),
    at: SocketAddr,
    balancer: &Balancer,
) -> Result<(), Ended> {
    match connect(balancer, at, Caller::through(machine, client), Work::Long).await {
        Ok((server, in_flight)) => {
            passage::take(&mut stream).await?;
            // The other machine knows the client's port, which nobody needs to know.
            let client = SocketAddr::new(if balancer.is_private(client) { machine } else { client }, 0);
            let header = balancer.proxy_protocol(at).map(|version| proxy_protocol::header(version, client, at));
            pass_bytes(Prefixed::new(Bytes::new(), stream), server, in_flight, header).await
        }
        Err(not_taken) => {
            passage::refuse(&mut stream).await?;
            Err(not_taken.into())
        }
    }
}

/// Serves a connection on which requests for all hosts come in.
pub(crate) async fn serve_ingress(
    stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    tls: Tls,
    serving: Serving,
    worker: WorkerNumber,
) {
    if let Err(error) = pass_to_ingress(stream, client, at, tls, serving, worker).await {
        tracing::trace!("a connection from {client} to {at} ended: {error}");
    }
}

async fn pass_to_ingress(
    mut stream: TcpStream,
    client: SocketAddr,
    at: SocketAddr,
    tls: Tls,
    Serving { balancer, leaving }: Serving,
    worker: WorkerNumber,
) -> Result<(), Ended> {
    let mut leaving = leaving.subscribe();
    let still_open = leaving.clone();
    let scheme = if tls == Tls::Yes { Scheme::Https } else { Scheme::Http };
    let reached = reached(&stream, at);
    let origin = Origin::new(client.ip(), reached, scheme);
    let entry = Entry::Ingress(balancer.ingress_counts());
    let caller = Caller::new(client.ip(), reached.ip());
    let answering = Answering::default();
    let http_client =
        |balancer| http::Client { balancer, worker, caller, origin, entry, answering, leaving: still_open };
    if tls == Tls::Yes {
        let acceptor = TlsAcceptor::from(balancer.certificates().server_config());
        let stream = tokio::select! {
            accepted = timeout(LONGEST_HANDSHAKE, acceptor.accept(stream)) => accepted.map_err(|_| Ended::Silent)??,
            () = has_come(&mut leaving, Leaving::Now) => return Err(Ended::Leaving),
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Box::pin(http::serve_http2(stream, http_client(balancer), leaving)).await,
            Some(_) | None => Box::pin(http::serve_http1(stream, http_client(balancer), leaving)).await,
        }
        return Ok(());
    }
    let turn = tokio::select! {
        turn = wait_for_the_client(&mut stream) => turn?,
        () = has_come(&mut leaving, Leaving::Now) => return Err(Ended::Leaving),
    };
    match turn {
        Turn::Http2(read) => {
            Box::pin(http::serve_http2(Prefixed::new(read, stream), http_client(balancer), leaving)).await;
        }
        // What is no HTTP is told so.
        Turn::Http1(read) | Turn::Opaque(read, _) => {
            Box::pin(http::serve_http1(Prefixed::new(read, stream), http_client(balancer), leaving)).await;
        }
    }
    Ok(())
}

/// What is declared counts; else a pod is spoken to as the client speaks, who knows it.
fn pods_speak(declared: Speaks, by_client: PodSpeaks) -> PodSpeaks {
    match declared {
        Speaks::Http1 => PodSpeaks::Http1,
        Speaks::Http2 => PodSpeaks::Http2,
        Speaks::FindOut | Speaks::Opaque => by_client,
    }
}

async fn find_out(stream: &mut TcpStream, at: SocketAddr, caller: Caller, balancer: &Balancer) -> Result<Turn, Ended> {
    let mut read = BytesMut::with_capacity(FIRST_READ);
    match tokio::time::timeout(SILENCE, stream.read_buf(&mut read)).await {
        Ok(Ok(0)) => Err(Ended::Silent),
        Ok(Ok(_)) => read_until_clear(stream, read).await,
        Ok(Err(error)) => Err(error.into()),
        Err(_) => let_either_speak(stream, at, caller, balancer).await,
    }
}

/// Clients may open connections long before they have a request.
async fn wait_for_the_client(stream: &mut TcpStream) -> Result<Turn, Ended> {
    let mut read = BytesMut::with_capacity(FIRST_READ);
    if stream.read_buf(&mut read).await? == 0 {
        return Err(Ended::Silent);
    }
    read_until_clear(stream, read).await
}

async fn read_until_clear(stream: &mut TcpStream, mut read: BytesMut) -> Result<Turn, Ended> {
    let deadline = Instant::now() + LONGEST_UNCLEAR;
    loop {
        let patience = match spoken(&read) {
            Spoken::Http1 => return Ok(Turn::Http1(read.freeze())),
            Spoken::Http2 => return Ok(Turn::Http2(read.freeze())),
            Spoken::Opaque => break,
            Spoken::Unclear => deadline.min(Instant::now() + SILENCE),
            Spoken::Http1Begun => deadline,
        };
        match tokio::time::timeout_at(patience, stream.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0)) | Err(_) => break,
            Ok(Err(error)) => return Err(error.into()),
        }
    }
    Ok(Turn::Opaque(read.freeze(), None))
}

/// Connects a silent client to a server and watches both. The connection counts as work from the first byte of
/// either, so that idle ones hold no drain up.
async fn let_either_speak(
    stream: &mut TcpStream,
    at: SocketAddr,
    caller: Caller,
    balancer: &Balancer,
) -> Result<Turn, Ended> {
    for _ in 0..MOST_HANG_UPS {
        let (server, in_flight) = connect(balancer, at, caller, Work::Long).await?;
        let upstream = in_flight.upstream.clone();
        drop(in_flight);
        match first_to_speak(stream, &server).await? {
            First::Client => return the_client_spoke(stream, server, &upstream, (at, caller), balancer).await,
            First::Server => {
                if let Some(in_flight) = balancer.claim(at, caller, &upstream, Work::Long) {
                    return Ok(Turn::Opaque(Bytes::new(), Some((server, in_flight))));
                }
            }
            First::HangUp => {}
        }
    }
    Err(Ended::Silent)
}

async fn the_client_spoke(
    stream: &mut TcpStream,
    server: TcpStream,
    upstream: &Arc<Upstream>,
    (at, caller): (SocketAddr, Caller),
    balancer: &Balancer,
) -> Result<Turn, Ended> {
    match wait_for_the_client(stream).await? {
        Turn::Opaque(read, None) => {
            let claimed = balancer.claim(at, caller, upstream, Work::Long);
            Ok(Turn::Opaque(read, claimed.map(|in_flight| (server, in_flight))))
        }
        turn @ (Turn::Http1(_) | Turn::Http2(_) | Turn::Opaque(_, Some(_))) => Ok(turn),
    }
}

enum First {
    Client,
    Server,
    /// The server closed the connection without a word.
    HangUp,
}

async fn first_to_speak(client: &TcpStream, server: &TcpStream) -> std::io::Result<First> {
    tokio::select! {
        readable = client.readable() => readable.map(|()| First::Client),
        peeked = peek(server) => Ok(match peeked {
            Ok(1..) => First::Server,
            Ok(0) | Err(_) => First::HangUp,
        }),
    }
}

async fn peek(server: &TcpStream) -> std::io::Result<usize> {
    server.peek(&mut [0]).await
}
