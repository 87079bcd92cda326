//! What was sent to the data plane, what it acknowledged, and what follows for pods. Pure: `round` is asked after
//! every event, with everything that is known, and says what to send and what to write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use decide::balancing::EndpointState;
use decide::draining::{self, DrainSnapshot, DrainStep, DrainedReason, InFlight, Reach, Serving};
use decide::mesh::Expected;
use decide::safe_to_stop::drain_budgets;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use objects::names;
use objects::pods::{condition, is_ready, is_true, leaves_since};

use super::plan::{Plan, Planner, Snapshot, asks_for_policies, selecting, uid_of};
use crate::config::{Base, Change, DataPlaneConfig, Listener, PodUid, Service};
use crate::frames::Drain;
use crate::kernel::KernelConfig;
use crate::mesh::Here;

/// What was sent to another machine has arrived there by then.
const LONGEST_WAY: SignedDuration = SignedDuration::from_secs(2);

/// What the engine remembers of the data plane.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Plans that may be in use: the acknowledged one, if any, then those sent since, oldest first.
    sent: Vec<Sent>,
    /// Whether the first of `sent` is acknowledged.
    acknowledged: Option<u64>,
    /// The last version that each side acknowledged.
    sides: BTreeMap<Side, u64>,
    /// The last counts of each side, and the version that they were counted under.
    drains: BTreeMap<Side, (u64, BTreeMap<PodUid, InFlight>)>,
    /// Pods that the kernel may have been told to send connections to.
    balanced: BTreeSet<PodUid>,
    /// Sockets that are open: nobody else takes what comes there.
    open: BTreeSet<Listener>,
    /// The kernel refuses what it was told last; the next may be what it takes.
    kernel_refuses: bool,
    /// How far each terminating pod was taken, by this engine.
    steps: BTreeMap<PodUid, DrainStep>,
    leaving: BTreeMap<PodUid, Leaving>,
    planner: Planner,
    planned: Option<Planned>,
    /// The last version that any engine sent.
    last_version: u64,
    link: LinkState,
    /// Whether the keeper takes changes of a configuration.
    takes_changes: bool,
    /// What the mesh was told to be in force of what it knows.
    heeded: u64,
    /// What else is, and since when, the oldest first.
    to_heed: VecDeque<(u64, Timestamp)>,
    goal: Goal,
}

/// Who passes connections on to pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Proxy,
    Kernel,
}

/// What is wanted of the traffic as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Goal {
    #[default]
    Route,
    /// No pod gets new work, for good.
    DrainAll,
}

/// Whether a configuration can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LinkState {
    #[default]
    Lost,
    /// What was sent may not have arrived, or is to be tried again.
    SendAnyway,
    UpToDate,
}

#[derive(Debug)]
struct Sent {
    version: u64,
    plan: Arc<Plan>,
    kernel: KernelConfig,
    base: Base,
    config: Arc<DataPlaneConfig>,
}

/// The last plan, and what it was made of.
#[derive(Debug)]
struct Planned {
    snapshot: Snapshot,
    steps: BTreeMap<PodUid, DrainStep>,
    goal: Goal,
    plan: Arc<Plan>,
}

/// The time by two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Never jumps: what is counted is counted by it.
    pub(super) steady: Timestamp,
    /// What objects of the API are stamped with.
    pub(super) wall: Timestamp,
}

/// Since when a pod goes, by both clocks: as its object says it, and as that was when it was seen first.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: Timestamp,
    steady: Timestamp,
}

/// What to do now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Round {
    pub(super) send: Option<Sending>,
    pub(super) write: Vec<Condition>,
    pub(super) look_again_at: Option<Timestamp>,
}

/// What each side is told.
#[derive(Debug, PartialEq)]
pub(super) struct Sending {
    pub(super) version: u64,
    pub(super) proxy: ForProxy,
    pub(super) kernel: KernelConfig,
}

#[derive(Debug, PartialEq)]
pub(super) enum ForProxy {
    Whole(Arc<DataPlaneConfig>),
    Change(Box<Change>),
}

/// A condition to be written to a pod, if the pod is still as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: PodUid,
    pub(super) resource_version: String,
    pub(super) type_: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Whether the status differs from what stands there.
    pub(super) transition: Transition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    NewStatus,
    SameStatus,
}

impl Book {
    /// A keeper was connected; it was last told `version`.
    pub(super) fn connected(&mut self, version: u64, takes_changes: bool) {
        self.last_version = self.last_version.max(version);
        self.takes_changes = takes_changes;
        self.link = LinkState::SendAnyway;
    }

    /// The keeper is gone. What was sent may be in use all the same.
    pub(super) fn disconnected(&mut self) {
        self.link = LinkState::Lost;
    }

    /// A version is in force on one side; it counts once it is so on both.
    pub(super) fn acknowledge(&mut self, side: Side, version: u64) {
        self.sides.insert(side, version);
        let of = |side: Side| self.sides.get(&side).copied().unwrap_or_default();
        let version = of(Side::Proxy).min(of(Side::Kernel));
        // An older engine's version says nothing about this one's plans.
        if self.sent.iter().any(|sent| sent.version == version) {
            self.sent.retain(|sent| sent.version >= version);
            self.acknowledged = Some(version);
        }
    }

    /// These sockets could not be opened under the version that the proxy has acknowledged.
    pub(super) fn open(&mut self, version: u64, refused: &BTreeSet<Listener>) {
        if let Some(sent) = self.sent.iter().find(|sent| sent.version == version) {
            let wanted = sent.plan.services.iter().flat_map(|service| service.listeners());
            self.open = wanted.filter(|listener| !refused.contains(listener)).collect();
        }
    }

    /// The kernel refuses what it was told: what is told next need not wait for its acknowledgement.
    pub(super) fn kernel_refuses(&mut self) {
        self.kernel_refuses = true;
    }

    /// The versions of the NetworkPolicies that every configuration keeps to that may be in use.
    pub(super) fn policies_in_force(&self) -> BTreeSet<Option<String>> {
        let mut versions = self.sent.iter().map(|sent| sent.plan.policy_versions.clone());
        let first = versions.next().unwrap_or_default();
        versions.fold(first, |all, some| &all & &some)
    }

    /// What the mesh has to know: what holds under every configuration that may be in use. And when to ask again, if nothing
    /// happens until then.
    pub(super) fn here(&mut self, now: Now) -> (Here, Option<Timestamp>) {
        let mut here = self.everywhere_in_use();
        let until = self.heed(here.revision, now.steady);
        here.revision = self.heeded;
        (here, until)
    }

    /// What was passed on to another machine before a configuration was in force may arrive there after it: nothing is said to be
    /// in force while something may be on its way.
    fn heed(&mut self, revision: u64, now: Timestamp) -> Option<Timestamp> {
        if revision != self.to_heed.back().map_or(self.heeded, |(last, _)| *last) {
            self.to_heed.push_back((revision, now));
        }
        let is_passed_on = self.is_passed_on();
        while let Some((next, since)) = self.to_heed.front().copied() {
            let until = since + LONGEST_WAY;
            if is_passed_on && now < until {
                return Some(until);
            }
            self.heeded = next;
            self.to_heed.pop_front();
        }
        None
    }

    /// Whether requests may have no answer that were passed on to where nothing is passed on any more.
    fn is_passed_on(&self) -> bool {
        let Some((version, counts)) = self.drains.get(&Side::Proxy) else { return true };
        let is_counted = self.acknowledged.is_some_and(|acknowledged| *version >= acknowledged);
        !is_counted || counts.iter().any(|(uid, in_flight)| uid.is_on_another_machine() && in_flight.requests > 0)
    }

    fn everywhere_in_use(&self) -> Here {
        let mut in_use = self.sent.iter().map(|sent| sent.plan.here()).filter(|_| self.acknowledged.is_some());
        let Some(mut here) = in_use.next() else { return Here::default() };
        for other in in_use {
            here.revision = here.revision.min(other.revision);
            here.only_here.extend(other.only_here);
            here.services.retain(|key, _| other.services.contains_key(key));
            for (key, ports) in &mut here.services {
                for known in ports {
                    let in_other = other.services[key].iter().find(|other| other.port == known.port);
                    known.ready = known.ready.min(in_other.map_or(0, |other| other.ready));
                }
            }
        }
        here
    }

    /// Counts have come. A pod that is not among them has nothing in flight.
    pub(super) fn count(&mut self, side: Side, version: u64, pods: Vec<Drain>) {
        let counts = pods.into_iter().map(|Drain { uid, requests, long }| (uid, InFlight { requests, long }));
        self.drains.insert(side, (version, counts.collect()));
    }

    /// Whether a pod goes away that the kernel may still send to: nobody says when that ends, it has to be asked.
    pub(super) fn waits_for_kernel(&self) -> bool {
        let is_leaving = |step: &DrainStep| !matches!(step, DrainStep::Drained(_));
        self.steps.iter().any(|(uid, step)| is_leaving(step) && self.balanced.contains(uid))
    }

    /// The Service that is reached at a listener.
    pub(super) fn service_at(&self, listener: &Listener) -> Option<&Service> {
        let mut services = self.sent.last()?.plan.services.iter();
        services.find(|service| service.listeners().any(|it| it == *listener)).map(Arc::as_ref)
    }

    /// Whether anything is in force that this engine has sent.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.acknowledged.is_some()
    }

    /// Whether connections to a listener come to this Service under every configuration that may be in use.
    pub(super) fn is_served(&self, key: &str, listener: &Listener) -> bool {
        self.acknowledged.is_some() && self.sent.iter().all(|sent| sent.plan.serves(key, listener))
    }

    /// Whether connections to a listener come to Ingresses under every configuration that may be in use.
    pub(super) fn is_ingress_at(&self, listener: &Listener) -> bool {
        let holds = |sent: &Sent| sent.plan.ingress.http.map(Listener::tcp) == Some(*listener);
        self.acknowledged.is_some() && self.sent.iter().all(holds)
    }

    /// Send a configuration again even if nothing changed, so that refused sockets are tried once more.
    pub(super) fn try_again(&mut self) {
        if self.link == LinkState::UpToDate {
            self.link = LinkState::SendAnyway;
        }
    }

    /// From now on no pod gets new work.
    pub(super) fn drain_all(&mut self) {
        self.goal = Goal::DrainAll;
    }

    /// Whether it is acknowledged that no pod gets new work, and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        let is_idle = |uid: &PodUid| self.in_flight(uid) == Some(InFlight::default());
        // What was passed on to other machines is counted as well.
        let counted = self.drains.get(&Side::Proxy).into_iter().flat_map(|(_, counts)| counts.values());
        if counted.into_iter().any(|in_flight| *in_flight != InFlight::default()) {
            return false;
        }
        self.sent.last().is_some_and(|last| {
            self.acknowledged == Some(last.version)
                && last.plan.states.iter().all(|(uid, state)| *state == EndpointState::Withdrawn && is_idle(uid))
        })
    }

    /// What follows from everything that is known.
    pub(super) fn round(&mut self, snapshot: &Snapshot, base: &Base, now: Now) -> Round {
        let mut round = Round::default();
        let living: BTreeSet<PodUid> = snapshot.pods.values().map(|pod| uid_of(pod)).collect();
        self.steps.retain(|uid, _| living.contains(uid));
        self.balanced.retain(|uid| living.contains(uid));
        self.leaving.retain(|uid, _| living.contains(uid));
        let leaving = snapshot.pods.values().filter(|pod| leaves_since(pod).is_some()).map(|pod| uid_of(pod)).collect();
        for pod in snapshot.pods.values() {
            match self.goal {
                Goal::DrainAll => drop(self.steps.insert(uid_of(pod), DrainStep::Withdraw)),
                Goal::Route if leaves_since(pod).is_some() => {
                    self.drain(pod, &leaving, &snapshot.machines.expected, now, &mut round);
                }
                Goal::Route => {}
            }
        }
        let plan = self.planned(snapshot);
        let kernel = KernelConfig { ports: plan.balanced(&self.open), policies: plan.policies.clone() };
        let endpoints = kernel.ports.iter().flat_map(|port| &port.port.endpoints);
        self.balanced.extend(endpoints.map(|endpoint| endpoint.pod.clone()));
        round.send = self.next_configuration(plan, kernel, base);
        // After it: what needs nothing sent is so by now, and nobody may ever ask for another round.
        if self.goal == Goal::Route {
            for pod in snapshot.pods.values().filter(|pod| leaves_since(pod).is_none()) {
                round.write.extend(self.routed(snapshot, pod));
                round.write.extend(self.guarded(pod));
            }
        }
        round
    }

    /// Most events change nothing that a plan is made of.
    fn planned(&mut self, snapshot: &Snapshot) -> Arc<Plan> {
        let is_same =
            |known: &&Planned| known.snapshot.is(snapshot) && known.steps == self.steps && known.goal == self.goal;
        if let Some(known) = self.planned.as_ref().filter(is_same) {
            return Arc::clone(&known.plan);
        }
        let mut plan = self.planner.plan(snapshot, &self.steps);
        if self.goal == Goal::DrainAll {
            plan.report_what_is_passed_on();
        }
        let plan = Arc::new(plan);
        let (snapshot, steps) = (snapshot.clone(), self.steps.clone());
        self.planned = Some(Planned { snapshot, steps, goal: self.goal, plan: Arc::clone(&plan) });
        plan
    }

    /// The configuration to send, unless one is on its way: the newest wins once that is acknowledged.
    fn next_configuration(&mut self, plan: Arc<Plan>, kernel: KernelConfig, base: &Base) -> Option<Sending> {
        let last = self.sent.last();
        let is_on_its_way = last.is_some_and(|last| self.acknowledged != Some(last.version));
        let is_the_same =
            |last: &Sent| last.plan.sends_the_same_as(&plan) && last.kernel == kernel && last.base == *base;
        let is_new = !last.is_some_and(is_the_same);
        let is_due = match self.link {
            LinkState::Lost => false,
            LinkState::SendAnyway => true,
            LinkState::UpToDate => is_new && (self.kernel_refuses || !is_on_its_way),
        };
        if !is_due {
            self.renew_what_is_routed(plan);
            return None;
        }
        self.last_version += 1;
        let version = self.last_version;
        let config = Arc::new(plan.config(version, base));
        let proxy = self.for_proxy(&config);
        self.link = LinkState::UpToDate;
        self.kernel_refuses = false;
        self.sent.push(Sent { version, plan, kernel: kernel.clone(), base: base.clone(), config });
        Some(Sending { version, proxy, kernel })
    }

    /// A change, unless what came before may not have arrived.
    fn for_proxy(&self, config: &Arc<DataPlaneConfig>) -> ForProxy {
        let last = self.sent.last().filter(|_| self.takes_changes && self.link == LinkState::UpToDate);
        let change = last.and_then(|last| Change::between(&last.config, config));
        change.map_or_else(|| ForProxy::Whole(Arc::clone(config)), |change| ForProxy::Change(Box::new(change)))
    }

    /// A Service without ports changes what is routed and nothing that is sent.
    fn renew_what_is_routed(&mut self, plan: Arc<Plan>) {
        if let Some(last) = self.sent.last_mut().filter(|last| last.plan.sends_the_same_as(&plan)) {
            last.plan = plan;
        }
    }

    /// `Routed`, once every configuration that may be in use has the pod ready for every Service that selects it.
    fn routed(&self, snapshot: &Snapshot, pod: &Pod) -> Option<Condition> {
        self.acknowledged?;
        if !is_ready(pod) || is_true(pod, names::ROUTED) {
            return None;
        }
        let (uid, services) = (uid_of(pod), selecting(&snapshot.services, pod));
        let holds = |sent: &Sent| sent.plan.routed.get(&uid).is_some_and(|held| services.is_subset(held));
        let is_routed = !services.is_empty() && self.sent.iter().all(holds);
        is_routed.then(|| written(pod, names::ROUTED, "True", "Acknowledged", String::new()))
    }

    /// `NetworkPoliciesInForce` for a pod that asks, once every configuration that may be in use knows its address.
    fn guarded(&self, pod: &Pod) -> Option<Condition> {
        self.acknowledged?;
        let (uid, address) = (uid_of(pod), asks_for_policies(pod)?);
        let is_in_force = self.sent.iter().all(|sent| sent.plan.asking.get(&uid).map(String::as_str) == Some(address));
        is_in_force.then(|| written(pod, names::POLICIES_IN_FORCE, "True", "Acknowledged", String::new()))
    }

    /// `leaving` are all pods that go, this one too: none of them is another one for it.
    fn drain(&mut self, pod: &Pod, leaving: &BTreeSet<PodUid>, expected: &Expected, now: Now, round: &mut Round) {
        let uid = uid_of(pod);
        if is_true(pod, names::DRAINED) {
            self.steps.insert(uid, DrainStep::Withdraw);
            return;
        }
        let Some(since) = leaves_since(pod) else { return };
        let known = self.leaving.get(&uid).filter(|known| known.since == since).copied();
        let leaves = known.unwrap_or_else(|| Leaving { since, steady: now.steady_time_of(since) });
        self.leaving.insert(uid.clone(), leaves);
        let budgets = drain_budgets(pod);
        let snapshot = DrainSnapshot {
            deleted_at: leaves.steady,
            budget: budgets.requests,
            long_budget: budgets.long_connections,
            serving: if is_ready(pod) { Serving::Ready } else { Serving::NotReady },
            reach: self.reach(&uid),
            asked: self.steps.get(&uid).copied().or_else(|| asked_before(pod)),
            without_another: self.without_another(&uid, leaving),
            expected_elsewhere: self
                .sent
                .last()
                .map_or_else(Vec::new, |it| it.plan.expected_elsewhere(&uid, leaving, expected)),
            in_flight: self.in_flight(&uid),
        };
        let decision = draining::next(&snapshot, now.steady);
        let message = decision.waiting_on.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        for step in decision.steps {
            let step = snapshot.asked.map_or(step, |asked| asked.max(step));
            self.steps.insert(uid.clone(), step);
            round.write.extend(drained_condition(pod, step, snapshot.reach, &message));
        }
        round.look_again_at = [round.look_again_at, decision.look_again_at].into_iter().flatten().min();
    }

    fn reach(&self, uid: &PodUid) -> Reach {
        if self.acknowledged.is_none() {
            return Reach::Unknown;
        }
        let most = self.sent.iter().filter_map(|sent| sent.plan.states.get(uid)).max();
        most.map_or(Reach::Absent, |state| Reach::Named(*state))
    }

    fn without_another(&self, uid: &PodUid, leaving: &BTreeSet<PodUid>) -> Vec<String> {
        let in_use = self.sent.iter().flat_map(|sent| sent.plan.without_another(uid, leaving));
        let mut services: Vec<String> = in_use.collect();
        services.sort();
        services.dedup();
        services
    }

    /// Counts that include everything picked under configurations before the acknowledged one.
    fn in_flight(&self, uid: &PodUid) -> Option<InFlight> {
        let of = |side: Side| {
            let (version, counts) = self.drains.get(&side)?;
            (*version >= self.acknowledged?).then(|| counts.get(uid).copied().unwrap_or_default())
        };
        let (proxy, kernel) =
            (of(Side::Proxy)?, if self.balanced.contains(uid) { of(Side::Kernel)? } else { InFlight::default() });
        Some(InFlight { requests: proxy.requests + kernel.requests, long: proxy.long + kernel.long })
    }
}

impl Now {
    /// When, by the clock that never jumps, something happened of which an object says when. Not in the future.
    fn steady_time_of(self, stamp: Timestamp) -> Timestamp {
        let age = self.wall.duration_since(stamp).max(SignedDuration::ZERO);
        self.steady.checked_sub(age).unwrap_or(self.steady)
    }
}

/// How far an earlier engine took the pod.
fn asked_before(pod: &Pod) -> Option<DrainStep> {
    match condition(pod, names::DRAINED)?.reason.as_deref() {
        Some(names::ENDING_LONG_CONNECTIONS) => Some(DrainStep::EndLong),
        Some(names::WITHDRAWN) => Some(DrainStep::Withdraw),
        Some(names::DEPRIORITISED) => Some(DrainStep::Deprioritise),
        Some(_) | None => None,
    }
}

/// What the pod's object should say, if it says something else: a step counts once it is in force.
fn drained_condition(pod: &Pod, step: DrainStep, reach: Reach, message: &str) -> Option<Condition> {
    let (status, reason) = match (step, reach) {
        (DrainStep::Drained(DrainedReason::NotRouted), _) => ("True", names::NOT_ROUTED),
        (DrainStep::Drained(DrainedReason::Idle), _) => ("True", names::IDLE),
        (DrainStep::Drained(DrainedReason::DeadlinePassed), _) => ("True", names::DEADLINE_PASSED),
        (DrainStep::Withdraw, Reach::Absent | Reach::Named(EndpointState::Withdrawn)) => ("False", names::WITHDRAWN),
        (DrainStep::EndLong, Reach::Absent | Reach::Named(EndpointState::Withdrawn)) => {
            ("False", names::ENDING_LONG_CONNECTIONS)
        }
        (_, Reach::Named(EndpointState::Deprioritised)) => ("False", names::DEPRIORITISED),
        (
            DrainStep::Deprioritise | DrainStep::Withdraw | DrainStep::EndLong,
            Reach::Unknown | Reach::Absent | Reach::Named(_),
        ) => {
            return None;
        }
    };
    let said = condition(pod, names::DRAINED).and_then(|condition| condition.reason.as_deref());
    (said != Some(reason)).then(|| written(pod, names::DRAINED, status, reason, message.to_owned()))
}

fn written(pod: &Pod, type_: &'static str, status: &'static str, reason: &'static str, message: String) -> Condition {
    let metadata = &pod.metadata;
    let is_same = condition(pod, type_).is_some_and(|condition| condition.status == status);
    Condition {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        pod: metadata.name.clone().unwrap_or_default(),
        uid: uid_of(pod),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        type_,
        status,
        reason,
        message,
        transition: if is_same { Transition::SameStatus } else { Transition::NewStatus },
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
