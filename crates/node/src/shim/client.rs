//! The engine's side of a shim: starts it, speaks with it, hears of changes, and notices when it has gone.
//! Dropping a client ends nothing but the connection.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::process::Command;
use tokio::sync::{broadcast, oneshot, watch};

use super::options::{Options, Sharing};
use super::protocol::{
    self, Answer, Call, Decoder, Event, ExecRequest, ExecResult, Failure, PodState, ProtocolError, Request, Said,
    Streams,
};
use super::sandbox::READY;
use crate::cgroups::Limits;
use crate::container::ContainerConfig;

/// A shim that isn't ready by then never will be; it takes milliseconds.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Events that a slow listener may be behind before it has to ask for the whole state.
const EVENTS_KEPT: usize = 256;

/// What a shim is started with. All directories must exist; the pod's own are private to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimConfig {
    /// Segue's own program, and what makes a shim of it: `/proc/self/exe` and `shim`.
    pub executable: PathBuf,
    pub leading_args: Vec<OsString>,
    pub pod_uid: String,
    /// The pod's hostname, at most 63 characters.
    pub hostname: String,
    pub socket: PathBuf,
    pub pid_file: PathBuf,
    /// Where the shim puts containers together; on the run directory's file system. Made when missing.
    pub bundle_dir: PathBuf,
    /// What the shim itself has to say; appended to.
    pub log_file: PathBuf,
    /// `/segue-<instance>/pod<uid>`.
    pub cgroup: String,
    /// Limits of the pod as a whole: sums, when every container has one.
    pub limits: Limits,
    pub sharing: Sharing,
}

/// Why a shim could not be started, reached or asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("cannot open the shim's log {path:?}")]
    OpenLog {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the shim of pod {pod_uid} from {executable:?}")]
    Spawn {
        pod_uid: String,
        executable: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the shim of pod {pod_uid} could not set itself up: {reason}")]
    NotReady { pod_uid: String, reason: String },
    #[error("cannot connect to the shim at {socket:?}")]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the shim has gone")]
    Gone,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The shim said no.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("the shim gave an answer to another question")]
    WrongAnswer,
}

/// A connection to a pod's shim. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct ShimClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pid: i32,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    next_call: AtomicU64,
    /// None once the shim has gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    events: broadcast::Sender<Event>,
    gone: watch::Sender<bool>,
}

impl ShimClient {
    /// Starts a shim in a session of its own, waits until it listens, and connects. It isn't ended with this process.
    pub async fn spawn(config: &ShimConfig) -> Result<Self, ShimError> {
        let not_spawned = |source| ShimError::Spawn {
            pod_uid: config.pod_uid.clone(),
            executable: config.executable.clone(),
            source,
        };
        let (ready, ready_end) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| not_spawned(errno.into()))?;
        let log = open_log(&config.log_file)?;
        let error_log = log.try_clone().map_err(not_spawned)?;
        let mut child = Command::new(&config.executable)
            .args(&config.leading_args)
            .args(options(config).to_args())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(ready_end))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(error_log))
            .spawn()
            .map_err(not_spawned)?;
        // Reaps it should it end while this process lives; otherwise init does.
        tokio::spawn(async move { child.wait().await });
        await_ready(ready, &config.pod_uid).await?;
        Self::connect(&config.socket).await
    }

    /// Connects to a shim that was started before, by this engine or an earlier one.
    pub async fn connect(socket: &Path) -> Result<Self, ShimError> {
        let failed = |source| ShimError::Connect { socket: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).await.map_err(failed)?;
        let pid = stream.peer_cred().map_err(failed)?.pid().ok_or(ShimError::Gone)?;
        let (reader, writer) = stream.into_split();
        let shared = Arc::new(Shared {
            pid,
            writer: tokio::sync::Mutex::new(writer),
            next_call: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            events: broadcast::channel(EVENTS_KEPT).0,
            gone: watch::channel(false).0,
        });
        tokio::spawn(listen(reader, Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    /// The shim's pid. Never to be signalled by number: see `pidfd`.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// The pod's network namespace, for as long as the shim lives.
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.shared.pid))
    }

    /// Changes of containers from now on. A listener that lags asks for `state`.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Returns when the shim has gone, and its containers with it, or the connection is broken.
    pub async fn gone(&self) {
        let mut gone = self.shared.gone.subscribe();
        // An error would mean that the sender is dropped, but `self` holds it.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Creates a container, whose process waits to be started. Returns its pid.
    pub async fn create(&self, config: ContainerConfig) -> Result<i32, ShimError> {
        let Answer::Created { pid } = self.ask(Request::Create(Box::new(config))).await? else {
            return Err(ShimError::WrongAnswer);
        };
        Ok(pid)
    }

    /// Lets a container's process go. Returns when its program runs.
    pub async fn start(&self, container: &str) -> Result<(), ShimError> {
        self.ask_done(Request::Start { container: container.to_owned() }).await
    }

    /// Signals a container's first process: a name or number, or its stop signal when None.
    pub async fn signal(&self, container: &str, signal: Option<&str>) -> Result<(), ShimError> {
        let (container, signal) = (container.to_owned(), signal.map(str::to_owned));
        self.ask_done(Request::Signal { container, signal }).await
    }

    /// Sends SIGKILL to every container.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        self.ask_done(Request::KillAll).await
    }

    /// Ends what is left of a container, with its mounts and cgroup, and forgets it.
    pub async fn remove(&self, container: &str) -> Result<(), ShimError> {
        self.ask_done(Request::Remove { container: container.to_owned() }).await
    }

    /// Runs a process in a running container and waits for its end; it is killed when `timeout` is over. Where its
    /// standard streams lead somewhere, its output is not in the answer.
    pub async fn exec(
        &self,
        container: &str,
        args: Vec<String>,
        timeout: Option<Duration>,
        streams: Option<Streams>,
    ) -> Result<ExecResult, ShimError> {
        let timeout_ms = timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let request = ExecRequest { container: container.to_owned(), args, timeout_ms, streams };
        let Answer::Exec(result) = self.ask(Request::Exec(request)).await? else {
            return Err(ShimError::WrongAnswer);
        };
        Ok(result)
    }

    pub async fn state(&self) -> Result<PodState, ShimError> {
        let Answer::State(state) = self.ask(Request::State).await? else {
            return Err(ShimError::WrongAnswer);
        };
        Ok(state)
    }

    /// Opens the log files anew, after they were moved.
    pub async fn reopen_logs(&self) -> Result<(), ShimError> {
        self.ask_done(Request::ReopenLogs).await
    }

    /// Kills what is left, removes the pod's cgroup and ends the shim; `gone` follows.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        self.ask_done(Request::Shutdown).await
    }

    async fn ask_done(&self, request: Request) -> Result<(), ShimError> {
        let Answer::Done = self.ask(request).await? else {
            return Err(ShimError::WrongAnswer);
        };
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<Answer, ShimError> {
        let id = self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        let frame = protocol::encode(Call { id, request })?;
        let (answer, answered) = oneshot::channel();
        self.shared.with_waiting(|waiting| waiting.insert(id, answer)).ok_or(ShimError::Gone)?;
        let sent = self.shared.writer.lock().await.write_all(&frame).await;
        sent.map_err(|_| ShimError::Gone)?;
        let answer = answered.await.map_err(|_| ShimError::Gone)?;
        if let Answer::Failed(failure) = answer { Err(failure.into()) } else { Ok(answer) }
    }
}

impl Shared {
    /// None when the shim has gone.
    fn with_waiting<T>(&self, act: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Answer>>) -> T) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.as_mut().map(act)
    }

    fn hear(&self, said: Said) {
        match said {
            Said::Answer { id, answer } => {
                let asked = self.with_waiting(|waiting| waiting.remove(&id)).flatten();
                // Whoever asked may have stopped waiting.
                let _ = asked.map(|asked| asked.send(answer));
            }
            // Nobody may be listening.
            Said::Event(event) => drop(self.events.send(event)),
        }
    }

    fn end(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.gone.send_replace(true);
    }
}

/// Hears the shim until it is gone, or until the last client is dropped.
async fn listen(mut reader: OwnedReadHalf, shared: std::sync::Weak<Shared>) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = reader.read(&mut buffer).await.unwrap_or(0);
        let Some(shared) = shared.upgrade() else { return };
        if length == 0 {
            return shared.end();
        }
        decoder.push(buffer.get(..length).unwrap_or_default());
        if let Err(error) = hear_all(&mut decoder, &shared) {
            tracing::warn!(pid = shared.pid, %error, "a shim can't be understood any more");
            return shared.end();
        }
    }
}

fn hear_all(decoder: &mut Decoder, shared: &Shared) -> Result<(), ProtocolError> {
    while let Some(json) = decoder.next_frame()? {
        shared.hear(protocol::decode(&json)?);
    }
    Ok(())
}

async fn await_ready(ready: std::os::fd::OwnedFd, pod_uid: &str) -> Result<(), ShimError> {
    let not_ready = |reason: String| ShimError::NotReady { pod_uid: pod_uid.to_owned(), reason };
    let mut said = String::new();
    let read = async { pipe::Receiver::from_owned_fd(ready)?.read_to_string(&mut said).await };
    match tokio::time::timeout(READY_DEADLINE, read).await {
        Err(_) => Err(not_ready(format!("it said nothing for {READY_DEADLINE:?}"))),
        Ok(Err(error)) => Err(not_ready(error.to_string())),
        Ok(Ok(_)) if said == READY => Ok(()),
        Ok(Ok(0)) => Err(not_ready("it ended; its log may say why".to_owned())),
        Ok(Ok(_)) => Err(not_ready(said)),
    }
}

fn options(config: &ShimConfig) -> Options {
    Options {
        pod_uid: config.pod_uid.clone(),
        hostname: config.hostname.clone(),
        socket: config.socket.clone(),
        pid_file: config.pid_file.clone(),
        bundle_dir: config.bundle_dir.clone(),
        cgroup: config.cgroup.clone(),
        limits: config.limits.clone(),
        sharing: config.sharing.clone(),
    }
}

fn open_log(path: &Path) -> Result<std::fs::File, ShimError> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|source| ShimError::OpenLog { path: path.to_owned(), source })
}
