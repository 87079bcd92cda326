//! What users run in containers (`kubectl exec`): a process with standard streams of its own, or a terminal.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::agent::Settings;
use crate::shim::client::{ShimClient, ShimError};
use crate::shim::protocol::{ContainerState, ExecResult, Status, Streams};

/// What is to be run, and which of its streams are wanted. A terminal takes the place of standard output and error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub terminal: bool,
}

/// A process that runs in a container. Whoever drops it closes its streams; the process goes on until it minds.
#[derive(Debug)]
pub struct Session {
    pub stdin: Option<pipe::Sender>,
    /// With a terminal, all that is shown on it.
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    pub terminal: Option<Terminal>,
    pub ended: Ended,
}

/// Becomes the process's exit code: 128 plus the signal when one ended it.
pub type Ended = oneshot::Receiver<Result<i32, ExecError>>;

/// The terminal of a session.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

/// Why a process could not be run in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("container not found ({0:?}): it does not run")]
    NotRunning(String),
    #[error("cannot make the standard streams of a process")]
    Streams(#[from] io::Error),
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// The ends of FIFOs that are not ours to use. While they are open, nothing that was written is lost, whoever opens
/// the other ends when.
struct Held {
    stdout: Option<File>,
    _stdin: Option<File>,
    _stderr: Option<File>,
    _directory: TempDir,
}

/// Runs a process in a container of a pod.
///
/// # Errors
/// When the container does not run, or the streams can't be made. That the command can't be run, `ended` says.
pub async fn start(settings: &Settings, pod: &Pod, container: &str, request: &Request) -> Result<Session, ExecError> {
    let run_dir = settings.pod_run_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let not_running = || ExecError::NotRunning(container.to_owned());
    let shim = ShimClient::connect(&run_dir.join("shim.sock")).await.map_err(|_| not_running())?;
    let state = shim.state().await?;
    let runs = |it: &&ContainerState| it.name == container && matches!(it.status, Status::Running { .. });
    let id = state.containers.iter().find(runs).ok_or_else(not_running)?.id.clone();
    let directory = tempfile::Builder::new().prefix("exec-").tempdir_in(&run_dir)?;
    let process = Process { shim, id, command: request.command.clone() };
    if request.terminal {
        process.with_terminal(directory, request.stdin).await
    } else {
        process.with_fifos(directory, request)
    }
}

impl Terminal {
    /// Tells the process how large the terminal is now.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.0, size)?)
    }
}

struct Process {
    shim: ShimClient,
    id: String,
    command: Vec<String>,
}

impl Process {
    fn with_fifos(self, directory: TempDir, request: &Request) -> Result<Session, ExecError> {
        let path = |is_wanted: bool, name: &str| is_wanted.then(|| directory.path().join(name));
        let (stdin, stdout, stderr) =
            (path(request.stdin, "stdin"), path(request.stdout, "stdout"), path(request.stderr, "stderr"));
        let outwards = |path: &Option<PathBuf>| path.as_deref().map(outward_fifo).transpose();
        let (input, held_input) = stdin.as_deref().map(inward_fifo).transpose()?.unzip();
        let (output, held_output) = outwards(&stdout)?.unzip();
        let (errors, held_errors) = outwards(&stderr)?.unzip();
        let held = Held { stdout: held_output, _stdin: held_input, _stderr: held_errors, _directory: directory };
        let ended = self.run(Streams::Fifos { stdin, stdout, stderr }, held);
        Ok(Session { stdin: input, stdout: output, stderr: errors, terminal: None, ended })
    }

    async fn with_terminal(self, directory: TempDir, takes_input: bool) -> Result<Session, ExecError> {
        let socket = directory.path().join("terminal");
        let listener = UnixListener::bind(&socket)?;
        let held = Held { stdout: None, _stdin: None, _stderr: None, _directory: directory };
        let mut ended = self.run(Streams::Terminal { socket }, held);
        let terminal = tokio::select! {
            biased;
            terminal = receive_terminal(&listener) => terminal?,
            // It could not be run, or was run by a shim that knows nothing of terminals.
            early = &mut ended => return Ok(over(early)),
        };
        rustix::io::ioctl_fionbio(&terminal, true).map_err(io::Error::from)?;
        let stdin = takes_input.then(|| pipe::Sender::from_owned_fd_unchecked(terminal.try_clone()?)).transpose()?;
        let stdout = Some(pipe::Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?);
        Ok(Session { stdin, stdout, stderr: None, terminal: Some(Terminal(terminal)), ended })
    }

    fn run(self, streams: Streams, mut held: Held) -> Ended {
        let (tell, ended) = oneshot::channel();
        tokio::spawn(async move {
            let answer = self.shim.exec(&self.id, self.command, None, Some(streams)).await;
            if let Ok(result) = &answer {
                held.write_answered(result);
            }
            drop(held);
            // Whoever has gone needs no answer.
            let _ = tell.send(answer.map(|result| result.exit_code).map_err(ExecError::from));
        });
        ended
    }
}

impl Held {
    /// A shim of an earlier version knows no streams and answers the output. It is less than a FIFO holds.
    fn write_answered(&mut self, result: &ExecResult) {
        if let Some(stdout) = &mut self.stdout {
            // Whoever has gone needs no output.
            let _ = stdout.write_all(result.output.as_bytes());
        }
    }
}

/// What came of a session before it had streams.
fn over(early: Result<Result<i32, ExecError>, oneshot::error::RecvError>) -> Session {
    let (tell, ended) = oneshot::channel();
    let early = early.unwrap_or(Err(ExecError::Shim(ShimError::Gone)));
    // The receiver is held right here.
    let _ = tell.send(early);
    Session { stdin: None, stdout: None, stderr: None, terminal: None, ended }
}

/// Our end, and one that is held open.
fn inward_fifo(path: &Path) -> io::Result<(pipe::Sender, File)> {
    make_fifo(path)?;
    let held = open(path, File::options().read(true))?;
    Ok((pipe::OpenOptions::new().open_sender(path)?, held))
}

/// Our end, and one that is held open.
fn outward_fifo(path: &Path) -> io::Result<(pipe::Receiver, File)> {
    make_fifo(path)?;
    let receiver = pipe::OpenOptions::new().open_receiver(path)?;
    Ok((receiver, open(path, File::options().write(true))?))
}

fn make_fifo(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

fn open(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

async fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    stream.async_io(Interest::READABLE, || receive_descriptor(stream.as_fd())).await
}

fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 256];
    let mut buffers = [io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        RecvAncillaryMessage::ScmCredentials(_) | _ => None,
    });
    rights.ok_or_else(|| io::Error::other("a terminal was announced and did not come"))
}
