//! One seed, one life: events happen, invariants are checked after each, and when the events stop the declared state
//! must come about.

use std::collections::BTreeSet;
use std::fmt;

use decide::availability::{Standing, standing};
use decide::{owners, replicas, rollout};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use objects::pods;

use crate::controllers::{Applied, Controllers};
use crate::machine::Machine;
use crate::rng::Rng;
use crate::schedule::{self, Accident, CALM, Disturbance, Happening, IMAGES};
use crate::world::World;

/// Steps that are kept for being repeated.
const REMEMBERED: usize = 20;

/// An invariant that did not hold, with everything that happened until then.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub broken: String,
    pub history: Vec<String>,
}

struct Simulation {
    rng: Rng,
    world: World,
    machine: Machine,
    controllers: Controllers,
    applied: Vec<Applied>,
    /// Whether, since the look whose steps are held, something happened that nobody decided: it excuses what those
    /// steps do.
    disturbed: bool,
    /// Pods that were available at that look; one that has become available by mere time since could not be spared.
    available_at_look: BTreeSet<String>,
    /// The highest ceiling since all pods fitted under the present one: lowering it takes effect by and by.
    ceiling: i32,
    history: Vec<String>,
}

/// Runs the life of this seed.
///
/// # Errors
/// The first invariant that did not hold.
pub fn simulate(seed: u64) -> Result<(), Failure> {
    let mut simulation = Simulation::new(seed);
    let outcome = simulation.live().and_then(|()| simulation.calm_down());
    outcome.map_err(|broken| Failure { seed, broken, history: simulation.history })
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let replicas = i32::try_from(rng.between(1, 6)).unwrap_or(1);
        let mut world = World::new(replicas, IMAGES[0]);
        let limits = schedule::limits(&mut rng);
        let min_ready_seconds = i32::try_from(rng.between(0, 5)).unwrap_or(0);
        world.declare(|spec| {
            schedule::set_limits(spec, limits);
            spec.min_ready_seconds = Some(min_ready_seconds);
            spec.revision_history_limit = Some(2);
        });
        if rng.percent(20) {
            world.services.clear();
        }
        let mut machine = Machine::new(schedule::delays(1), Rng::new(rng.number()));
        for image in IMAGES {
            machine.behaviours.insert((*image).to_owned(), schedule::behaviour(&mut rng, image));
        }
        let controllers = Controllers::default();
        let mut simulation = Self {
            rng,
            world,
            machine,
            controllers,
            applied: Vec::new(),
            disturbed: false,
            available_at_look: BTreeSet::new(),
            ceiling: 0,
            history: Vec::new(),
        };
        simulation.ceiling = simulation.limits().ceiling();
        simulation
    }

    fn live(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.between(80, 300) {
            let happening = schedule::next(&mut self.rng);
            self.happen(happening)?;
        }
        Ok(())
    }

    /// A version that works is declared, and nothing disturbs any more.
    fn calm_down(&mut self) -> Result<(), String> {
        for happening in [
            Happening::ReleaseAcknowledgements,
            Happening::Disturbance(Disturbance::Resume),
            Happening::Disturbance(Disturbance::SetImage(IMAGES[0])),
            Happening::SetPace(1),
        ] {
            self.happen(happening)?;
        }
        let give_up = self.world.now + CALM;
        while self.world.now < give_up {
            if self.everybody_acts()? {
                continue;
            }
            if self.is_as_declared() {
                return Ok(());
            }
            if self.controllers.waiting_on.is_empty() && self.available() != self.limits().replicas {
                return Err("nothing is done, and nothing is said to be awaited".to_owned());
            }
            let next_look = self.controllers.next_look(self.world.now);
            let Some(due) = self.machine.next_due(&self.world).into_iter().chain(next_look).min() else {
                return Err(format!("nothing moves any more: {:?}", self.controllers.waiting_on));
            };
            self.pass_until(due)?;
        }
        Err(format!("the declared state did not come about: {:?}", self.controllers.waiting_on))
    }

    /// Whether anybody did anything.
    fn everybody_acts(&mut self) -> Result<bool, String> {
        let before = self.history.len();
        self.controllers.look_at_deployment(&self.world);
        while let Some(step) = self.controllers.take_rollout_step() {
            self.apply(step)?;
        }
        for name in self.world.replica_sets.keys().cloned().collect::<Vec<_>>() {
            self.happen_look_at(&name)?;
            while let Some(step) = self.controllers.take_replicas_step() {
                self.apply(step)?;
            }
        }
        Ok(self.history.len() > before)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::LookAtDeployment => self.controllers.look_at_deployment(&self.world),
            Happening::LookAtReplicaSet => {
                let names: Vec<_> = self.world.replica_sets.keys().cloned().collect();
                let name = self.rng.pick(&names);
                return name.map_or(Ok(()), |name| self.happen_look_at(&name));
            }
            Happening::ApplyRolloutStep => {
                return self.controllers.take_rollout_step().map_or(Ok(()), |step| self.apply(step));
            }
            Happening::ApplyReplicasStep => {
                return self.controllers.take_replicas_step().map_or(Ok(()), |step| self.apply(step));
            }
            Happening::RepeatStep => {
                let guarded: Vec<_> =
                    self.applied.iter().filter(|step| step.is_guarded(&self.world)).cloned().collect();
                return self.rng.pick(&guarded).map_or(Ok(()), |step| self.repeat(&step));
            }
            Happening::PassTime => return self.pass_to_next(),
            Happening::PassSeconds(seconds) => {
                let time = self.world.now + SignedDuration::from_secs(seconds);
                return self.pass_until(time);
            }
            Happening::EngineCrash => {
                self.note("the engine is killed");
                self.controllers.die();
            }
            Happening::SetPace(pace) => self.machine.delays = schedule::delays(pace),
            Happening::HoldAcknowledgements => self.machine.acknowledges = false,
            Happening::ReleaseAcknowledgements => self.machine.acknowledges = true,
            Happening::Disturbance(disturbance) => self.disturb(disturbance),
        }
        Ok(())
    }

    /// What users and accidents do.
    fn disturb(&mut self, disturbance: Disturbance) {
        self.note(&format!("{disturbance:?}"));
        self.disturbed = true;
        match disturbance {
            Disturbance::SetImage(image) => self.world.set_image(image),
            Disturbance::Scale(replicas) => self.world.declare(|spec| spec.replicas = Some(replicas)),
            Disturbance::Pause => self.world.declare(|spec| spec.paused = Some(true)),
            Disturbance::Resume => self.world.declare(|spec| spec.paused = None),
            Disturbance::SetLimits(limits) => self.world.declare(|spec| schedule::set_limits(spec, limits)),
            Disturbance::Pod(accident) => {
                let names: Vec<_> = self.world.pods.keys().cloned().collect();
                if let Some(name) = self.rng.pick(&names) {
                    self.hit_pod(accident, &name);
                }
            }
        }
        self.ceiling = self.ceiling.max(self.limits().ceiling());
    }

    fn hit_pod(&mut self, accident: Accident, name: &str) {
        self.note(&format!("… {name}"));
        match accident {
            Accident::Crash => self.machine.crash(&mut self.world, name),
            Accident::Failure => self.machine.fail(&mut self.world, name),
            Accident::Deletion => self.world.delete_pod(name),
        }
    }

    /// A look at a ReplicaSet; what it wants to delete must leave enough.
    fn happen_look_at(&mut self, name: &str) -> Result<(), String> {
        if self.controllers.held_of_replica_sets().next().is_some() {
            return Ok(());
        }
        self.controllers.look_at_replica_set(&self.world, name);
        self.disturbed = false;
        let available = self.world.pods.iter().filter(|(_, pod)| self.is_available(pod));
        self.available_at_look = available.map(|(name, _)| name.clone()).collect();
        let deleted = self.controllers.held_of_replica_sets().filter(|step| self.deletes_available(step)).count();
        let left = self.available() - i32::try_from(deleted).unwrap_or(i32::MAX);
        let floor = self.limits().floor();
        if deleted > 0 && left < floor {
            return Err(format!("{name} wants to leave {left} available pods of at least {floor}"));
        }
        Ok(())
    }

    fn deletes_available(&self, step: &Applied) -> bool {
        match step {
            Applied::Replicas { step: replicas::Step::DeletePod { pod }, .. } => {
                self.world.pods.get(&pod.name).is_some_and(|pod| self.is_available(pod))
            }
            Applied::Replicas { .. } | Applied::Rollout(_) => false,
        }
    }

    fn apply(&mut self, step: Applied) -> Result<(), String> {
        let available_before = self.available();
        if let Err(refused) = step.apply(&mut self.world) {
            self.note(&format!("{step} … refused: {refused:?}"));
            self.controllers.forget_rest_of(&step);
            return Ok(());
        }
        self.note(&step.to_string());
        self.check_floor(&step, available_before)?;
        self.check_ceiling(&step)?;
        self.check_one_new_replica_set()?;
        self.applied.push(step);
        self.applied.drain(..self.applied.len().saturating_sub(REMEMBERED));
        Ok(())
    }

    fn repeat(&mut self, step: &Applied) -> Result<(), String> {
        match step.apply(&mut self.world) {
            Err(_) => Ok(()),
            Ok(()) => Err(format!("a step was applied twice: {step}")),
        }
    }

    fn pass_to_next(&mut self) -> Result<(), String> {
        match self.machine.next_due(&self.world) {
            Some(due) => self.pass_until(due),
            None => Ok(()),
        }
    }

    /// The machine does what is due on the way.
    fn pass_until(&mut self, time: jiff::Timestamp) -> Result<(), String> {
        while let Some(due) = self.machine.next_due(&self.world).filter(|due| *due <= time) {
            self.world.now = self.world.now.max(due);
            let available = self.available();
            self.machine.advance(&mut self.world)?;
            // A version that crashes takes its pods down by itself.
            self.disturbed |= self.available() < available;
        }
        self.world.now = self.world.now.max(time);
        let now = self.world.now - jiff::Timestamp::UNIX_EPOCH;
        self.note(&format!("it is {}", now.get_seconds()));
        Ok(())
    }

    fn check_floor(&self, step: &Applied, before: i32) -> Result<(), String> {
        let (after, floor) = (self.available(), self.limits().floor());
        let known = match step {
            Applied::Replicas { step: replicas::Step::DeletePod { pod }, .. } => {
                self.available_at_look.contains(&pod.name)
            }
            Applied::Replicas { .. } | Applied::Rollout(_) => true,
        };
        if after < before && after < floor && known && !self.disturbed {
            return Err(format!("{step}: {after} available pods are left of at least {floor}"));
        }
        Ok(())
    }

    fn check_ceiling(&mut self, step: &Applied) -> Result<(), String> {
        let active = self.world.pods.values().filter(|pod| !pods::is_terminating(pod) && !pods::is_finished(pod));
        let (total, ceiling) = (i32::try_from(active.count()).unwrap_or(i32::MAX), self.limits().ceiling());
        if total <= ceiling {
            self.lower_ceiling(ceiling);
            return Ok(());
        }
        let creates = matches!(step, Applied::Replicas { step: replicas::Step::CreatePod(_), .. });
        if creates && total > self.ceiling {
            return Err(format!("{step}: {total} pods are more than {}", self.ceiling));
        }
        Ok(())
    }

    /// Once every ReplicaSet has acted on a size that fits, and nothing decided earlier is still to be applied, nothing
    /// excuses more pods.
    fn lower_ceiling(&mut self, ceiling: i32) {
        let sets = || self.world.replica_sets.values();
        let reserved =
            sets().map(|it| self.pods_of(it).max(it.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)));
        let observed = |it: &ReplicaSet| it.status.as_ref().and_then(|status| status.observed_generation);
        if self.controllers.is_idle()
            && reserved.sum::<i32>() <= ceiling
            && sets().all(|it| observed(it) == it.metadata.generation)
        {
            self.ceiling = ceiling;
        }
    }

    /// Its pods that are neither terminating nor finished.
    fn pods_of(&self, set: &ReplicaSet) -> i32 {
        let active = self.world.pods.values().filter(|pod| !pods::is_terminating(pod) && !pods::is_finished(pod));
        let own = active.filter(|pod| owners::is_controlled_by(&pod.metadata, &set.metadata));
        i32::try_from(own.count()).unwrap_or(i32::MAX)
    }

    fn check_one_new_replica_set(&self) -> Result<(), String> {
        let template = self.world.deployment.spec.as_ref().map(|spec| &spec.template.spec);
        let same = self.world.replica_sets.values().filter(|it| {
            let of_set = it.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(|template| &template.spec);
            of_set == template
        });
        match same.count() {
            0 | 1 => Ok(()),
            several => Err(format!("{several} ReplicaSets have the Deployment's template")),
        }
    }

    fn is_as_declared(&self) -> bool {
        let replicas = self.limits().replicas;
        let sets = self.world.replica_sets.values().map(|it| &it.metadata);
        let of_deployment = |pod: &&Pod| sets.clone().any(|set| owners::is_controlled_by(&pod.metadata, set));
        let unfinished = self.world.pods.values().filter(|pod| !pods::is_finished(pod)).filter(of_deployment);
        let works =
            |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some(IMAGES[0]));
        let all: Vec<_> = unfinished.collect();
        let status = self.world.deployment.status.clone().unwrap_or_default();
        i32::try_from(all.len()) == Ok(replicas)
            && all.iter().all(works)
            && self.available() == replicas
            && status.available_replicas.unwrap_or(0) == replicas
            && status.observed_generation == self.world.deployment.metadata.generation
    }

    fn available(&self) -> i32 {
        let available = self.world.pods.values().filter(|pod| self.is_available(pod)).count();
        i32::try_from(available).unwrap_or(i32::MAX)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.world.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let stands = standing(pod, seconds, &self.world.services, self.world.now);
        stands == Standing::Available && !pods::is_terminating(pod) && !pods::is_finished(pod)
    }

    fn limits(&self) -> rollout::Limits {
        self.world
            .deployment
            .spec
            .as_ref()
            .map_or(rollout::Limits { replicas: 0, max_surge: 0, max_unavailable: 0 }, rollout::Limits::of)
    }

    fn note(&mut self, what: &str) {
        self.history.push(what.to_owned());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.history.len().saturating_sub(80);
        for line in &self.history[last..] {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.broken)
    }
}
