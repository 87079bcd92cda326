//! Machines that cover for each other: finds those that have the tag, listens to each, and tells each how things are here. Pods
//! stay each machine's own affair; what travels is how many of a Service's are ready. Decides nothing itself (`decide::mesh`).

mod link;
mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use decide::mesh::{Acknowledgements, Expected, Known, Number, Port, Said, Standing, View, ready_only_here};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::{Mesh, Secret};
use crate::tailnet::local_api::Tagged;
use crate::tailnet::{Callers, LocalApi, LocalApiError, Shared};
use link::Heard;
use memory::Memory;

/// How often the daemon is asked which machines there are, though it told of no change.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The pause before what was not possible is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the first plan of an engine waits for other machines.
const LONGEST_INTRODUCTION: Duration = Duration::from_secs(2);
/// How long machines that are connected may take to choose this one no more.
const LONGEST_FAREWELL: Duration = Duration::from_secs(10);

/// What there is to know.
#[derive(Clone, Debug)]
pub struct Settings {
    pub daemon: LocalApi,
    /// The machines of the mesh have it.
    pub tag: String,
    /// Where engines listen to each other; their proxies do at the port after it.
    pub port: u16,
    /// Grows with each start of this engine.
    pub start: u64,
    /// Of Segue.
    pub version: String,
    /// Of which the keys are made that other machines have to know to pass requests on to this one.
    pub key: Secret,
    /// Where it is kept what was known last, for the engine after this one.
    pub memory: PathBuf,
    pub machines: Shared<Arc<Machines>>,
    pub here: Shared<Here>,
}

/// What the mesh tells routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machines {
    /// Grows with each change.
    pub(crate) revision: u64,
    /// Where this machine's proxy takes connections of others'.
    pub(crate) at: Option<SocketAddr>,
    /// What this machine wants to hear from each of the others, and they from it.
    pub(crate) accepted: BTreeMap<IpAddr, Secret>,
    pub(crate) keys: BTreeMap<String, Secret>,
    pub known: Vec<Known>,
    /// Where another machine may take a pod for ready here, though there may be none any more.
    pub(crate) expected: Expected,
}

/// What routing tells the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// What of [`Machines`] is in force.
    pub revision: u64,
    /// The mesh's Services.
    pub services: BTreeMap<String, Vec<Port>>,
    /// Services with ready pods that no other machine has.
    pub only_here: BTreeSet<String>,
}

/// The mesh as this machine sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// This machine's name; None while it is not in the mesh.
    pub name: Option<String>,
    /// What this machine says of itself.
    pub said: Said,
    pub machines: Vec<SeenMachine>,
    /// Services that would have no ready pod without this machine.
    pub depend_on_this: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenMachine {
    #[serde(flatten)]
    pub known: Known,
    /// How long a message there and back takes.
    pub round_trip: Option<Duration>,
}

impl Machines {
    /// This machine's address, and where the proxy of another one is.
    pub(crate) fn way_to(&self, machine: IpAddr) -> Option<(IpAddr, SocketAddr)> {
        let at = self.at?;
        Some((at.ip(), SocketAddr::new(machine, at.port())))
    }

    pub(crate) fn mesh(&self) -> Mesh {
        Mesh { at: self.at, machines: self.accepted.clone() }
    }
}

/// By which others ask and tell the mesh.
#[derive(Clone, Debug)]
pub struct Handle {
    drains: Arc<watch::Sender<bool>>,
    state: watch::Receiver<State>,
    here: Shared<Here>,
}

/// What [`Handle`] knows.
#[derive(Clone, Debug, Default)]
struct State {
    seen: Seen,
    /// Machines that listen to this one and may still choose it.
    may_choose: BTreeSet<String>,
}

impl Handle {
    #[must_use]
    pub fn seen(&self) -> Seen {
        let State { mut seen, .. } = self.state.borrow().clone();
        seen.depend_on_this = self.depend_on_this(&seen);
        seen
    }

    /// Whether it is known what is ready here.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.here.known().is_some() && self.state.borrow().seen.name.is_some()
    }

    /// This machine takes work of others again.
    pub fn go_on(&self) {
        self.drains.send_replace(false);
    }

    /// Services that are ready here and nowhere else.
    fn depend_on_this(&self, seen: &Seen) -> BTreeSet<String> {
        let Here { services, only_here, .. } = self.here.known().unwrap_or_default();
        let others: Vec<Known> = seen.machines.iter().map(|machine| machine.known.clone()).collect();
        ready_only_here(&services, &others).into_iter().chain(only_here).collect()
    }

    /// Has the other machines choose this one no more; gives those that did not say that they do so.
    pub async fn drain(&self) -> BTreeSet<String> {
        self.drains.send_replace(true);
        let mut state = self.state.clone();
        let is_done = |state: &State| state.seen.said.draining && state.may_choose.is_empty();
        let told = state.wait_for(is_done);
        match tokio::time::timeout(LONGEST_FAREWELL, told).await {
            Ok(_) => BTreeSet::new(),
            Err(_) => self.state.borrow().may_choose.clone(),
        }
    }
}

/// What runs the mesh, and the handle to it.
pub fn new(settings: Settings) -> (impl Future<Output = ()> + Send + 'static, Handle) {
    let (drains, drain) = watch::channel(false);
    let (tell, state) = watch::channel(State::default());
    let handle = Handle { drains: Arc::new(drains), state, here: settings.here.clone() };
    (Engine::new(settings, tell).run(drain), handle)
}

struct Engine {
    settings: Settings,
    /// The clock of `view`.
    began: Instant,
    view: View,
    /// None until the daemon has said it.
    tagged: Option<Tagged>,
    memory: Memory,
    /// What this machine says of itself, to whoever listens.
    said: watch::Sender<Option<Said>>,
    /// The addresses of machines that have the tag, to whoever tells them.
    allowed: watch::Sender<BTreeSet<IpAddr>>,
    /// Numbers of what others said that are in force here.
    in_force: watch::Sender<BTreeMap<String, Number>>,
    told: Arc<Machines>,
    /// What was told routing and is not in force yet.
    pending: Vec<Arc<Machines>>,
    /// Which machine listens, by a number of the connection: one may begin before the one before it has ended.
    listeners: BTreeMap<u64, String>,
    /// Over all connections.
    acknowledged: Acknowledgements,
    round_trips: BTreeMap<String, Duration>,
    keys: BTreeMap<String, Secret>,
    tell: watch::Sender<State>,
    heard: mpsc::UnboundedReceiver<(String, Heard)>,
    hears: mpsc::UnboundedSender<(String, Heard)>,
    following: JoinSet<()>,
    /// By this machine's address and theirs.
    followed: BTreeMap<String, ([IpAddr; 2], AbortHandle)>,
    serving: Option<(IpAddr, AbortHandle)>,
    callers: Arc<Callers>,
    warned: String,
}

/// What a machine has to know that connects from this address.
fn key_for(secret: &Secret, machine: IpAddr) -> Secret {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
    let signed = hmac::sign(&key, machine.to_string().as_bytes());
    Secret(signed.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Engine {
    fn new(settings: Settings, tell: watch::Sender<State>) -> Self {
        let (hears, heard) = mpsc::unbounded_channel();
        let callers = Arc::new(Callers::of(settings.daemon.clone()));
        let memory = Memory::load(&settings.memory);
        Self {
            settings,
            began: Instant::now(),
            view: View::recalling(memory.known.clone()),
            tagged: None,
            said: watch::Sender::default(),
            allowed: watch::Sender::default(),
            in_force: watch::Sender::default(),
            told: Arc::default(),
            pending: Vec::new(),
            listeners: BTreeMap::new(),
            acknowledged: Acknowledgements::default(),
            round_trips: BTreeMap::new(),
            keys: memory.keys.clone(),
            memory,
            tell,
            heard,
            hears,
            following: JoinSet::new(),
            followed: BTreeMap::new(),
            serving: None,
            callers,
            warned: String::new(),
        }
    }

    async fn run(mut self, mut drain: watch::Receiver<bool>) {
        let news = Arc::new(Notify::new());
        let (daemon, tell) = (self.settings.daemon.clone(), Arc::clone(&news));
        self.following.spawn(async move { daemon.listen(|| tell.notify_one()).await });
        self.following.spawn(Arc::clone(&self.callers).follow());
        let mut here = self.settings.here.subscribe();
        let (mut look_at, mut looking) = (Instant::now(), JoinSet::new());
        loop {
            let silence = self.view.look_again_at().map(|time| self.began + time);
            let silence = if self.told.revision == 0 {
                let by = self.began + LONGEST_INTRODUCTION;
                Some(silence.map_or(by, |silence| silence.min(by))).filter(|time| *time > Instant::now()).or(silence)
            } else {
                silence
            };
            tokio::select! {
                () = news.notified() => look_at = Instant::now(),
                () = tokio::time::sleep_until(look_at), if looking.is_empty() => {
                    let (daemon, tag) = (self.settings.daemon.clone(), self.settings.tag.clone());
                    looking.spawn(async move { daemon.tagged(&tag).await });
                    look_at = Instant::now() + LOOK_EVERY;
                }
                Some(Ok(found)) = looking.join_next() => {
                    if !self.look_around(found).await {
                        look_at = Instant::now() + PAUSE;
                    }
                }
                Some((machine, heard)) = self.heard.recv() => {
                    // Most is a sign of life and nothing else.
                    if !self.hear(&machine, heard) {
                        continue;
                    }
                }
                Ok(()) = here.changed() => {}
                Ok(()) = drain.changed() => {}
                () = sleep_until(silence) => {}
            }
            // After a pause of this task, what came meanwhile is no silence.
            while let Ok((machine, heard)) = self.heard.try_recv() {
                self.hear(&machine, heard);
            }
            self.view.look(self.began.elapsed());
            let known = here.borrow_and_update().clone();
            self.say(known.as_ref(), *drain.borrow_and_update());
            self.tell_routing();
            self.note_in_force(known.map_or(0, |here| here.revision));
            self.tell_handle();
        }
    }

    /// Whether everything is as it should be; else it is to be looked at soon.
    async fn look_around(&mut self, found: Result<Tagged, LocalApiError>) -> bool {
        let tagged = match found {
            Ok(tagged) => tagged,
            // A daemon that is away for a moment has not moved the machines.
            Err(error) => return self.warn(format!("the mesh can't be looked at: {}", crate::chain(&error))),
        };
        self.allowed.send_if_modified(|allowed| {
            let now: BTreeSet<IpAddr> = tagged.others.values().copied().collect();
            let is_new = *allowed != now;
            *allowed = now;
            is_new
        });
        let others = tagged.others.clone();
        let this = tagged.this.clone();
        self.tagged = Some(tagged);
        let Some((name, address)) = this else {
            self.serve_no_more();
            self.follow(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &BTreeMap::new());
            let tag = &self.settings.tag;
            return self.warn(format!(
                "this machine is not in the mesh, since it has no tag {tag}: `tailscale up --advertise-tags={tag}` asks for it, \
                 and the tailnet policy has to allow it"
            ));
        };
        self.follow(address, &others);
        if self.serving.as_ref().is_some_and(|(at, task)| *at == address && !task.is_finished()) {
            return true;
        }
        self.serve_no_more();
        let at = SocketAddr::new(address, self.settings.port);
        match TcpListener::bind(at).await {
            Ok(listener) => {
                let telling = link::Telling {
                    callers: Arc::clone(&self.callers),
                    tag: self.settings.tag.clone(),
                    own: name.clone(),
                    key: self.settings.key.clone(),
                    said: self.said.subscribe(),
                    allowed: self.allowed.subscribe(),
                    hears: self.hears.clone(),
                };
                let serving = telling.serve(listener);
                self.serving = Some((address, self.following.spawn(serving)));
                self.warned.clear();
                tracing::info!("other machines of the mesh are listened to at {at}");
                true
            }
            Err(error) => self.warn(format!("can't listen at {at} for other machines of the mesh: {error}")),
        }
    }

    fn serve_no_more(&mut self) {
        if let Some((_, task)) = self.serving.take() {
            task.abort();
        }
    }

    fn warn(&mut self, sentence: String) -> bool {
        if self.warned != sentence {
            tracing::warn!("{sentence}");
            self.warned = sentence;
        }
        false
    }

    /// Listens to these machines, and to no others.
    fn follow(&mut self, own: IpAddr, machines: &BTreeMap<String, IpAddr>) {
        self.view.are_there(machines);
        // Of those that were given up.
        while self.following.try_join_next().is_some() {}
        self.followed.retain(|name, (addresses, task)| {
            let stays = machines.get(name).is_some_and(|address| *addresses == [own, *address]);
            if !stays {
                task.abort();
            }
            stays
        });
        self.round_trips.retain(|name, _| machines.contains_key(name));
        self.keys.retain(|name, _| machines.contains_key(name));
        for (name, address) in machines {
            if !self.followed.contains_key(name) {
                let at = SocketAddr::new(*address, self.settings.port);
                let following = link::follow(name.clone(), own, at, self.in_force.subscribe(), self.hears.clone());
                self.followed.insert(name.clone(), ([own, *address], self.following.spawn(following)));
            }
        }
    }

    /// Whether that changes anything.
    fn hear(&mut self, machine: &str, heard: Heard) -> bool {
        let now = self.began.elapsed();
        match heard {
            Heard::Said(said) => self.view.hear(machine, *said, now),
            Heard::Beat => return self.view.beat(machine, now),
            Heard::Lost => self.view.lose(machine, now),
            Heard::Key(key) => drop(self.keys.insert(machine.to_owned(), key)),
            Heard::RoundTrip(time) => drop(self.round_trips.insert(machine.to_owned(), time)),
            Heard::Listens { connection } => drop(self.listeners.insert(connection, machine.to_owned())),
            Heard::HasInForce { number } => self.acknowledged.acknowledge(machine, number),
            Heard::ListensNoMore { connection } => drop(self.listeners.remove(&connection)),
        }
        true
    }

    /// Before it is known how things are here, others go on with what they knew.
    fn say(&mut self, here: Option<&Here>, drains: bool) {
        if here.is_none() && !drains {
            return;
        }
        let services = here.map(|here| here.services.clone()).unwrap_or_default();
        let acknowledged = &mut self.acknowledged;
        self.said.send_if_modified(|said| {
            let is_known = said.as_ref().is_some_and(|said| said.services == services && said.draining == drains);
            if !is_known {
                let count = said.as_ref().map_or(0, |said| said.number.count + 1);
                let number = Number { start: self.settings.start, count };
                let new = Said { number, version: self.settings.version.clone(), draining: drains, services };
                acknowledged.say(&new);
                *said = Some(new);
            }
            !is_known
        });
    }

    /// Whether enough is known of the others to take the place of what routing has from the engine before.
    fn knows_enough(&self) -> bool {
        self.tagged.is_some() && self.view.is_introduced() || self.began.elapsed() >= LONGEST_INTRODUCTION
    }

    /// This machine's name and address; while the daemon does not say it, what they were.
    fn this(&self) -> Option<(String, IpAddr)> {
        self.tagged.as_ref().map_or_else(|| self.memory.this.clone(), |tagged| tagged.this.clone())
    }

    /// What the next engine has to know is written down before it is acknowledged.
    fn tell_routing(&mut self) {
        if self.told.revision == 0 && !self.knows_enough() {
            return;
        }
        let port = self.settings.port.saturating_add(1);
        let this = self.this();
        let at = this.as_ref().map(|(_, address)| SocketAddr::new(*address, port));
        let known = self.view.known();
        let key = |machine: IpAddr| {
            let made = self.told.accepted.get(&machine).cloned();
            (machine, made.unwrap_or_else(|| key_for(&self.settings.key, machine)))
        };
        let accepted = known.iter().map(|known| key(known.address)).collect();
        let (revision, keys) = (self.told.revision, self.keys.clone());
        let machines = &self.view.recent() | &self.listeners.values().cloned().collect();
        let expected = self.acknowledged.expected(&machines);
        let mut machines = Machines { revision, at, accepted, keys, known, expected };
        if revision > 0 && *self.told == machines {
            return;
        }
        machines.revision += 1;
        self.told = Arc::new(machines);
        self.pending.push(Arc::clone(&self.told));
        self.settings.machines.tell(Arc::clone(&self.told));
        self.memory.keep(&self.settings.memory, Memory::of(this, &self.told));
    }

    /// Machines that listen to this one, or seem well.
    fn may_choose(&self) -> BTreeSet<String> {
        let well = self.told.known.iter().filter(|known| known.standing == Standing::Ready).map(|known| &known.name);
        self.listeners.values().chain(well).cloned().collect()
    }

    fn note_in_force(&mut self, revision: u64) {
        let Some(last) = self.pending.iter().rposition(|machines| machines.revision <= revision) else { return };
        let numbers = |known: &Known| Some((known.name.clone(), known.said.as_ref()?.number));
        let in_force = self.pending[last].known.iter().filter_map(numbers).collect();
        self.pending.drain(..=last);
        self.in_force.send_if_modified(|known| {
            let is_new = *known != in_force;
            *known = in_force;
            is_new
        });
    }

    fn tell_handle(&self) {
        let said = self.said.borrow().clone().unwrap_or_default();
        let seen = |known: &Known| SeenMachine {
            round_trip: self.round_trips.get(&known.name).copied(),
            known: known.clone(),
        };
        let state = State {
            may_choose: self.acknowledged.behind(&self.may_choose()),
            seen: Seen {
                name: self.tagged.as_ref().and_then(|tagged| tagged.this.as_ref()).map(|(name, _)| name.clone()),
                machines: self.told.known.iter().map(seen).collect(),
                depend_on_this: BTreeSet::new(),
                said,
            },
        };
        self.tell.send_replace(state);
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
