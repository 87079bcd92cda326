//! The keeper: holds every socket of the data plane, so that no connection is refused while a proxy or an engine is
//! replaced. It never reads a byte of a client, and of a configuration only which sockets are wanted.

mod listeners;
mod process;
mod settings;

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::channel::{Channel, ChannelError, DESCRIPTORS_PER_FRAME};
use crate::config::Listener;
use crate::frames::{Command, KeeperView, Passed, Report, decode, encode, encode_payload};
use listeners::Listeners;
pub use process::ProxyUser;
use process::{Proxy, adopt, wait_for_input};
pub use settings::KeeperSettings;

/// A proxy that lived shorter than this died of its start.
const INSTANT_DEATH: Duration = Duration::from_secs(1);
/// The pause after the first instant death; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// 10 ms doubled 7 times: 1.28 s between starts of a proxy that can't live.
const MOST_DOUBLINGS: u32 = 7;
/// How long a proxy may take to end by itself when it is told to.
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    #[error("the keeper does not know the argument {argument:?}; it takes --run-dir PATH and --proxy-user UID:GID")]
    Argument { argument: OsString },
    #[error("the keeper needs --run-dir PATH")]
    NoRunDirectory,
    #[error("another keeper holds {path:?}")]
    AnotherKeeper { path: PathBuf },
    #[error("can't open {path:?}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("waiting for the sockets failed")]
    Poll {
        #[source]
        source: io::Error,
    },
    #[error("can't talk to the proxy that is alive")]
    Adopt {
        #[source]
        source: io::Error,
    },
    #[error("the proxy that is alive does not hand its sockets over")]
    StuckProxy,
    #[error("the proxy that is alive handed over only a part of what it has")]
    HalfAHandover,
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Where a run directory's sockets are.
#[must_use]
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("keeper.sock")
}

/// Where the proxy answers a keeper that was started anew.
#[must_use]
pub fn proxy_socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("proxy.sock")
}

/// Runs the keeper until it is told to shut down. An engine that started it has given it a connection as standard
/// input; later engines connect to `keeper.sock`.
///
/// # Errors
/// When it can't start: wrong arguments, another keeper, a run directory it can't use, a proxy that is stuck.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), KeeperError> {
    let settings = KeeperSettings::parse(arguments)?;
    leave_the_terminal();
    allow_many_descriptors();
    Keeper::start(settings)?.serve()
}

fn leave_the_terminal() {
    // Fails only where the process leads a session or a group already; then no terminal's signal is meant for it.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
}

fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Keeper {
    settings: KeeperSettings,
    engines: UnixListener,
    adoption: OwnedFd,
    proxy: Option<Proxy>,
    listeners: Listeners,
    /// The payload of the last `Configure` frame, and its version.
    configured: Option<(Vec<u8>, u64)>,
    instant_deaths: u32,
    start_proxy_at: Instant,
    /// Held for as long as the process lives, so that there is one keeper.
    _lock: File,
    /// Closed last: its end tells whoever shut the keeper down that everything above is closed.
    engine: Option<Channel>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Life {
    GoOn,
    End,
}

impl Keeper {
    fn start(settings: KeeperSettings) -> Result<Self, KeeperError> {
        let lock = take_lock(&settings.run_dir)?;
        let adopted = adopt(&proxy_socket_path(&settings.run_dir))?;
        let (proxy, adoption, passed, configured) = match adopted {
            Some(adopted) => (Some(adopted.proxy), adopted.adoption, adopted.listeners, adopted.configured),
            None => (None, bind(&proxy_socket_path(&settings.run_dir))?.into(), Vec::new(), None),
        };
        let mut listeners = Listeners::default();
        for (listener, socket) in passed {
            listeners.insert(listener, socket);
        }
        let mut keeper = Self {
            engines: bind(&socket_path(&settings.run_dir))?,
            settings,
            adoption,
            proxy,
            listeners,
            configured,
            instant_deaths: 0,
            start_proxy_at: Instant::now(),
            _lock: lock,
            engine: None,
        };
        if let Some(engine) = engine_on_standard_input() {
            keeper.greet(engine);
        }
        Ok(keeper)
    }

    fn serve(&mut self) -> Result<(), KeeperError> {
        loop {
            if self.proxy.is_none() && self.start_proxy_at <= Instant::now() {
                self.start_proxy();
            }
            self.flush();
            self.wait().map_err(|source| KeeperError::Poll { source })?;
            self.accept_engine();
            self.read_proxy();
            if self.read_engine() == Life::End {
                self.shut_down();
                return Ok(());
            }
        }
    }

    /// Sleeps until anything can be read or written, or the proxy is to be started again.
    fn wait(&self) -> io::Result<()> {
        let mut polled = vec![PollFd::new(&self.engines, PollFlags::IN)];
        let channels = self.engine.iter().chain(self.proxy.iter().map(|proxy| &proxy.channel));
        polled.extend(channels.map(|channel| {
            let writable = if channel.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN | writable)
        }));
        let pause = self.start_proxy_at.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        match poll(&mut polled, self.proxy.is_none().then_some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept_engine(&mut self) {
        match self.engines.accept() {
            Ok((stream, _)) => match Channel::new(stream) {
                Ok(channel) => self.greet(channel),
                Err(error) => tracing::warn!("can't talk to an engine: {error}"),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!("can't take an engine's connection: {error}"),
        }
    }

    /// The newest engine is the one that counts; an older one is dropped.
    fn greet(&mut self, engine: Channel) {
        self.engine = Some(engine);
        let version = self.configured.as_ref().map_or(0, |(_, version)| *version);
        self.report(&Report::Hello { version });
    }

    fn read_engine(&mut self) -> Life {
        let Some(engine) = &mut self.engine else { return Life::GoOn };
        let received = engine.fill();
        loop {
            let Some(engine) = &mut self.engine else { return Life::GoOn };
            match engine.next_payload() {
                Ok(Some(payload)) => {
                    if self.obey(payload) == Life::End {
                        return Life::End;
                    }
                }
                Ok(None) if received.is_ok() && !engine.is_closed() => return Life::GoOn,
                Ok(None) => {
                    self.engine = None;
                }
                Err(error) => {
                    tracing::warn!("an engine's message is refused: {error}");
                    self.engine = None;
                }
            }
        }
    }

    fn obey(&mut self, payload: Vec<u8>) -> Life {
        match decode::<Command<KeeperView>>(&payload) {
            Ok(Command::Configure(view)) => self.configure(payload, &view),
            Ok(Command::ShutDown) => return Life::End,
            Ok(Command::Take(_)) => tracing::warn!("an engine has no sockets to give"),
            Err(error) => {
                tracing::warn!("an engine's message is refused: {error}");
                self.report(&Report::Trouble { sentence: error.to_string() });
            }
        }
        Life::GoOn
    }

    fn configure(&mut self, payload: Vec<u8>, view: &KeeperView) {
        let last = self.configured.as_ref().map_or(0, |(_, version)| *version);
        if view.version <= last {
            tracing::warn!("configuration {} came after {last} and is refused", view.version);
            return self.report(&Report::Hello { version: last });
        }
        let opened = self.listeners.open_and_close(&view.listen);
        let frame = encode_payload(&payload);
        self.configured = Some((payload, view.version));
        if self.proxy.is_some() {
            self.pass_on(&opened);
            self.tell_proxy(frame, Vec::new());
        }
    }

    fn start_proxy(&mut self) {
        match Proxy::start(self.settings.proxy_user) {
            Ok(proxy) => {
                self.proxy = Some(proxy);
                self.equip_proxy();
            }
            Err(error) => {
                self.report(&Report::Trouble { sentence: format!("the proxy can't be started: {error}") });
                self.pause_after_instant_death();
            }
        }
    }

    fn equip_proxy(&mut self) {
        match self.adoption.try_clone() {
            Ok(adoption) => {
                self.tell_proxy(encode(&Command::<KeeperView>::Take(vec![Passed::Adoption])), vec![adoption])
            }
            Err(error) => tracing::warn!("can't copy the adoption socket: {error}"),
        }
        self.pass_on(&self.listeners.all());
        if let Some((payload, _)) = &self.configured {
            let frame = encode_payload(payload);
            self.tell_proxy(frame, Vec::new());
        }
    }

    fn pass_on(&mut self, listeners: &[Listener]) {
        for some in listeners.chunks(DESCRIPTORS_PER_FRAME) {
            let names = some.iter().map(|listener| Passed::Listener(*listener)).collect();
            match self.listeners.copies(some) {
                Ok(sockets) => self.tell_proxy(encode(&Command::<KeeperView>::Take(names)), sockets),
                Err(error) => self.report(&Report::Trouble { sentence: format!("can't copy a socket: {error}") }),
            }
        }
    }

    fn tell_proxy(&mut self, frame: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let Some(proxy) = &mut self.proxy else { return };
        if let Err(error) = proxy.channel.enqueue(frame, descriptors) {
            self.replace_proxy(&error.to_string());
        }
    }

    fn read_proxy(&mut self) {
        let Some(proxy) = &mut self.proxy else { return };
        let received = proxy.channel.fill();
        loop {
            let Some(proxy) = &mut self.proxy else { return };
            match proxy.channel.next_payload() {
                Ok(Some(payload)) => self.relay(&payload),
                Ok(None) if received.is_ok() && !proxy.channel.is_closed() => return,
                Ok(None) => self.replace_proxy("it ended"),
                Err(error) => self.replace_proxy(&error.to_string()),
            }
        }
    }

    fn relay(&mut self, payload: &[u8]) {
        match decode::<Report>(payload) {
            Ok(Report::Acknowledged { version, .. }) => {
                let refused = self.listeners.refused().to_vec();
                self.report(&Report::Acknowledged { version, refused });
            }
            Ok(report @ (Report::Drains { .. } | Report::Trouble { .. } | Report::Hello { .. })) => {
                self.report(&report)
            }
            Err(error) => self.replace_proxy(&error.to_string()),
        }
    }

    fn replace_proxy(&mut self, reason: &str) {
        let Some(proxy) = self.proxy.take() else { return };
        tracing::warn!("the proxy is replaced: {reason}");
        let lived = proxy.started.elapsed();
        proxy.end();
        if lived < INSTANT_DEATH {
            self.report(&Report::Trouble { sentence: format!("the proxy ended {lived:?} after its start") });
            self.pause_after_instant_death();
        } else {
            self.instant_deaths = 0;
            self.start_proxy_at = Instant::now();
        }
    }

    /// The first instant death is answered at once: somebody may have killed it.
    fn pause_after_instant_death(&mut self) {
        let pause = match self.instant_deaths {
            0 => Duration::ZERO,
            deaths => FIRST_PAUSE * 2_u32.pow((deaths - 1).min(MOST_DOUBLINGS)),
        };
        self.instant_deaths += 1;
        self.start_proxy_at = Instant::now() + pause;
    }

    fn report(&mut self, report: &Report) {
        let Some(engine) = &mut self.engine else { return };
        if let Err(error) = engine.enqueue(encode(report), Vec::new()) {
            tracing::warn!("the engine is dropped: {error}");
            self.engine = None;
        }
    }

    fn flush(&mut self) {
        if let Some(Err(error)) = self.engine.as_mut().map(Channel::flush) {
            tracing::debug!("the engine is gone: {error}");
            self.engine = None;
        }
        if let Some(Err(error)) = self.proxy.as_mut().map(|proxy| proxy.channel.flush()) {
            self.replace_proxy(&error.to_string());
        }
    }

    fn shut_down(&mut self) {
        self.tell_proxy(encode(&Command::<KeeperView>::ShutDown), Vec::new());
        self.flush();
        if let Some(mut proxy) = self.proxy.take() {
            let deadline = Instant::now() + LONGEST_SHUTDOWN;
            while !proxy.channel.is_closed() && Instant::now() < deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if wait_for_input(&proxy.channel, left).and(Ok(proxy.channel.fill())).is_err() {
                    break;
                }
            }
            proxy.end();
        }
        for path in [socket_path(&self.settings.run_dir), proxy_socket_path(&self.settings.run_dir)] {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn take_lock(run_dir: &Path) -> Result<File, KeeperError> {
    let path = run_dir.join("keeper.lock");
    let lock = File::create(&path).map_err(|source| KeeperError::Open { path: path.clone(), source })?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(_) => Err(KeeperError::AnotherKeeper { path }),
    }
}

/// Binds a socket for this user only. The lock is held, so whatever has the name is a leftover.
fn bind(path: &Path) -> Result<UnixListener, KeeperError> {
    let open = || {
        if path.exists() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source| KeeperError::Open { path: path.to_owned(), source })
}

fn engine_on_standard_input() -> Option<Channel> {
    let standard_input = io::stdin();
    rustix::net::sockopt::socket_type(&standard_input).ok()?;
    Channel::new(standard_input.as_fd().try_clone_to_owned().ok()?).ok()
}
