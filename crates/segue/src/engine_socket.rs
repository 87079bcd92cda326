//! How `segue down`, `segue drain`, `segue mesh` and `segue proxy upgrade` talk to a running engine: one line of JSON each way on a Unix socket, with lines
//! of progress between.

use std::os::fd::OwnedFd;
use std::path::Path;

use network::mesh::Seen;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// What is asked of the engine.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Drain and stop everything, then end.
    Down,
    /// The same, unless Services have no ready pod on another machine.
    Drain { force: bool },
    /// Say how the mesh is seen.
    Mesh,
    /// Start a new proxy, which takes every connection from then on; the old one finishes its own.
    ReplaceProxy,
}

/// What the engine answers; the last line is `Done` or `Failed`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Report {
    Progress { line: String },
    Mesh { seen: Box<Seen> },
    Done,
    Failed { error: String },
}

/// One order, with the way to answer it.
pub(crate) struct Received {
    pub(crate) order: Order,
    connection: UnixStream,
}

/// Listens for orders.
pub(crate) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// The next order that can be understood.
pub(crate) async fn receive(listener: &UnixListener) -> std::io::Result<Received> {
    loop {
        let (mut connection, _) = listener.accept().await?;
        let mut line = String::new();
        BufReader::new(&mut connection).read_line(&mut line).await?;
        match serde_json::from_str(&line) {
            Ok(order) => return Ok(Received { order, connection }),
            Err(error) => {
                let error =
                    format!("this engine does not understand {line:?} ({error}): use the same version of segue");
                write(&mut connection, &Report::Failed { error }).await?;
            }
        }
    }
}

impl Received {
    /// Tells the caller something; a caller that has gone misses it.
    pub(crate) async fn report(&mut self, report: &Report) {
        let _ = write(&mut self.connection, report).await;
    }
}

/// Gives an order, hands every line of progress to `show`, and waits until it is done; after `Down` until the engine is
/// gone.
pub(crate) async fn order(path: &Path, order: &Order, mut show: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut connection = UnixStream::connect(path).await?;
    let engine = pidfd_open(socket_peercred(&connection)?.pid, PidfdFlags::empty())?;
    let mut text = serde_json::to_string(order)?;
    text.push('\n');
    connection.write_all(text.as_bytes()).await?;
    let mut lines = BufReader::new(connection).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Report::Progress { line } => show(&line),
            Report::Done if matches!(order, Order::Down | Order::Drain { .. }) => {
                return wait_for_its_end(engine).await;
            }
            Report::Done | Report::Mesh { .. } => return Ok(()),
            Report::Failed { error } => anyhow::bail!(error),
        }
    }
    anyhow::bail!("the engine ended before it was done; run the command again")
}

/// How an engine sees the mesh.
pub(crate) async fn ask_mesh(path: &Path) -> anyhow::Result<Seen> {
    let mut connection = UnixStream::connect(path).await?;
    let mut text = serde_json::to_string(&Order::Mesh)?;
    text.push('\n');
    connection.write_all(text.as_bytes()).await?;
    let mut lines = BufReader::new(connection).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Report::Mesh { seen } => return Ok(*seen),
            Report::Failed { error } => anyhow::bail!(error),
            Report::Progress { .. } | Report::Done => {}
        }
    }
    anyhow::bail!("the engine ended before it answered")
}

/// What it holds, its lock among it, it gives up before it is gone.
async fn wait_for_its_end(engine: OwnedFd) -> anyhow::Result<()> {
    let ended = move || poll(&mut [PollFd::new(&engine, PollFlags::IN)], None);
    tokio::task::spawn_blocking(ended).await??;
    Ok(())
}

async fn write(connection: &mut UnixStream, report: &Report) -> std::io::Result<()> {
    let mut text = serde_json::to_string(report)?;
    text.push('\n');
    connection.write_all(text.as_bytes()).await
}
