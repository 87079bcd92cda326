//! Which other machines have ready pods of a Service? Machines tell each other little and often: the whole of what others have
//! to know of one, each time, with a number that tells old from new. Whatever is lost, the next message repairs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::balancing::EndpointState;

/// How often a machine says that it is there.
pub const BEAT: Duration = Duration::from_millis(250);
/// A machine that is silent for so long is set aside.
pub const SILENCE: Duration = Duration::from_millis(750);
/// How long a machine that was set aside has to be heard before it is trusted again; twice as long each time that it fails
/// again soon.
pub const FIRST_TRIAL: Duration = Duration::from_secs(1);
pub const LONGEST_TRIAL: Duration = Duration::from_secs(30);
/// A machine that is not heard may go by what it heard last, and have its proxy send requests here, for so long: the time in which
/// an engine that starts again is heard again.
pub const LINGERS: Duration = Duration::from_secs(10);
/// A machine that was well for so long starts afresh.
const LONG_WELL: Duration = Duration::from_mins(1);

/// Tells what a machine says later from what it said before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Number {
    /// Grows with each start of the machine's engine.
    pub start: u64,
    /// Grows with each thing said since.
    pub count: u64,
}

/// What a machine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    pub number: Number,
    /// Of Segue.
    pub version: String,
    /// Whether it wants no work of others any more.
    pub draining: bool,
    /// The ports of each Service of the mesh, by `namespace/name`.
    pub services: BTreeMap<String, Vec<Port>>,
}

/// A port of a Service on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub port: u16,
    /// How many pods are ready there.
    pub ready: u32,
}

/// What one machine knows of the others. Times are of any clock that never jumps.
#[derive(Clone, Debug, Default)]
pub struct View {
    machines: BTreeMap<String, Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    address: IpAddr,
    said: Option<Said>,
    link: Link,
    trial: Duration,
    /// Whether it was heard, or could not be reached, since this engine started.
    is_tried: bool,
    /// Whether it is heard, or was until a short while ago.
    is_recent: bool,
}

/// Whether a machine is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Not since it is known, or not any more.
    Silent {
        since: Duration,
    },
    /// Again, after it was set aside.
    OnTrial {
        since: Duration,
        last: Duration,
    },
    Well {
        since: Duration,
        last: Duration,
    },
}

/// How a machine is thought of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Ready,
    Draining,
    /// It does not answer, or has only just begun to again.
    SetAside,
}

/// Another machine, as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub name: String,
    pub address: IpAddr,
    pub standing: Standing,
    /// None of a machine that was never heard.
    pub said: Option<Said>,
}

/// Pods of a Service's port on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    pub machine: String,
    pub address: IpAddr,
    pub ready: u32,
    pub standing: Standing,
}

/// Where requests for a Service go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// To pods of other machines only while none is ready here.
    #[default]
    Local,
    /// To pods of all machines alike.
    Spread,
}

impl Policy {
    /// What a Service says by its annotation, if it says something that is known.
    #[must_use]
    pub fn of(annotation: Option<&str>) -> Self {
        if annotation == Some("spread") { Self::Spread } else { Self::Local }
    }

    /// What may be done with pods of another machine.
    #[must_use]
    pub fn state(self, standing: Standing) -> EndpointState {
        match (standing, self) {
            (Standing::Draining, _) => EndpointState::Withdrawn,
            (Standing::SetAside, _) => EndpointState::Doubtful,
            (Standing::Ready, Self::Local) => EndpointState::Elsewhere,
            (Standing::Ready, Self::Spread) => EndpointState::Ready,
        }
    }
}

impl View {
    /// What an engine knew before this one. None of these machines is trusted until it is heard, but they are better than none.
    #[must_use]
    pub fn recalling(known: Vec<Known>) -> Self {
        let seen = |Known { name, address, said, .. }| (name, Seen { said, ..Seen::new(address) });
        Self { machines: known.into_iter().map(seen).collect() }
    }

    /// Whether each machine was heard since this engine started, or could not be reached.
    #[must_use]
    pub fn is_introduced(&self) -> bool {
        self.machines.values().all(|seen| seen.is_tried)
    }

    /// These are the machines that there are; of others nothing is remembered.
    pub fn are_there(&mut self, machines: &BTreeMap<String, IpAddr>) {
        self.machines.retain(|name, seen| machines.get(name) == Some(&seen.address));
        for (name, address) in machines {
            self.machines.entry(name.clone()).or_insert_with(|| Seen::new(*address));
        }
    }

    /// A machine has said something of itself. Whatever is not new is at least a sign of life.
    pub fn hear(&mut self, machine: &str, said: Said, now: Duration) {
        let Some(seen) = self.machines.get_mut(machine) else { return };
        if seen.said.as_ref().is_none_or(|known| known.number < said.number) {
            seen.said = Some(said);
        }
        seen.is_tried = true;
        seen.lives(now);
    }

    /// A machine has given a sign of life; gives whether that changes how it is thought of.
    pub fn beat(&mut self, machine: &str, now: Duration) -> bool {
        let Some(seen) = self.machines.get_mut(machine) else { return false };
        let before = seen.standing();
        seen.lives(now);
        seen.standing() != before
    }

    /// A machine can't be reached.
    pub fn lose(&mut self, machine: &str, now: Duration) {
        if let Some(seen) = self.machines.get_mut(machine) {
            seen.is_tried = true;
            seen.fails(now);
        }
    }

    /// Sets machines aside that were silent for too long.
    pub fn look(&mut self, now: Duration) {
        for seen in self.machines.values_mut() {
            if seen.silent_at().is_some_and(|time| time <= now) {
                seen.fails(now);
            }
            if let Link::Silent { since } = seen.link {
                seen.is_recent = now < since + LINGERS;
            }
        }
    }

    /// When to [`View::look`] again, if nothing is heard until then.
    #[must_use]
    pub fn look_again_at(&self) -> Option<Duration> {
        let forgotten_at = |seen: &Seen| match seen.link {
            Link::Silent { since } if seen.is_recent => Some(since + LINGERS),
            Link::Silent { .. } | Link::OnTrial { .. } | Link::Well { .. } => None,
        };
        self.machines.values().flat_map(|seen| [seen.silent_at(), forgotten_at(seen)]).flatten().min()
    }

    /// Machines that may go by what this one has said: all that are heard, or were until a short while ago. The clock begins with
    /// the engine, before which all may have been.
    #[must_use]
    pub fn recent(&self) -> BTreeSet<String> {
        self.machines.iter().filter(|(_, seen)| seen.is_recent).map(|(name, _)| name.clone()).collect()
    }

    /// All other machines.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let known = |(name, seen): (&String, &Seen)| Known {
            name: name.clone(),
            address: seen.address,
            standing: seen.standing(),
            said: seen.said.clone(),
        };
        self.machines.iter().map(known).collect()
    }
}

/// Where else pods of a Service's port are ready. Machines that drain are left out.
pub fn elsewhere(machines: &[Known], service: &str, port: u16) -> impl Iterator<Item = Elsewhere> {
    machines.iter().filter_map(move |known| {
        let said = known.said.as_ref()?;
        let Port { ready, .. } = *said.services.get(service)?.iter().find(|it| it.port == port)?;
        (ready > 0 && known.standing != Standing::Draining).then(|| Elsewhere {
            machine: known.name.clone(),
            address: known.address,
            ready,
            standing: known.standing,
        })
    })
}

/// Services with pods that are ready here and, as far as `others` are known, nowhere else.
#[must_use]
pub fn ready_only_here(services: &BTreeMap<String, Vec<Port>>, others: &[Known]) -> BTreeSet<String> {
    let is_elsewhere =
        |service: &str, port: u16| elsewhere(others, service, port).any(|it| it.standing == Standing::Ready);
    let depends = |(service, ports): &(&String, &Vec<Port>)| {
        ports.iter().any(|Port { port, ready }| *ready > 0 && !is_elsewhere(service, *port))
    };
    services.iter().filter(depends).map(|(service, _)| service.clone()).collect()
}

/// What the others have in force of what this machine said.
#[derive(Clone, Debug, Default)]
pub struct Acknowledgements {
    has_said: bool,
    last: Number,
    /// Each Service's ports, with the number of what first said that no pod is ready there.
    ports: BTreeMap<(String, u16), Option<Number>>,
    of: BTreeMap<String, Number>,
}

/// Where other machines may take a pod for ready that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nobody knows: nothing was said yet.
    Anywhere,
    /// At these ports of Services.
    At(BTreeSet<(String, u16)>),
}

impl Default for Expected {
    fn default() -> Self {
        Self::At(BTreeSet::new())
    }
}

impl Expected {
    /// Whether one may be expected there.
    #[must_use]
    pub fn is_at(&self, service: &str, port: u16) -> bool {
        match self {
            Self::Anywhere => true,
            Self::At(ports) => ports.contains(&(service.to_owned(), port)),
        }
    }
}

impl Acknowledgements {
    /// This is said to all.
    pub fn say(&mut self, said: &Said) {
        self.has_said = true;
        let before = std::mem::take(&mut self.ports);
        let ports = said.services.iter().flat_map(|(service, ports)| ports.iter().map(move |port| (service, port)));
        self.ports.extend(ports.map(|(service, Port { port, ready })| {
            let key = (service.clone(), *port);
            let empty_since = before.get(&key).copied().flatten().unwrap_or(said.number);
            (key, (*ready == 0).then_some(empty_since))
        }));
        self.last = said.number;
    }

    /// This machine has what was said with this number in force. What was never said is no acknowledgement.
    pub fn acknowledge(&mut self, machine: &str, number: Number) {
        if number > self.last {
            return;
        }
        let known = self.of.entry(machine.to_owned()).or_default();
        // Of two connections, the older one may be heard later.
        *known = number.max(*known);
    }

    /// Those of these machines that may go by something else than what was said last.
    #[must_use]
    pub fn behind(&self, machines: &BTreeSet<String>) -> BTreeSet<String> {
        machines.iter().filter(|machine| self.is_behind(machine, self.last)).cloned().collect()
    }

    /// Where one of these machines may take a pod for ready here.
    #[must_use]
    pub fn expected(&self, machines: &BTreeSet<String>) -> Expected {
        if !self.has_said {
            return Expected::Anywhere;
        }
        let is_expected = |empty_since: Option<Number>| {
            machines.iter().any(|machine| empty_since.is_none_or(|number| self.is_behind(machine, number)))
        };
        let ports = self.ports.iter().filter(|(_, since)| is_expected(**since));
        Expected::At(ports.map(|(port, _)| port.clone()).collect())
    }

    fn is_behind(&self, machine: &str, number: Number) -> bool {
        self.of.get(machine).is_none_or(|acknowledged| *acknowledged < number)
    }
}

impl Seen {
    /// Not heard since the clock began.
    fn new(address: IpAddr) -> Self {
        let link = Link::Silent { since: Duration::ZERO };
        Self { address, said: None, link, trial: Duration::ZERO, is_tried: false, is_recent: true }
    }

    fn standing(&self) -> Standing {
        match self.link {
            _ if self.said.as_ref().is_some_and(|said| said.draining) => Standing::Draining,
            Link::Well { .. } => Standing::Ready,
            Link::Silent { .. } | Link::OnTrial { .. } => Standing::SetAside,
        }
    }

    fn lives(&mut self, now: Duration) {
        self.is_recent = true;
        self.link = match self.link {
            Link::Silent { .. } if self.trial.is_zero() => Link::Well { since: now, last: now },
            Link::Silent { .. } => Link::OnTrial { since: now, last: now },
            Link::OnTrial { since, .. } if now.saturating_sub(since) >= self.trial => {
                Link::Well { since: now, last: now }
            }
            Link::OnTrial { since, .. } => Link::OnTrial { since, last: now },
            Link::Well { since, .. } => Link::Well { since, last: now },
        };
    }

    fn fails(&mut self, now: Duration) {
        let was_long_well = match self.link {
            Link::Well { since, .. } => now.saturating_sub(since) >= LONG_WELL,
            Link::OnTrial { .. } => false,
            Link::Silent { .. } => return,
        };
        self.trial = if was_long_well { FIRST_TRIAL } else { (self.trial * 2).clamp(FIRST_TRIAL, LONGEST_TRIAL) };
        self.link = Link::Silent { since: now };
    }

    /// None for a machine that is set aside as it is.
    fn silent_at(&self) -> Option<Duration> {
        match self.link {
            Link::Silent { .. } => None,
            Link::OnTrial { last, .. } | Link::Well { last, .. } => Some(last + SILENCE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "production/web";

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn said(count: u64, ready: u32) -> Said {
        Said {
            number: Number { start: 1, count },
            services: [(WEB.to_owned(), vec![Port { port: 80, ready }])].into(),
            ..Said::default()
        }
    }

    fn view() -> View {
        let mut view = View::default();
        view.are_there(&[("b".to_owned(), [100, 64, 0, 2].into())].into());
        view
    }

    fn ready(view: &View) -> Vec<(u32, Standing)> {
        elsewhere(&view.known(), WEB, 80).map(|it| (it.ready, it.standing)).collect()
    }

    #[test]
    fn the_newest_counts_in_whatever_order_it_comes() {
        let mut view = view();
        assert_eq!(ready(&view), []);
        view.hear("b", said(2, 3), ms(0));
        view.hear("b", said(1, 9), ms(1));
        assert_eq!(ready(&view), [(3, Standing::Ready)]);
        view.hear("b", said(3, 0), ms(2));
        assert_eq!(ready(&view), []);
        let restarted = Said { number: Number { start: 2, count: 0 }, ..said(0, 1) };
        view.hear("b", restarted, ms(3));
        assert_eq!(ready(&view), [(1, Standing::Ready)]);
        view.hear("stranger", said(1, 1), ms(4));
        assert_eq!(view.known().len(), 1);
    }

    #[test]
    fn a_silent_machine_is_set_aside_and_comes_back_slowly() {
        let mut view = view();
        view.hear("b", said(1, 1), ms(0));
        assert_eq!(view.look_again_at(), Some(SILENCE));
        view.look(ms(749));
        assert_eq!(ready(&view), [(1, Standing::Ready)]);
        view.look(ms(750));
        assert_eq!((ready(&view), view.look_again_at()), (vec![(1, Standing::SetAside)], Some(ms(750) + LINGERS)));
        for time in [1000, 1250, 1500, 1750] {
            assert!(!view.beat("b", ms(time)));
            assert_eq!(ready(&view), [(1, Standing::SetAside)], "{time}");
        }
        assert!(view.beat("b", ms(2000)));
        assert_eq!(ready(&view), [(1, Standing::Ready)]);
        // Twice as long when it fails again soon.
        view.lose("b", ms(2100));
        (0..8).for_each(|beat| assert!(!view.beat("b", ms(2200 + beat * 250))));
        assert_eq!(ready(&view), [(1, Standing::SetAside)]);
        assert!(view.beat("b", ms(4200)));
        assert_eq!(ready(&view), [(1, Standing::Ready)]);
    }

    #[test]
    fn a_machine_that_drains_is_no_choice_whether_it_is_heard_or_not() {
        let mut view = view();
        view.hear("b", Said { draining: true, ..said(1, 2) }, ms(0));
        assert_eq!(ready(&view), []);
        view.lose("b", ms(1));
        assert_eq!((ready(&view), view.known()[0].standing), (vec![], Standing::Draining));
        view.are_there(&BTreeMap::new());
        assert_eq!(view.known().len(), 0);
    }

    #[test]
    fn what_was_known_before_is_a_last_resort_until_the_machine_is_heard() {
        let mut before = view();
        before.hear("b", said(4, 2), ms(0));
        let mut view = View::recalling(before.known());
        assert_eq!((ready(&view), view.is_introduced()), (vec![(2, Standing::SetAside)], false));
        view.beat("b", ms(1));
        assert_eq!((ready(&view), view.is_introduced()), (vec![(2, Standing::Ready)], false));
        view.hear("b", said(5, 1), ms(2));
        assert_eq!((ready(&view), view.is_introduced()), (vec![(1, Standing::Ready)], true));
        before.hear("b", Said { draining: true, ..said(5, 2) }, ms(1));
        let mut view = View::recalling(before.known());
        assert_eq!(ready(&view), []);
        view.lose("b", ms(1));
        assert!(view.is_introduced());
        view.are_there(&[("b".to_owned(), [100, 64, 0, 9].into())].into());
        assert_eq!((view.known()[0].said.is_none(), view.is_introduced()), (true, false), "it is another machine");
    }

    #[test]
    fn a_service_depends_on_the_machine_that_alone_has_it_ready_at_some_port() {
        let mut view = view();
        view.hear("b", said(1, 1), ms(0));
        let ports = |ready: &[(u16, u32)]| ready.iter().map(|&(port, ready)| Port { port, ready }).collect();
        let here = |ready: &[(u16, u32)]| BTreeMap::from([(WEB.to_owned(), ports(ready))]);
        let depends =
            |here: BTreeMap<String, Vec<Port>>, view: &View| !ready_only_here(&here, &view.known()).is_empty();
        assert!(!depends(here(&[(80, 3)]), &view));
        assert!(depends(here(&[(80, 3), (81, 1)]), &view), "nobody else has port 81");
        assert!(!depends(here(&[(80, 3), (81, 0)]), &view));
        view.lose("b", ms(1));
        assert!(depends(here(&[(80, 1)]), &view), "nobody knows whether it is there");
        assert!(!depends(here(&[(80, 0)]), &view));
    }

    #[test]
    fn others_expect_a_pod_until_they_have_acknowledged_that_it_is_gone() {
        let both = BTreeSet::from(["a".to_owned(), "c".to_owned()]);
        let nobody = BTreeSet::new();
        let port = Expected::At([(WEB.to_owned(), 80)].into());
        assert!(port.is_at(WEB, 80) && !port.is_at(WEB, 81) && !Expected::default().is_at(WEB, 80));
        let mut told = Acknowledgements::default();
        assert_eq!(told.expected(&nobody), Expected::Anywhere);
        told.say(&said(1, 2));
        assert_eq!((told.expected(&both), told.expected(&nobody)), (port.clone(), nobody_expects()));
        assert_eq!(told.behind(&both), both);
        told.acknowledge("a", Number { start: 1, count: 1 });
        assert_eq!(told.behind(&both), BTreeSet::from(["c".to_owned()]));
        told.say(&said(2, 0));
        assert_eq!((told.expected(&both), told.expected(&nobody)), (port.clone(), nobody_expects()));
        told.acknowledge("c", Number { start: 1, count: 2 });
        assert_eq!(told.expected(&both), port, "a has not said it");
        told.acknowledge("a", Number { start: 2, count: 0 });
        assert_eq!(told.expected(&both), port, "that was never said");
        told.acknowledge("a", Number { start: 1, count: 2 });
        told.acknowledge("a", Number { start: 1, count: 1 });
        assert_eq!((told.expected(&both), told.behind(&both)), (nobody_expects(), nobody.clone()));
        told.say(&said(4, 1));
        told.say(&said(5, 0));
        told.say(&said(6, 1));
        told.acknowledge("a", Number { start: 1, count: 6 });
        assert_eq!(told.behind(&both), BTreeSet::from(["c".to_owned()]));
        assert_eq!(told.expected(&both), port);
    }

    fn nobody_expects() -> Expected {
        Expected::default()
    }

    #[test]
    fn a_machine_that_fell_silent_may_go_by_what_it_heard_for_a_while() {
        let mut view = view();
        let b = BTreeSet::from(["b".to_owned()]);
        assert_eq!((view.recent(), view.look_again_at()), (b.clone(), Some(LINGERS)), "it may have been heard before");
        view.hear("b", said(1, 1), ms(5000));
        view.lose("b", ms(5100));
        view.look(ms(15_000));
        assert_eq!((view.recent(), view.look_again_at()), (b.clone(), Some(ms(15_100))));
        view.look(ms(15_100));
        assert_eq!((view.recent(), view.look_again_at()), (BTreeSet::new(), None));
        view.beat("b", ms(20_000));
        assert_eq!(view.recent(), b);
    }

    #[test]
    fn pods_of_other_machines_are_used_as_the_service_says() {
        for (annotation, standing, expected) in [
            (None, Standing::Ready, EndpointState::Elsewhere),
            (Some("local"), Standing::Ready, EndpointState::Elsewhere),
            (Some("spread"), Standing::Ready, EndpointState::Ready),
            (Some("spread"), Standing::SetAside, EndpointState::Doubtful),
            (None, Standing::Draining, EndpointState::Withdrawn),
        ] {
            assert_eq!(Policy::of(annotation).state(standing), expected, "{annotation:?} {standing:?}");
        }
    }
}
