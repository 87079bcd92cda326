//! The keeper: holds every socket of the data plane, so that no connection is refused while a proxy or an engine is
//! replaced. It never reads a byte of a client. Of a configuration it reads which sockets are wanted, and the
//! rest only to make one whole of changes.

mod configured;
mod listeners;
mod process;
mod settings;

use std::collections::BTreeMap;
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
use crate::config::{Applied, Change, Listener, PodUid};
use crate::frames::{Command, Drain, FrameError, KeeperView, Passed, Report, decode, encode, encode_payload};
use configured::Configured;
use listeners::Listeners;
pub use process::ProxyUser;
pub(crate) use process::runs_another_file;
use process::{Adopted, Proxy, adopt, wait_for_input};
pub use settings::KeeperSettings;

/// A proxy that lived shorter than this died of its start.
const INSTANT_DEATH: Duration = Duration::from_secs(1);
/// The pause after the first instant death; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// 10 ms doubled 7 times: 1.28 s between starts of a proxy that can't live.
const MOST_DOUBLINGS: u32 = 7;
/// How long a successor may take to begin; meanwhile nothing is acknowledged without it.
const LONGEST_SUCCESSION: Duration = Duration::from_secs(10);
/// Proxies at one time that finish their connections.
const MOST_LEAVING: usize = 6;
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

/// Allows this process as many open files as it may have.
pub fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

struct Keeper {
    settings: KeeperSettings,
    engines: UnixListener,
    adoption: OwnedFd,
    /// The one that takes connections.
    proxy: Option<Proxy>,
    /// Started to take its place as soon as it has acknowledged.
    successor: Option<Proxy>,
    /// Predecessors that finish their connections.
    leaving: Vec<Proxy>,
    listeners: Listeners,
    configured: Option<Configured>,
    instant_deaths: u32,
    start_proxy_at: Instant,
    /// Held for as long as the process lives, so that there is one keeper.
    _lock: File,
    /// Closed last: its end tells whoever shut the keeper down that everything above is closed.
    engine: Option<Channel>,
}

/// The place that a proxy has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Present,
    Successor,
    /// One of those that finish their connections.
    Leaving(usize),
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Life {
    GoOn,
    /// End, and leave everything to another keeper.
    StepAside,
    End,
}

impl Keeper {
    fn start(settings: KeeperSettings) -> Result<Self, KeeperError> {
        let lock = take_lock(&settings.run_dir)?;
        let adopted = adopt(&proxy_socket_path(&settings.run_dir))?;
        let Adopted { proxy, adoption, leaving, listeners: passed, configured } = match adopted {
            Some(adopted) => adopted,
            None => Adopted::nothing(bind(&proxy_socket_path(&settings.run_dir))?.into()),
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
            successor: None,
            leaving,
            listeners,
            configured,
            instant_deaths: 0,
            start_proxy_at: Instant::now(),
            _lock: lock,
            engine: None,
        };
        // They say again what is in force in them, and what they still do.
        keeper.remind_those_who_leave();
        if let Some(engine) = engine_on_standard_input() {
            keeper.greet(engine);
        }
        if keeper.proxy.as_ref().is_some_and(Proxy::is_of_another_build) {
            tracing::info!("the proxy is of another build and is replaced");
            keeper.start_successor();
        }
        Ok(keeper)
    }

    fn serve(&mut self) -> Result<(), KeeperError> {
        loop {
            if self.proxy.is_none() && self.start_proxy_at <= Instant::now() {
                self.start_proxy();
            }
            if self.successor.as_ref().is_some_and(|successor| successor.started.elapsed() >= LONGEST_SUCCESSION) {
                self.lose(Role::Successor, "it took too long to begin");
            }
            self.flush();
            self.wait().map_err(|source| KeeperError::Poll { source })?;
            self.accept_engine();
            self.read_proxies();
            match self.read_engine() {
                Life::GoOn => {}
                Life::StepAside => {
                    // Dropped, their channels would close, also for the keeper that comes.
                    self.leaving.drain(..).for_each(std::mem::forget);
                    return Ok(());
                }
                Life::End => {
                    self.shut_down();
                    return Ok(());
                }
            }
        }
    }

    /// Sleeps until anything can be read or written, or the proxy is to be started again.
    fn wait(&self) -> io::Result<()> {
        let mut polled = vec![PollFd::new(&self.engines, PollFlags::IN)];
        let channels = self.engine.iter().chain(self.proxies().map(|proxy| &proxy.channel));
        polled.extend(channels.map(|channel| {
            let writable = if channel.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN | writable)
        }));
        let succession_ends = self.successor.as_ref().map(|successor| successor.started + LONGEST_SUCCESSION);
        let wake = succession_ends.into_iter().chain(self.proxy.is_none().then_some(self.start_proxy_at)).min();
        let timeout = wake.map(|wake| {
            let pause = wake.saturating_duration_since(Instant::now());
            Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() }
        });
        match poll(&mut polled, timeout.as_ref()) {
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
        self.say_hello();
    }

    fn version(&self) -> u64 {
        self.configured.as_ref().map_or(0, |configured| configured.version)
    }

    /// What an engine answers with a whole configuration.
    fn say_hello(&mut self) {
        self.report(&Report::Hello { version: self.version(), takes_changes: true });
    }

    fn read_engine(&mut self) -> Life {
        let Some(engine) = &mut self.engine else { return Life::GoOn };
        let received = engine.fill();
        loop {
            let Some(engine) = &mut self.engine else { return Life::GoOn };
            match engine.next_payload() {
                Ok(Some(payload)) => {
                    let life = self.obey(payload);
                    if life != Life::GoOn {
                        return life;
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
            Ok(Command::Configure(view)) => self.configure(&payload, &view),
            Ok(Command::Change(change)) => self.change(&payload, *change),
            Ok(Command::ShutDown) => return Life::End,
            Ok(Command::StepAside) => return Life::StepAside,
            Ok(Command::ReplaceProxy) => self.start_successor(),
            Ok(Command::Take(_) | Command::Leave) => tracing::warn!("an engine has nothing to say to a proxy"),
            Err(error) => {
                tracing::warn!("an engine's message is refused: {error}");
                self.report(&Report::Trouble { sentence: error.to_string() });
            }
        }
        Life::GoOn
    }

    fn configure(&mut self, payload: &[u8], view: &KeeperView) {
        let last = self.version();
        if view.version <= last {
            tracing::warn!("configuration {} came after {last} and is refused", view.version);
            return self.say_hello();
        }
        let opened = self.listeners.open_and_close(&view.listen);
        self.configured = Some(Configured::new(payload, view.version));
        for role in [Role::Present, Role::Successor] {
            self.pass_on(role, &opened);
        }
        self.tell_all(&encode_payload(payload));
    }

    fn change(&mut self, payload: &[u8], change: Change) {
        let (opened, closed, version) = (change.opened.clone(), change.closed.clone(), change.version);
        let applied = self.configured.as_mut().map(|configured| configured.change(change, payload.len()));
        if applied != Some(Applied::Yes) {
            tracing::warn!("change {version} is not one of configuration {} and is refused", self.version());
            return self.say_hello();
        }
        let opened = self.listeners.change(&opened, &closed);
        for role in [Role::Present, Role::Successor] {
            self.pass_on(role, &opened);
        }
        let frame = encode_payload(payload);
        for role in self.roles().into_iter().rev() {
            if self.proxy_in(role).is_some_and(|proxy| proxy.takes_changes) {
                self.tell(role, frame.clone(), Vec::new());
            } else {
                self.tell_everything(role);
            }
        }
    }

    fn tell_everything(&mut self, role: Role) {
        match self.configured.as_mut().map(Configured::frame) {
            None => {}
            Some(Ok(frame)) => self.tell(role, frame, Vec::new()),
            Some(Err(error)) => {
                tracing::warn!("the configuration is asked for anew: {error}");
                self.say_hello();
            }
        }
    }

    fn start_proxy(&mut self) {
        match Proxy::start(self.settings.proxy_user) {
            Ok(proxy) => {
                self.proxy = Some(proxy);
                self.equip(Role::Present);
                self.hand_over_adoption();
            }
            Err(error) => {
                self.report(&Report::Trouble { sentence: format!("the proxy can't be started: {error}") });
                self.pause_after_instant_death();
            }
        }
    }

    /// Starts a proxy that serves the same sockets; once it does, the present one leaves. A keeper that comes
    /// meanwhile finds the present one, so the successor is not given the socket for that yet.
    fn start_successor(&mut self) {
        if self.successor.is_some() || self.proxy.is_none() {
            return;
        }
        if self.leaving.len() >= MOST_LEAVING {
            let sentence = format!("{MOST_LEAVING} proxies that were replaced still finish their connections");
            return self.report(&Report::Trouble { sentence });
        }
        match Proxy::start(self.settings.proxy_user) {
            Ok(proxy) => {
                self.successor = Some(proxy);
                self.equip(Role::Successor);
                self.succeed_if_acknowledged();
            }
            Err(error) => self.report(&Report::Trouble { sentence: format!("the proxy can't be started: {error}") }),
        }
    }

    fn remind_those_who_leave(&mut self) {
        for place in (0..self.leaving.len()).rev() {
            self.tell_everything(Role::Leaving(place));
        }
    }

    fn succeed_if_acknowledged(&mut self) {
        let wanted = self.version();
        let Some(successor) = self.successor.take_if(|successor| successor.acknowledged >= wanted) else { return };
        if let Some(mut predecessor) = self.proxy.replace(successor) {
            let told = predecessor.channel.enqueue(encode(&Command::<KeeperView>::Leave), Vec::new());
            match told.and_then(|()| predecessor.channel.flush()) {
                Ok(_) => self.leaving.push(predecessor),
                Err(error) => {
                    tracing::warn!("the proxy that was to leave is gone: {error}");
                    predecessor.end();
                }
            }
        }
        self.hand_over_adoption();
        self.report(&Report::ProxyReplaced);
    }

    fn equip(&mut self, role: Role) {
        self.pass_on(role, &self.listeners.all());
        self.tell_everything(role);
    }

    fn hand_over_adoption(&mut self) {
        match self.copies_for_another_keeper() {
            Ok((names, copies)) => {
                self.tell(Role::Present, encode(&Command::<KeeperView>::Take(names)), copies);
                // At once: a proxy without this socket is found by no other keeper.
                self.flush();
            }
            Err(error) => tracing::warn!("can't copy what another keeper will need: {error}"),
        }
    }

    /// What the present proxy keeps for a keeper that comes after this one.
    fn copies_for_another_keeper(&self) -> io::Result<(Vec<Passed>, Vec<OwnedFd>)> {
        let (mut names, mut copies) = (vec![Passed::Adoption], vec![self.adoption.try_clone()?]);
        for proxy in &self.leaving {
            names.extend([Passed::LeavingChannel, Passed::LeavingProcess]);
            copies.extend(proxy.copies()?);
        }
        Ok((names, copies))
    }

    fn pass_on(&mut self, role: Role, listeners: &[Listener]) {
        for some in listeners.chunks(DESCRIPTORS_PER_FRAME) {
            let names = some.iter().map(|listener| Passed::Listener(*listener)).collect();
            match self.listeners.copies(some) {
                Ok(sockets) => self.tell(role, encode(&Command::<KeeperView>::Take(names)), sockets),
                Err(error) => self.report(&Report::Trouble { sentence: format!("can't copy a socket: {error}") }),
            }
        }
    }

    fn tell(&mut self, role: Role, frame: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let Some(proxy) = self.proxy_in(role) else { return };
        if let Err(error) = proxy.channel.enqueue(frame, descriptors) {
            self.lose(role, &error.to_string());
        }
    }

    fn tell_all(&mut self, frame: &[u8]) {
        for role in self.roles().into_iter().rev() {
            self.tell(role, frame.to_vec(), Vec::new());
        }
    }

    fn read_proxies(&mut self) {
        for role in self.roles().into_iter().rev() {
            self.read_proxy(role);
        }
    }

    fn read_proxy(&mut self, role: Role) {
        let Some(received) = self.proxy_in(role).map(|proxy| proxy.channel.fill()) else { return };
        loop {
            let Some(proxy) = self.proxy_in(role) else { return };
            match proxy.channel.next_payload() {
                Ok(Some(payload)) => {
                    if let Err(error) = self.hear(role, &payload) {
                        return self.misunderstand(role, &error.to_string());
                    }
                }
                Ok(None) if received.is_ok() && !proxy.channel.is_closed() => return,
                Ok(None) => return self.lose(role, "it ended"),
                Err(error) => return self.misunderstand(role, &error.to_string()),
            }
        }
    }

    fn hear(&mut self, role: Role, payload: &[u8]) -> Result<(), FrameError> {
        let Some(proxy) = self.proxy_in(role) else { return Ok(()) };
        match decode::<Report>(payload)? {
            Report::Acknowledged { version, takes_changes, .. } => {
                (proxy.acknowledged, proxy.takes_changes) = (version, takes_changes);
                self.report_acknowledged(version);
            }
            Report::Drains { version, pods } => {
                proxy.drains = (version, pods);
                self.report_drains();
            }
            Report::Traffic { .. } | Report::Trouble { .. } | Report::Hello { .. } | Report::ProxyReplaced => {
                self.pass_to_engine(encode_payload(payload));
            }
        }
        // Only between two messages of the successor's: it takes another place with it.
        if role == Role::Successor {
            self.succeed_if_acknowledged();
        }
        Ok(())
    }

    /// A version is in force once it is so in every proxy that may still send a request.
    fn report_acknowledged(&mut self, version: u64) {
        if self.proxy.is_some() && self.proxies().all(|proxy| proxy.acknowledged >= version) {
            let refused = self.listeners.refused().to_vec();
            self.report(&Report::Acknowledged { version, refused, takes_changes: true });
        }
    }

    /// What is in flight to a pod is in flight in all proxies together.
    fn report_drains(&mut self) {
        let version = self.proxies().map(|proxy| proxy.drains.0).min().unwrap_or(0);
        let mut pods: BTreeMap<PodUid, Drain> = BTreeMap::new();
        for drain in self.proxies().flat_map(|proxy| &proxy.drains.1) {
            let sum = pods.entry(drain.uid.clone()).or_insert_with(|| Drain::nothing(drain.uid.clone()));
            sum.requests += drain.requests;
            sum.long += drain.long;
        }
        self.report(&Report::Drains { version, pods: pods.into_values().collect() });
    }

    /// A proxy says what means nothing: a keeper that was killed may have read the beginning. One that only finishes its
    /// connections is left to do so by itself.
    fn misunderstand(&mut self, role: Role, reason: &str) {
        let Role::Leaving(place) = role else { return self.lose(role, reason) };
        tracing::warn!("a proxy that was replaced is left alone: {reason}");
        drop(self.leaving.remove(place));
        self.report_what_is_left();
    }

    /// A proxy has ended or can't be talked to. Without the present one another is started.
    fn lose(&mut self, role: Role, reason: &str) {
        match role {
            Role::Present => self.replace_proxy(reason),
            Role::Successor => {
                let Some(successor) = self.successor.take() else { return };
                successor.end();
                self.report(&Report::Trouble { sentence: format!("the proxy's successor is gone: {reason}") });
            }
            Role::Leaving(place) => {
                self.leaving.remove(place).end();
                tracing::info!("a proxy that was replaced has ended: {reason}");
            }
        }
        self.report_what_is_left();
    }

    /// What was waited for may have been the one that is gone.
    fn report_what_is_left(&mut self) {
        if let Some(version) = self.proxies().map(|proxy| proxy.acknowledged).min().filter(|version| *version > 0) {
            self.report_acknowledged(version);
            self.report_drains();
        }
    }

    fn replace_proxy(&mut self, reason: &str) {
        let Some(proxy) = self.proxy.take() else { return };
        tracing::warn!("the proxy is replaced: {reason}");
        let lived = proxy.started.elapsed();
        proxy.end();
        // Whoever was to take its place does so now.
        self.proxy = self.successor.take();
        if self.proxy.is_some() {
            self.hand_over_adoption();
            return self.report(&Report::ProxyReplaced);
        }
        if lived < INSTANT_DEATH {
            self.report(&Report::Trouble { sentence: format!("the proxy ended {lived:?} after its start") });
            self.pause_after_instant_death();
        } else {
            self.instant_deaths = 0;
            self.start_proxy_at = Instant::now();
        }
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxy.iter().chain(&self.successor).chain(&self.leaving)
    }

    /// Every place that a proxy may have now. Gone through backwards where one may be lost: that makes those behind it
    /// move up.
    fn roles(&self) -> Vec<Role> {
        let leaving = (0..self.leaving.len()).map(Role::Leaving);
        [Role::Present, Role::Successor].into_iter().chain(leaving).collect()
    }

    fn proxy_in(&mut self, role: Role) -> Option<&mut Proxy> {
        match role {
            Role::Present => self.proxy.as_mut(),
            Role::Successor => self.successor.as_mut(),
            Role::Leaving(place) => self.leaving.get_mut(place),
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
        self.pass_to_engine(encode(report));
    }

    fn pass_to_engine(&mut self, frame: Vec<u8>) {
        let Some(engine) = &mut self.engine else { return };
        if let Err(error) = engine.enqueue(frame, Vec::new()) {
            tracing::warn!("the engine is dropped: {error}");
            self.engine = None;
        }
    }

    fn flush(&mut self) {
        if let Some(Err(error)) = self.engine.as_mut().map(Channel::flush) {
            tracing::debug!("the engine is gone: {error}");
            self.engine = None;
        }
        for role in self.roles().into_iter().rev() {
            if let Some(Err(error)) = self.proxy_in(role).map(|proxy| proxy.channel.flush()) {
                self.lose(role, &error.to_string());
            }
        }
    }

    fn shut_down(&mut self) {
        self.tell_all(&encode(&Command::<KeeperView>::ShutDown));
        self.flush();
        let deadline = Instant::now() + LONGEST_SHUTDOWN;
        for mut proxy in self.proxy.take().into_iter().chain(self.successor.take()).chain(self.leaving.drain(..)) {
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
