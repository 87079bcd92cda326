//! One machine listening to another: lines of JSON on a connection within the tailnet, which encrypts it and knows who is at
//! its ends. The one that listens connects.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use decide::mesh::{BEAT, Number, SILENCE, Said};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::key_for;
use crate::config::Secret;
use crate::tailnet::Callers;

/// The pause before a machine is connected to again, and the longest of them.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_CONNECT: Duration = Duration::from_secs(2);
/// Ports from which engines connect, the first from which everybody may, and how many of them are tried at a time.
const PRIVILEGED_PORTS: Range<u16> = 600..1000;
const FIRST_PORT_OF_ALL: u16 = 1024;
const MOST_PORTS: u64 = 20;
static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(0);
/// Connections of others at a time.
const MOST_LISTENERS: usize = 1024;
/// How often the way to a machine is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(5);
/// Whoever listens and has not asked that for so long is gone.
const LONGEST_DEAF: Duration = Duration::from_secs(15);
/// A hundred thousand Services in one line.
const LONGEST_LINE: u64 = 64 << 20;

/// What comes of it.
#[derive(Debug)]
pub(super) enum Heard {
    Key(Secret),
    Said(Box<Said>),
    Beat,
    /// It can't be reached.
    Lost,
    RoundTrip(Duration),
    /// A machine that listens to this one.
    Listens {
        connection: u64,
    },
    HasInForce {
        number: Number,
    },
    ListensNoMore {
        connection: u64,
    },
}

/// What is said to whoever listens.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Message {
    /// By which the listener's proxy is let in.
    Key(Secret),
    Said(Said),
    Beat,
    Pong(u64),
}

/// What whoever listens says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reply {
    InForce(Number),
    Ping(u64),
}

type Hears = mpsc::UnboundedSender<(String, Heard)>;

/// Listens to a machine until it is dropped.
pub(super) async fn follow(
    machine: String,
    own: IpAddr,
    at: SocketAddr,
    mut in_force: watch::Receiver<std::collections::BTreeMap<String, Number>>,
    hears: Hears,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = timeout(LONGEST_CONNECT, connect(own, at)).await;
        let ended = match connected.map_err(io::Error::from).flatten() {
            Ok(stream) => {
                let began = Instant::now();
                let ended = listen(&machine, stream, &mut in_force, &hears).await;
                if began.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                ended
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!("the machine {machine} is not heard: {error}");
        }
        if hears.send((machine.clone(), Heard::Lost)).is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// From this machine's address on the tailnet, and a port that only root may use.
async fn connect(own: IpAddr, at: SocketAddr) -> io::Result<TcpStream> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    let start = RandomState::new().hash_one(at);
    for step in 0..MOST_PORTS {
        let port = PRIVILEGED_PORTS.start + (start.wrapping_add(step) % PRIVILEGED_PORTS.len() as u64) as u16;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        let connected = match socket.bind((own, port).into()) {
            Ok(()) => socket.connect(at).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
                taken = error;
            }
            connected => return connected,
        }
    }
    Err(taken)
}

/// Until the connection ends, or has been silent for long.
async fn listen(
    machine: &str,
    stream: TcpStream,
    in_force: &mut watch::Receiver<std::collections::BTreeMap<String, Number>>,
    hears: &Hears,
) -> io::Result<()> {
    let (mut lines, mut write) = halves(stream)?;
    let mut measure = interval(MEASURED_EVERY);
    measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut asked, mut asked_at, mut said) = (0, Instant::now(), None);
    in_force.mark_changed();
    loop {
        let heard = tokio::select! {
            line = timeout(SILENCE * 2, lines.next_line()) => {
                let Some(line) = line.map_err(io::Error::from)?? else { return Ok(()) };
                lines.get_mut().get_mut().set_limit(LONGEST_LINE);
                // What a later version says beside is no reason to hear nothing of it.
                let Ok(message) = serde_json::from_str(&line) else { continue };
                match message {
                    Message::Key(key) => Heard::Key(key),
                    Message::Said(said) => Heard::Said(Box::new(said)),
                    Message::Beat => Heard::Beat,
                    Message::Pong(number) if number == asked => Heard::RoundTrip(asked_at.elapsed()),
                    Message::Pong(_) => continue,
                }
            }
            _ = measure.tick() => {
                (asked, asked_at) = (asked + 1, Instant::now());
                send(&mut write, &Reply::Ping(asked)).await?;
                continue;
            }
            Ok(()) = in_force.changed() => {
                let number = in_force.borrow_and_update().get(machine).copied();
                if let Some(number) = number.filter(|number| said != Some(*number)) {
                    said = Some(number);
                    send(&mut write, &Reply::InForce(number)).await?;
                }
                continue;
            }
        };
        if hears.send((machine.to_owned(), heard)).is_err() {
            return Ok(());
        }
    }
}

/// What it takes to tell other machines how things are here.
#[derive(Clone)]
pub(super) struct Telling {
    pub(super) callers: Arc<Callers>,
    /// Who is told has it.
    pub(super) tag: String,
    /// This machine's name.
    pub(super) own: String,
    /// Of which the keys are made by which others' proxies are let in.
    pub(super) key: Secret,
    /// None until it is known how things are here.
    pub(super) said: watch::Receiver<Option<Said>>,
    /// The addresses of machines that have the tag.
    pub(super) allowed: watch::Receiver<BTreeSet<IpAddr>>,
    pub(super) hears: Hears,
}

/// A machine that listens, until this is dropped, whatever the reason.
struct Listens {
    machine: String,
    connection: u64,
    hears: Hears,
}

impl Drop for Listens {
    fn drop(&mut self) {
        let machine = std::mem::take(&mut self.machine);
        let _ = self.hears.send((machine, Heard::ListensNoMore { connection: self.connection }));
    }
}

impl Telling {
    /// Tells every machine that has the tag how things are here, until it is dropped.
    pub(super) async fn serve(self, listener: TcpListener) {
        let mut telling = JoinSet::new();
        loop {
            let connection = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
            while telling.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, client)) if telling.len() < MOST_LISTENERS => {
                    telling.spawn(self.clone().tell_if_known(connection, stream, client));
                }
                Ok(_) => tracing::debug!("too many listen to this machine"),
                Err(error) => {
                    tracing::warn!("can't accept a connection of another machine: {error}");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
            }
        }
    }

    async fn tell_if_known(mut self, connection: u64, stream: TcpStream, client: SocketAddr) {
        let Some(machine) = self.machine(client).await else {
            return tracing::debug!(
                "{client} is told nothing of this machine: it is not the engine of a machine that has the tag {}",
                self.tag
            );
        };
        let _ = self.hears.send((machine.clone(), Heard::Listens { connection }));
        let _listens = Listens { machine: machine.clone(), connection, hears: self.hears.clone() };
        if let Err(error) = self.tell(&machine, stream, client).await {
            tracing::debug!("the machine {machine} listens no more: {error}");
        }
    }

    /// Which machine's engine is there. Only root connects from such a port, and what pods send leaves their machine by others.
    async fn machine(&self, client: SocketAddr) -> Option<String> {
        if client.port() >= FIRST_PORT_OF_ALL {
            return None;
        }
        let whois = self.callers.who(client).await?;
        (whois.tags.contains(&self.tag) && whois.machine != self.own).then_some(whois.machine)
    }

    async fn tell(&mut self, machine: &str, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        let (mut lines, mut write) = halves(stream)?;
        send(&mut write, &Message::Key(key_for(&self.key, client.ip().to_canonical()))).await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.said.mark_changed();
        self.allowed.mark_unchanged();
        let mut heard = Instant::now();
        while heard.elapsed() < LONGEST_DEAF {
            tokio::select! {
                Ok(()) = self.said.changed() => {
                    let Some(now) = self.said.borrow_and_update().clone() else { continue };
                    send(&mut write, &Message::Said(now)).await?;
                }
                _ = beat.tick() => send(&mut write, &Message::Beat).await?,
                // A machine that has lost its tag is told nothing any more.
                Ok(()) = self.allowed.changed() => {
                    if !self.allowed.borrow_and_update().contains(&client.ip().to_canonical()) {
                        return Ok(());
                    }
                }
                line = lines.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    heard = Instant::now();
                    lines.get_mut().get_mut().set_limit(LONGEST_LINE);
                    let Ok(reply) = serde_json::from_str(&line) else { continue };
                    match reply {
                        Reply::Ping(number) => send(&mut write, &Message::Pong(number)).await?,
                        Reply::InForce(number) => {
                            if self.hears.send((machine.to_owned(), Heard::HasInForce { number })).is_err() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn halves(stream: TcpStream) -> io::Result<(Lines<BufReader<Take<OwnedReadHalf>>>, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((lines(read), write))
}

fn lines<R: AsyncRead + Unpin>(read: R) -> Lines<BufReader<Take<R>>> {
    BufReader::new(read.take(LONGEST_LINE)).lines()
}

async fn send(write: &mut OwnedWriteHalf, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    // Whoever does not read is gone.
    timeout(SILENCE * 2, write.write_all(&line)).await.map_err(io::Error::from)?
}
