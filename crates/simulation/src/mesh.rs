//! Machines of a mesh that tell each other how they are over a network which loses, delays, repeats and reorders what they say,
//! while pods come and go, machines drain and start again, and requests come in everywhere.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use decide::balancing::{EndpointState, pick};
use decide::mesh::{
    Acknowledgements, BEAT, Known, LONGEST_TRIAL, Number, Policy, Port, SILENCE, Said, View, elsewhere,
};

use crate::Rng;

const SERVICE: &str = "production/web";
const PORT: u16 = 80;
/// How long the network is bad, and how long it is good afterwards.
const BAD: Duration = Duration::from_secs(20);
const GOOD: Duration = Duration::from_mins(2);
const STEP: Duration = Duration::from_millis(50);
/// What was put in force later than it was heard.
const MOST_BEHIND: i64 = 6;

/// One machine: what it says of itself, and what it knows of the others.
struct Machine {
    said: Said,
    view: View,
    /// What its proxy chooses by: what was known a while ago.
    in_force: Vec<Known>,
    /// What is known and not in force yet, and when it will be.
    coming: Vec<(Duration, Vec<Known>)>,
    /// What its engine has written down for the next one.
    memory: Vec<Known>,
    /// What others have said to be in force with them.
    acknowledged: Acknowledgements,
    /// A pod that goes, and gives way once no other machine expects it any more.
    last_pod: LastPod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPod {
    Stays,
    Goes,
    Gone,
}

enum Message {
    Said(Said),
    Beat,
    /// This of what you said is in force here.
    InForce(Number),
}

struct Network {
    machines: Vec<Machine>,
    /// When, from whom, to whom.
    under_way: Vec<(Duration, usize, usize, Message)>,
    now: Duration,
    rng: Rng,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshFailure(pub String);

/// Runs a mesh with the events of this seed.
///
/// # Errors
/// The first rule that was broken.
pub fn simulate_mesh(seed: u64) -> Result<(), MeshFailure> {
    let mut network = Network::new(seed);
    while network.now < BAD + GOOD {
        network.step();
        network.nobody_chooses_who_was_acknowledged_to_drain()?;
        network.nobody_chooses_a_machine_whose_last_pod_has_gone()?;
        for machine in 0..network.machines.len() {
            network.a_request_stays_where_pods_are_ready(machine)?;
        }
    }
    network.all_know_how_all_are()
}

fn name(machine: usize) -> String {
    format!("m{machine}")
}

fn address(machine: usize) -> IpAddr {
    [100, 64, 0, u8::try_from(machine).unwrap_or(u8::MAX)].into()
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let count = usize::try_from(rng.between(2, 6)).unwrap_or(2);
        let machine = |machine: usize| {
            let others = (0..count).filter(|other| *other != machine);
            let mut view = View::default();
            view.are_there(&others.map(|other| (name(other), address(other))).collect());
            let said = Said { number: Number { start: 1, count: 0 }, ..Said::default() };
            Machine {
                said,
                view,
                in_force: Vec::new(),
                coming: Vec::new(),
                memory: Vec::new(),
                acknowledged: Acknowledgements::default(),
                last_pod: LastPod::Stays,
            }
        };
        Self { machines: (0..count).map(machine).collect(), under_way: Vec::new(), now: Duration::ZERO, rng }
    }

    fn is_bad(&self) -> bool {
        self.now < BAD
    }

    fn step(&mut self) {
        self.now += STEP;
        if self.is_bad() {
            self.something_happens();
        }
        let is_beat = self.now.as_millis().is_multiple_of(BEAT.as_millis());
        for from in 0..self.machines.len() {
            for to in (0..self.machines.len()).filter(|to| *to != from) {
                // A machine says everything again whenever it is connected to anew.
                if is_beat && (!self.is_bad() || self.rng.percent(30)) {
                    self.send(from, to, Message::Said(self.machines[from].said.clone()));
                } else if is_beat {
                    self.send(from, to, Message::Beat);
                }
            }
        }
        self.deliver();
        self.put_in_force();
        self.let_last_pods_go();
    }

    /// Pods come and go; a machine drains, or starts again.
    fn something_happens(&mut self) {
        let Some(which) = self.rng.pick(&(0..self.machines.len()).collect::<Vec<_>>()) else { return };
        let (is_change, drains, restarts) = (self.rng.percent(20), self.rng.percent(2), self.rng.percent(2));
        let ready = u32::try_from(self.rng.between(0, 3)).unwrap_or(0);
        let machine = &mut self.machines[which];
        let said = &mut machine.said;
        if restarts {
            said.number = Number { start: said.number.start + 1, count: 0 };
            said.draining = false;
            machine.acknowledged = Acknowledgements::default();
            machine.view = View::recalling(machine.memory.clone());
            machine.coming.clear();
        } else if drains || is_change {
            said.draining |= drains;
            said.services = [(SERVICE.to_owned(), vec![Port { port: PORT, ready }])].into();
            said.number.count += 1;
            machine.last_pod = if ready == 0 { LastPod::Goes } else { LastPod::Stays };
        }
        machine.acknowledged.say(&machine.said);
    }

    /// As routing does, which asks who may still choose the machine.
    fn let_last_pods_go(&mut self) {
        for at in 0..self.machines.len() {
            let others: BTreeSet<String> = (0..self.machines.len()).filter(|other| *other != at).map(name).collect();
            let machine = &mut self.machines[at];
            let may_expect = machine.acknowledged.expected(&others).is_at(SERVICE, PORT);
            if machine.last_pod == LastPod::Goes && !may_expect {
                machine.last_pod = LastPod::Gone;
            }
        }
    }

    fn nobody_chooses_a_machine_whose_last_pod_has_gone(&self) -> Result<(), MeshFailure> {
        let gone = |machine: &Machine| machine.last_pod == LastPod::Gone;
        for (without, _) in self.machines.iter().enumerate().filter(|(_, machine)| gone(machine)) {
            if let Some(other) = (0..self.machines.len()).find(|other| self.choices(*other).1.contains(&name(without)))
            {
                return Err(MeshFailure(format!("{other} chooses {without}, which has no pod, at {:?}", self.now)));
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.is_bad() && self.rng.percent(30) {
            return;
        }
        let most = if self.is_bad() { 1500 } else { 50 };
        let delay = Duration::from_millis(u64::try_from(self.rng.between(1, most)).unwrap_or(1));
        self.under_way.push((self.now + delay, from, to, message));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (arrived, rest) = std::mem::take(&mut self.under_way).into_iter().partition(|(at, ..)| *at <= now);
        self.under_way = rest;
        for (_, from, to, message) in arrived {
            let receiver = &mut self.machines[to];
            match message {
                Message::Said(said) => receiver.view.hear(&name(from), said, now),
                Message::Beat => drop(receiver.view.beat(&name(from), now)),
                Message::InForce(number) => receiver.acknowledged.acknowledge(&name(from), number),
            }
        }
        for machine in &mut self.machines {
            machine.view.look(now);
        }
    }

    /// What is known comes into force later, in order; only then it is acknowledged.
    fn put_in_force(&mut self) {
        for at in 0..self.machines.len() {
            let known = self.machines[at].view.known();
            let delay = STEP * u32::try_from(self.rng.between(0, MOST_BEHIND)).unwrap_or(0);
            let machine = &mut self.machines[at];
            let last = machine.coming.last().map_or(Duration::ZERO, |(time, _)| *time);
            machine.memory.clone_from(&known);
            machine.coming.push((last.max(self.now + delay), known));
            let due = machine.coming.iter().take_while(|(time, _)| *time <= self.now).count();
            let Some((_, in_force)) = machine.coming.drain(..due).next_back() else { continue };
            machine.in_force = in_force;
            let numbers: Vec<_> =
                machine.in_force.iter().map(|known| known.said.as_ref().map(|it| it.number)).collect();
            let others = (0..self.machines.len()).filter(|other| *other != at);
            for (other, number) in others.zip(numbers) {
                if let Some(number) = number {
                    self.send(at, other, Message::InForce(number));
                }
            }
        }
    }

    /// Where a request may go from a machine: pods there first, then other machines.
    fn choices(&self, machine: usize) -> (Vec<EndpointState>, Vec<String>) {
        let of_mine = self.machines[machine].said.services.get(SERVICE).and_then(|ports| ports.first());
        let here = of_mine.map_or(0, |port| port.ready);
        let mut states = vec![EndpointState::Ready; usize::try_from(here).unwrap_or(0)];
        let elsewhere: Vec<_> = elsewhere(&self.machines[machine].in_force, SERVICE, PORT).collect();
        states.extend(elsewhere.iter().map(|it| Policy::Local.state(it.standing)));
        (states, elsewhere.into_iter().map(|it| it.machine).collect())
    }

    fn nobody_chooses_who_was_acknowledged_to_drain(&self) -> Result<(), MeshFailure> {
        for (drained, machine) in self.machines.iter().enumerate().filter(|(_, machine)| machine.said.draining) {
            let others: BTreeSet<String> = (0..self.machines.len()).map(name).collect();
            let behind = machine.acknowledged.behind(&others);
            for other in (0..self.machines.len()).filter(|other| *other != drained && !behind.contains(&name(*other))) {
                if self.choices(other).1.contains(&name(drained)) {
                    return Err(MeshFailure(format!("{other} chooses {drained}, which drains, at {:?}", self.now)));
                }
            }
        }
        Ok(())
    }

    fn a_request_stays_where_pods_are_ready(&mut self, machine: usize) -> Result<(), MeshFailure> {
        let (states, others) = self.choices(machine);
        let here = states.len() - others.len();
        let random = [self.rng.number(), self.rng.number()].map(|bits| (bits >> 32) as u32);
        let Some(picked) = pick(&states, &|_| 0, random) else { return Ok(()) };
        if here > 0 && picked >= here {
            return Err(MeshFailure(format!("{machine} passes on what pods there could take, at {:?}", self.now)));
        }
        Ok(())
    }

    fn all_know_how_all_are(&self) -> Result<(), MeshFailure> {
        for (at, machine) in self.machines.iter().enumerate() {
            let others = self.machines.iter().enumerate().filter(|(other, _)| *other != at);
            for ((other, truth), known) in others.zip(machine.view.known()) {
                if known.name != name(other) || known.said.as_ref() != Some(&truth.said) {
                    return Err(MeshFailure(format!("{at} takes {other} for {known:?}, which is {:?}", truth.said)));
                }
                let is_set_aside = known.standing == decide::mesh::Standing::SetAside;
                if is_set_aside {
                    return Err(MeshFailure(format!("{at} still does without {other}")));
                }
            }
        }
        Ok(())
    }
}

const _: () = assert!(GOOD.as_secs() > LONGEST_TRIAL.as_secs() + SILENCE.as_secs());
