//! One machine listening to another: lines of JSON on a connection within the tailnet, which encrypts it and knows who is at
//! its ends. The one that listens connects.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use decide::mesh::{BEAT, Number, SILENCE, Said};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::tailnet::Callers;

/// The pause before a machine is connected to again, and the longest of them.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_CONNECT: Duration = Duration::from_secs(2);
/// How often the way to a machine is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(5);
/// A hundred thousand Services in one line, and a day of beats on one connection.
const MOST_BYTES: u64 = 64 << 20;

/// What comes of it.
#[derive(Debug)]
pub(super) enum Heard {
    Said(Box<Said>),
    Beat,
    /// It can't be reached.
    Lost,
    RoundTrip(Duration),
    /// A machine that listens to this one.
    HasInForce {
        connection: u64,
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
    at: SocketAddr,
    mut in_force: watch::Receiver<std::collections::BTreeMap<String, Number>>,
    hears: Hears,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = timeout(LONGEST_CONNECT, TcpStream::connect(at)).await;
        let ended = match connected.map_err(io::Error::from).flatten() {
            Ok(stream) => {
                pause = FIRST_PAUSE;
                listen(&machine, stream, &mut in_force, &hears).await
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
                match serde_json::from_str(&line)? {
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

/// Tells every machine that has the tag how things are here, until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    (callers, tag): (Arc<Callers>, String),
    said: watch::Receiver<Said>,
    hears: Hears,
) {
    let mut telling = JoinSet::new();
    for connection in 0.. {
        tokio::select! {
            Some(_) = telling.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let (callers, tag) = (Arc::clone(&callers), tag.clone());
                    let to = Listener { connection, stream, client };
                    telling.spawn(tell_if_known(to, (callers, tag), said.clone(), hears.clone()));
                }
                Err(error) => {
                    tracing::warn!("can't accept a connection of another machine: {error}");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
            }
        }
    }
}

/// Another machine that listens.
struct Listener {
    connection: u64,
    stream: TcpStream,
    client: SocketAddr,
}

async fn tell_if_known(
    Listener { connection, stream, client }: Listener,
    (callers, tag): (Arc<Callers>, String),
    said: watch::Receiver<Said>,
    hears: Hears,
) {
    let who = || async { callers.who(client).await.filter(|whois| whois.tags.contains(&tag)) };
    let Some(whois) = who().await else {
        let ip: IpAddr = client.ip();
        return tracing::warn!("{ip} is told nothing of this machine: on the tailnet it has no tag {tag}");
    };
    let machine = whois.machine;
    let is_still = || async { who().await.is_some_and(|whois| whois.machine == machine) };
    if let Err(error) = tell((&machine, connection), stream, said, &hears, is_still).await {
        tracing::debug!("the machine {machine} listens no more: {error}");
    }
    let _ = hears.send((machine, Heard::ListensNoMore { connection }));
}

async fn tell<F: Future<Output = bool>>(
    (machine, connection): (&str, u64),
    stream: TcpStream,
    mut said: watch::Receiver<Said>,
    hears: &Hears,
    is_still: impl Fn() -> F,
) -> io::Result<()> {
    let (mut lines, mut write) = halves(stream)?;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    said.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = said.changed() => {
                let now = said.borrow_and_update().clone();
                send(&mut write, &Message::Said(now)).await?;
            }
            _ = beat.tick() => {
                // A machine that has lost its tag is told nothing any more.
                if looked.elapsed() > MEASURED_EVERY {
                    looked = Instant::now();
                    if !is_still().await {
                        return Ok(());
                    }
                }
                send(&mut write, &Message::Beat).await?;
            }
            line = lines.next_line() => match line? {
                None => return Ok(()),
                Some(line) => match serde_json::from_str(&line)? {
                    Reply::Ping(number) => send(&mut write, &Message::Pong(number)).await?,
                    Reply::InForce(number) => {
                        if hears.send((machine.to_owned(), Heard::HasInForce { connection, number })).is_err() {
                            return Ok(());
                        }
                    }
                },
            },
        }
    }
}

fn halves(stream: TcpStream) -> io::Result<(Lines<BufReader<Take<OwnedReadHalf>>>, OwnedWriteHalf)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((lines(read), write))
}

fn lines<R: AsyncRead + Unpin>(read: R) -> Lines<BufReader<Take<R>>> {
    BufReader::new(read.take(MOST_BYTES)).lines()
}

async fn send(write: &mut OwnedWriteHalf, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    // Whoever does not read is gone.
    timeout(SILENCE * 2, write.write_all(&line)).await.map_err(io::Error::from)?
}
