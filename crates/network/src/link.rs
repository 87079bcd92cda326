//! The engine's end of the data plane: finds the keeper or starts one, and talks to it. The keeper outlives the
//! engine, so nothing here ends it but `shut_down`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::channel::{AsyncChannel, Channel, ChannelError};
use crate::config::{Change, DataPlaneConfig};
use crate::frames::{self, FrameError, Report, decode, encode};
use crate::keeper::{KeeperSettings, proxy_socket_path, runs_another_file, socket_path};

/// A keeper that was started may first have to take over a living proxy, which it gives 5 seconds.
const LONGEST_START: Duration = Duration::from_secs(10);
/// The keeper gives the proxy 2 seconds to end.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("can't open the data plane's log {path:?}")]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't start the keeper with {executable:?}")]
    Start {
        executable: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't connect to {path:?}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the keeper ended before it could be used; its log says why")]
    Ended,
    #[error("the keeper did not answer for {} seconds", LONGEST_START.as_secs())]
    Silent,
    #[error("the data plane did not end for {} seconds", LONGEST_SHUTDOWN.as_secs())]
    GoesOn,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// How to start the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPlaneCommand {
    /// The executable of which `keeper` and `proxy` are subcommands, usually `/proc/self/exe`.
    pub executable: PathBuf,
    pub keeper: KeeperSettings,
    /// Where keeper and proxy write their logs.
    pub log: PathBuf,
    /// Where the proxy writes a line about each request, if the configuration asks for it.
    pub access_log: PathBuf,
}

/// What a keeper says first.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// The last that was configured, 0 for none.
    pub version: u64,
    /// Whether [`Link::change`] is understood.
    pub takes_changes: bool,
}

/// A connection to the keeper.
#[derive(Debug)]
pub struct Link {
    channel: AsyncChannel,
}

impl Link {
    /// Connects to the keeper, or starts one where there is none; one of another build is replaced first, and replaces
    /// the proxy in turn. Also gives its greeting.
    ///
    /// # Errors
    /// When neither works.
    pub async fn open(command: &DataPlaneCommand) -> Result<(Self, Greeting), LinkError> {
        let channel = match UnixStream::connect(socket_path(&command.keeper.run_dir)).await {
            Ok(stream) if is_of_another_build(&stream, command) => Ok(replace(stream, command).await?),
            Ok(stream) => stream.into_std().and_then(Channel::new),
            Err(_) => Ok(start(command)?),
        };
        let path = || socket_path(&command.keeper.run_dir);
        let channel =
            channel.and_then(AsyncChannel::new).map_err(|source| LinkError::Connect { path: path(), source })?;
        let mut link = Self { channel };
        match timeout(LONGEST_START, link.receive()).await.map_err(|_| LinkError::Silent)?? {
            Some(Report::Hello { version, takes_changes }) => Ok((link, Greeting { version, takes_changes })),
            Some(
                Report::Acknowledged { .. }
                | Report::Drains { .. }
                | Report::Traffic { .. }
                | Report::ProxyReplaced
                | Report::Trouble { .. },
            )
            | None => Err(LinkError::Ended),
        }
    }

    /// Sends a configuration. Its version must be higher than any before.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub async fn configure(&mut self, config: &DataPlaneConfig) -> Result<(), LinkError> {
        // Written as `Command::Configure` is, without a copy of the configuration.
        let frame = encode(&frames::Command::Configure(config));
        Ok(self.channel.send(frame, Vec::new()).await?)
    }

    /// Sends a change of the configuration that was sent last.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub async fn change(&mut self, change: Change) -> Result<(), LinkError> {
        let frame = encode(&frames::Command::<DataPlaneConfig>::Change(Box::new(change)));
        Ok(self.channel.send(frame, Vec::new()).await?)
    }

    /// Has the proxy replaced by one that is started anew; [`Report::ProxyReplaced`] says when it has taken over.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub async fn replace_proxy(&mut self) -> Result<(), LinkError> {
        let frame = encode(&frames::Command::<DataPlaneConfig>::ReplaceProxy);
        Ok(self.channel.send(frame, Vec::new()).await?)
    }

    /// The next report; None when the keeper is gone. Safe to cancel.
    ///
    /// # Errors
    /// When the keeper says what this engine does not understand.
    pub async fn receive(&mut self) -> Result<Option<Report>, LinkError> {
        match self.channel.receive().await? {
            Some(payload) => Ok(Some(decode(&payload)?)),
            None => Ok(None),
        }
    }
}

/// Ends the keeper and the proxy of a run directory, and every socket with them. Nothing to do where there are none.
///
/// # Errors
/// When something is there that does not end.
pub async fn shut_down(run_dir: &Path) -> Result<(), LinkError> {
    for path in [socket_path(run_dir), proxy_socket_path(run_dir)] {
        if let Ok(stream) = UnixStream::connect(&path).await {
            let end = finish(stream, path, frames::Command::ShutDown);
            timeout(LONGEST_SHUTDOWN, end).await.map_err(|_| LinkError::GoesOn)??;
        }
    }
    Ok(())
}

/// Gives the last command, and waits for the other side's end.
async fn finish(stream: UnixStream, path: PathBuf, command: frames::Command) -> Result<(), LinkError> {
    let channel = stream.into_std().and_then(Channel::new).and_then(AsyncChannel::new);
    let mut channel = channel.map_err(|source| LinkError::Connect { path, source })?;
    channel.send(encode(&command), Vec::new()).await?;
    // What it says on its way out does not matter, only that it goes.
    while let Ok(Some(_)) = channel.receive().await {}
    Ok(())
}

fn is_of_another_build(keeper: &UnixStream, command: &DataPlaneCommand) -> bool {
    let pid = keeper.peer_cred().ok().and_then(|credentials| credentials.pid());
    pid.is_some_and(|pid| runs_another_file(pid, &command.executable))
}

/// Has a keeper step aside, and starts another. Meanwhile the proxy goes on serving.
async fn replace(keeper: UnixStream, command: &DataPlaneCommand) -> Result<Channel, LinkError> {
    tracing::info!("the data plane is of another build and is replaced");
    let path = socket_path(&command.keeper.run_dir);
    let end = finish(keeper, path.clone(), frames::Command::StepAside);
    if let Ok(Ok(())) = timeout(LONGEST_SHUTDOWN, end).await {
        return start(command);
    }
    tracing::warn!("the keeper does not step aside, and goes on");
    let again = UnixStream::connect(&path).await.and_then(UnixStream::into_std).and_then(Channel::new);
    again.map_err(|source| LinkError::Connect { path, source })
}

fn start(command: &DataPlaneCommand) -> Result<Channel, LinkError> {
    let executable = || command.executable.clone();
    let (log, access_log) = (open_log(&command.log)?, open_log(&command.access_log)?);
    let (ours, theirs) = Channel::pair().map_err(|source| LinkError::Start { executable: executable(), source })?;
    let arguments = [OsString::from("keeper")].into_iter().chain(command.keeper.to_arguments());
    // Not ended with this process, and reaped by tokio if it ends earlier.
    Command::new(&command.executable)
        .args(arguments)
        .stdin(Stdio::from(theirs))
        .stdout(access_log)
        .stderr(log)
        .spawn()
        .map_err(|source| LinkError::Start { executable: executable(), source })?;
    Ok(ours)
}

fn open_log(path: &Path) -> Result<File, LinkError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LinkError::Log { path: path.to_owned(), source })
}
