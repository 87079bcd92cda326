//! The tailnet's side of traffic: tells Tailscale's daemon which Services and Ingresses are reached under which names, and
//! writes on them what came of it. Decides nothing itself (`decide::exposure`) and carries no traffic: the daemon leads it to the
//! proxy, so pods and engines may come and go without the daemon being told anything.

mod callers;
pub(crate) mod local_api;
mod shared;
mod statuses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use decide::exposure::{CannotExpose, Exposed, Owner, Place, Step, Target, expose, is_exposed, is_on_tailnet};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use objects::ranges::Range;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::watch::{Cache, Objects, follow};
pub use callers::Callers;
pub use local_api::{LocalApi, LocalApiError, Machine};
use local_api::{RUNNING, ServeConfig, Status};
pub use shared::{Fronts, Peers, Shared};
use statuses::{Outcome, Writer};

/// What comes within this time makes one write of the serve configuration.
const SETTLES_FOR: Duration = Duration::from_millis(100);
/// How often it is looked at even though nobody told of a change: others may have changed it.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The pause before a daemon is asked again that could not be reached or refused something.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the daemon may take to forget everything.
const LONGEST_WITHDRAWAL: Duration = Duration::from_secs(10);
/// So often others may change the serve configuration while ours is computed, before a pause.
const MOST_CHANGES: usize = 20;

/// What there is to know.
#[derive(Clone, Debug)]
pub struct Settings {
    pub daemon: LocalApi,
    /// The addresses that Services have.
    pub services: Range,
    pub fronts: Shared<Fronts>,
    pub peers: Shared<Peers>,
}

/// Why nothing can be told to the daemon.
#[derive(Debug, thiserror::Error)]
enum Unable {
    #[error(
        "Tailscale's daemon is not running here: install Tailscale and join the tailnet with `tailscale up`, or name its \
         socket with `segue up --tailscale-socket`"
    )]
    NoDaemon,
    #[error(
        "Tailscale's daemon is not on the tailnet: its state is {0}; `tailscale up` joins, or renews an expired key"
    )]
    NotRunning(String),
    #[error("Tailscale's daemon is version {0}, and Services can be put on the tailnet from 1.92 on: update Tailscale")]
    TooOld(String),
    #[error(transparent)]
    Daemon(#[from] LocalApiError),
    #[error("nobody can listen at {0}, to which Tailscale's daemon would lead: `ss -lnp` shows what holds the port")]
    Front(SocketAddrV4),
    #[error("the tailnet has no {0} that this machine may see; `tailscale status` shows what it sees")]
    NoTarget(String),
    #[error("others keep changing the serve configuration; trying again")]
    Contended,
}

impl Unable {
    const fn reason(&self) -> &'static str {
        match self {
            Self::NoDaemon => "NoDaemon",
            Self::NotRunning(_) => "DaemonNotRunning",
            Self::TooOld(_) => "DaemonTooOld",
            Self::Daemon(_) => "DaemonFailed",
            Self::Front(_) => "FrontNotServed",
            Self::NoTarget(_) => "TargetNotFound",
            Self::Contended => "ServeConfigContended",
        }
    }
}

/// By which whoever takes everything down takes it off the tailnet.
#[derive(Clone, Debug)]
pub struct Handle {
    withdraws: Arc<watch::Sender<bool>>,
    is_withdrawn: watch::Receiver<bool>,
    state: watch::Receiver<State>,
}

/// How things are with the tailnet.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Whether the daemon was there and on the tailnet when it was asked last; None before.
    pub(crate) daemon_runs: Option<bool>,
    /// How many Services and Ingresses have each reason in their condition.
    pub(crate) reasons: BTreeMap<&'static str, u64>,
    /// Changes of the serve configuration.
    pub(crate) writes: u64,
}

impl Handle {
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Has the daemon forget everything that is exposed here, for good; gives whether it did in time.
    pub async fn withdraw(&self) -> bool {
        self.withdraws.send_replace(true);
        let mut is_withdrawn = self.is_withdrawn.clone();
        let done = is_withdrawn.wait_for(|done| *done);
        tokio::time::timeout(LONGEST_WITHDRAWAL, done).await.is_ok_and(|done| done.is_ok())
    }
}

/// What exposes Services until it is dropped, and the handle to it; what is exposed stays so unless it is withdrawn.
pub fn new(client: Client, settings: Settings) -> (impl Future<Output = ()> + Send + 'static, Handle) {
    let (withdraws, withdraw) = watch::channel(false);
    let (withdrawn, is_withdrawn) = watch::channel(false);
    let (tell, state) = watch::channel(State::default());
    let handle = Handle { withdraws: Arc::new(withdraws), is_withdrawn, state };
    (run(client, settings, (withdraw, withdrawn), tell), handle)
}

async fn run(
    client: Client,
    settings: Settings,
    (mut withdraw, withdrawn): (watch::Receiver<bool>, watch::Sender<bool>),
    tell: watch::Sender<State>,
) {
    let changed = Arc::new(Notify::new());
    let mut following = JoinSet::new();
    let services = follow(&client, &changed, None, &mut following);
    let ingresses = follow(&client, &changed, None, &mut following);
    let heard = Arc::new(Notify::new());
    let (daemon, hears) = (settings.daemon.clone(), Arc::clone(&heard));
    following.spawn(async move { daemon.listen(|| hears.notify_one()).await });
    let mut open = settings.fronts.subscribe();
    let writer = Writer::new(client);
    let mut tailnet =
        Tailnet { settings, services, ingresses, writer, last: None, names: None, tell, _following: following };
    let mut look_at = Instant::now();
    loop {
        let must_look = tokio::select! {
            () = changed.notified() => false,
            Ok(()) = open.changed() => false,
            () = heard.notified() => true,
            () = tokio::time::sleep_until(look_at) => true,
            Ok(()) = withdraw.changed() => true,
        };
        if *withdraw.borrow() {
            if !*withdrawn.borrow() {
                withdrawn.send_replace(tailnet.withdraw().await);
            }
            look_at = Instant::now() + PAUSE;
            continue;
        }
        tokio::time::sleep(SETTLES_FOR).await;
        let open = open.borrow_and_update().clone();
        match tailnet.act(open, must_look).await {
            Some(Looked::Done) => look_at = Instant::now() + LOOK_EVERY,
            Some(Looked::InVain) => look_at = Instant::now() + PAUSE,
            // Routing has not said yet what it serves.
            None if must_look => look_at = Instant::now() + PAUSE,
            None => {}
        }
    }
}

/// Whether the daemon has what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Done,
    InVain,
}

struct Tailnet {
    settings: Settings,
    services: Arc<Cache<Service>>,
    ingresses: Arc<Cache<Ingress>>,
    writer: Writer,
    /// What was wanted last, and what came of it.
    last: Option<(Vec<Exposed>, BTreeMap<Owner, Outcome>)>,
    /// The names that were looked up last, and why that failed.
    names: Option<(BTreeSet<String>, Option<Outcome>)>,
    tell: watch::Sender<State>,
    /// Ends the following when dropped.
    _following: JoinSet<()>,
}

impl Tailnet {
    /// Tells the daemon what is wanted, if that is new or `must_look`, and Services what came of it. None: there was
    /// nothing to tell the daemon, or it is too early.
    async fn act(&mut self, open: Option<Fronts>, must_look: bool) -> Option<Looked> {
        let (services, ingresses) = (self.services.objects()?, self.ingresses.objects()?);
        let found = self.find_targets(&services, must_look).await;
        let open = open?;
        let (exposed, refused) = self.wanted(&services, &ingresses, &open);
        let mut looked = None;
        if must_look || self.last.as_ref().is_none_or(|(last, _)| *last != exposed) {
            let outcomes: BTreeMap<Owner, Outcome> = match self.tell_daemon(&exposed).await {
                Ok(places) => {
                    looked = Some(Looked::Done);
                    places.into_iter().map(|(owner, place)| (owner, Outcome::Placed(place))).collect()
                }
                // Whoever puts nothing on the tailnet may have any daemon or none.
                Err(unable) => {
                    looked = Some(if exposed.is_empty() { Looked::Done } else { Looked::InVain });
                    let outcome = Outcome::Unable(unable.reason(), crate::chain(&unable));
                    exposed.iter().map(|wants| (wants.owner.clone(), outcome.clone())).collect()
                }
            };
            self.note(&outcomes);
            self.last = Some((exposed, outcomes));
        }
        let placed = self.last.iter().flat_map(|(_, outcomes)| outcomes.clone());
        let outcomes: BTreeMap<_, _> = placed.chain(refused).chain(found).collect();
        self.tell.send_modify(|state| state.reasons = statuses::reasons(&outcomes));
        self.writer.write(&services, &ingresses, &outcomes).await;
        looked
    }

    /// Whether nothing is exposed any more.
    async fn withdraw(&self) -> bool {
        match self.tell_daemon(&[]).await {
            Ok(_) => true,
            Err(unable) => {
                let had_something = self.last.as_ref().is_some_and(|(exposed, _)| !exposed.is_empty());
                if had_something {
                    tracing::warn!("what is exposed can't be taken off the tailnet: {}", crate::chain(&unable));
                }
                !had_something
            }
        }
    }

    /// Looks up what Services stand for, tells routing, and says what came of it.
    async fn find_targets(&mut self, services: &Objects<Service>, must_look: bool) -> Vec<(Owner, Outcome)> {
        let targets: Vec<(Owner, Target)> = services
            .iter()
            .filter_map(|(key, service)| Some((Owner::Service(key.clone()), Target::of(service)?.ok()?)))
            .collect();
        let wanted = targets.iter().filter_map(|(_, target)| target.name().map(str::to_owned)).collect();
        if must_look || self.names.as_ref().is_none_or(|(names, _)| *names != wanted) {
            let found = if wanted.is_empty() { Ok(Peers::new()) } else { self.look_up(&wanted).await };
            // Whoever can't be asked for a moment has not changed his mind.
            if let Ok(peers) = &found {
                self.settings.peers.tell(peers.clone());
            } else if self.settings.peers.known().is_none() {
                self.settings.peers.tell(Peers::new());
            }
            let failed = found.err().map(|unable| Outcome::Unable(unable.reason(), crate::chain(&unable)));
            self.names = Some((wanted, failed));
        }
        let peers = self.settings.peers.known().unwrap_or_default();
        let failed = self.names.as_ref().and_then(|(_, failed)| failed.clone());
        let outcome = |target: &Target| match target {
            Target::Address(ip) => Outcome::StandsFor(ip.to_string()),
            Target::Name(name) => failed.clone().unwrap_or_else(|| match peers.get(name) {
                Some(addresses) => {
                    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    Outcome::StandsFor(format!("{name} at {}", addresses.join(", ")))
                }
                None => {
                    let unable = Unable::NoTarget(name.clone());
                    Outcome::Unable(unable.reason(), unable.to_string())
                }
            }),
        };
        targets.iter().map(|(owner, target)| (owner.clone(), outcome(target))).collect()
    }

    /// The addresses of those names that the tailnet has.
    async fn look_up(&self, wanted: &BTreeSet<String>) -> Result<Peers, Unable> {
        self.running_daemon().await?;
        let mut peers = self.settings.daemon.peers().await?;
        peers.retain(|name, addresses| wanted.contains(name) && !addresses.is_empty());
        Ok(peers)
    }

    /// What a daemon says of itself that is there and on the tailnet.
    async fn running_daemon(&self) -> Result<Status, Unable> {
        let found = self.find_daemon().await;
        self.tell.send_modify(|state| state.daemon_runs = Some(found.is_ok()));
        found
    }

    async fn find_daemon(&self) -> Result<Status, Unable> {
        if !self.settings.daemon.is_there() {
            return Err(Unable::NoDaemon);
        }
        let status = self.settings.daemon.status().await?;
        if status.backend_state != RUNNING {
            return Err(Unable::NotRunning(status.backend_state));
        }
        Ok(status)
    }

    /// Logs what is in the way, once.
    fn note(&self, outcomes: &BTreeMap<Owner, Outcome>) {
        let is_known = |outcome: &Outcome| {
            self.last.iter().flat_map(|(_, outcomes)| outcomes.values()).any(|known| known == outcome)
        };
        if let Some(Outcome::Unable(_, sentence)) = outcomes.values().find(|outcome| !is_known(outcome)) {
            tracing::warn!("{sentence}");
        }
    }

    /// What is asked for, that first that was there first, and why others can't have it. Where nobody takes connections yet
    /// at a front, it is what they asked for before, if anything.
    fn wanted(
        &self,
        services: &Objects<Service>,
        ingresses: &Objects<Ingress>,
        open: &Fronts,
    ) -> (Vec<Exposed>, BTreeMap<Owner, Outcome>) {
        let known = self.last.as_ref().map_or(&[][..], |(exposed, _)| exposed);
        let (mut exposed, mut refused) = (Vec::new(), BTreeMap::new());
        for (owner, wants) in asked(services, ingresses) {
            let wants = match wants {
                Ok(wants) => wants,
                Err(reason) => {
                    refused.insert(owner, Outcome::Refused(reason));
                    continue;
                }
            };
            if let Some(at) = wants.targets().find(|at| open.refused.contains(at)) {
                let unable = Unable::Front(at);
                refused.insert(owner, Outcome::Unable(unable.reason(), unable.to_string()));
            } else if wants.targets().all(|at| open.taken.contains(&at)) {
                exposed.push(wants);
            } else {
                exposed.extend(known.iter().find(|known| known.owner == owner).cloned());
            }
        }
        (exposed, refused)
    }

    /// Where each is reached, once the daemon knows.
    async fn tell_daemon(&self, exposed: &[Exposed]) -> Result<BTreeMap<Owner, Place>, Unable> {
        let daemon = &self.settings.daemon;
        for _ in 0..MOST_CHANGES {
            let status = self.running_daemon().await?;
            if !status.is_new_enough() {
                return Err(Unable::TooOld(status.version().to_owned()));
            }
            let ServeConfig { config, etag } = daemon.serve_config().await?;
            let advertised = daemon.advertised().await?;
            let exposure = expose(&status.node(), &config, &advertised, exposed, self.settings.services);
            match self.take(&exposure.steps(&config, &advertised), &etag).await {
                Err(LocalApiError::Changed) => {}
                Ok(()) if exposure.first.is_some() => {}
                taken => return Ok(taken.map(|()| exposure.places)?),
            }
        }
        Err(Unable::Contended)
    }

    async fn take(&self, steps: &[Step], etag: &str) -> Result<(), LocalApiError> {
        for step in steps {
            match step {
                Step::Withdraw(_) | Step::Offer(_) => {
                    // Others offer theirs too, and the daemon knows no version of this.
                    let advertised = self.settings.daemon.advertised().await?;
                    if let Some(wanted) = step.advertised(&advertised) {
                        self.settings.daemon.advertise(&wanted).await?;
                    }
                }
                Step::Serve(config) => {
                    self.settings.daemon.set_serve_config(config, etag).await?;
                    self.tell.send_modify(|state| state.writes += 1);
                    tracing::info!("the serve configuration of Tailscale's daemon is changed");
                }
            }
        }
        Ok(())
    }
}

/// Whether a Service has anything to do with the tailnet.
fn concerns(service: &Service) -> bool {
    is_exposed(service) || Target::of(service).is_some()
}

type Asked = (Owner, Result<Exposed, CannotExpose>);

/// What Services and Ingresses ask for, the oldest first.
fn asked(services: &Objects<Service>, ingresses: &Objects<Ingress>) -> Vec<Asked> {
    let age = |metadata: &ObjectMeta| metadata.creation_timestamp.as_ref().map(|time| time.0);
    let service = |key: &str| services.get(key).map(Arc::as_ref);
    let of_services = services.iter().filter_map(|(key, service)| {
        let wants = match Target::of(service) {
            // What it stands for is looked up elsewhere, unless it can't be meant.
            Some(target) => Err(target.err()?),
            None => is_exposed(service).then(|| Exposed::of_service(service))?,
        };
        Some((age(&service.metadata), Owner::Service(key.clone()), wants))
    });
    let of_ingresses = ingresses.iter().filter(|(_, ingress)| is_on_tailnet(ingress));
    let of_ingresses = of_ingresses.map(|(key, ingress)| {
        (age(&ingress.metadata), Owner::Ingress(key.clone()), Exposed::of_ingress(ingress, &service))
    });
    let mut all: Vec<(Option<Timestamp>, Owner, _)> = of_services.chain(of_ingresses).collect();
    all.sort_by_key(|(age, ..)| *age);
    all.into_iter().map(|(_, owner, wants)| (owner, wants)).collect()
}
