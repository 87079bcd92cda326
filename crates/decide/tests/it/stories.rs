//! Stories are scripts of what users and accidents do; beside each lies what the decisions made of it, recorded for
//! people to review. `UPDATE_STORIES=1 cargo test -p decide` records anew.
//!
//! Commands: `image NAME`, `replicas N`, `surge N|N%`, `unavailable N|N%`, `min-ready N`, `deadline N`, `strategy NAME`,
//! `pause`, `resume`, `behaviour IMAGE never-ready|crashes`, `no service`, `hold acknowledgements`,
//! `release acknowledgements`, `crash first pod`, `delete first pod`, `kill engine after N steps`, `run [N seconds]`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use simulation::{Applied, Behaviour, Controllers, Delays, Machine, Rng, World};

/// A story that is not over by then will never be.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(1);

#[test]
fn stories_go_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut told = 0;
    let mut changed = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        told += 1;
        let output = tell(&fs::read_to_string(&path).unwrap());
        let recorded = path.with_extension("expected");
        if std::env::var_os("UPDATE_STORIES").is_some() {
            fs::write(&recorded, &output).unwrap();
        } else if fs::read_to_string(&recorded).unwrap_or_default() != output {
            changed.push(format!("{}\n{output}", path.display()));
        }
    }
    assert!(told > 0, "there are no stories in {}", folder.display());
    assert!(changed.is_empty(), "these stories go differently now:\n{}", changed.join("\n"));
}

fn tell(script: &str) -> String {
    let mut story = Story::new();
    for line in script.lines() {
        let _ = writeln!(story.output, "{}{line}", if line.is_empty() || line.starts_with('#') { "" } else { "> " });
        if !line.is_empty() && !line.starts_with('#') {
            story.command(line);
        }
    }
    story.output
}

struct Story {
    world: World,
    machine: Machine,
    controllers: Controllers,
    began: Timestamp,
    /// Steps until the engine is killed.
    kill_after: Option<u32>,
    told_waiting: Vec<String>,
    output: String,
}

impl Story {
    fn new() -> Self {
        let world = World::new(3, "app:1");
        let began = world.now;
        let machine = Machine::new(Delays::STEADY, Rng::new(1));
        let controllers = Controllers::default();
        Self { world, machine, controllers, began, kill_after: None, told_waiting: Vec::new(), output: String::new() }
    }

    fn command(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["image", image] => self.world.set_image(image),
            ["replicas", number] => self.declare(|spec| spec.replicas = Some(number.parse().unwrap())),
            ["surge", amount] => self.declare(|spec| rolling(spec).max_surge = Some(count(amount))),
            ["unavailable", amount] => self.declare(|spec| rolling(spec).max_unavailable = Some(count(amount))),
            ["min-ready", seconds] => self.declare(|spec| spec.min_ready_seconds = Some(seconds.parse().unwrap())),
            ["deadline", seconds] => {
                self.declare(|spec| spec.progress_deadline_seconds = Some(seconds.parse().unwrap()))
            }
            ["strategy", name] => self.declare(|spec| {
                let strategy = spec.strategy.get_or_insert_default();
                strategy.type_ = Some((*name).to_owned());
                strategy.rolling_update = None;
            }),
            ["pause"] => self.declare(|spec| spec.paused = Some(true)),
            ["resume"] => self.declare(|spec| spec.paused = None),
            ["behaviour", image, behaviour] => {
                let behaviour = match *behaviour {
                    "never-ready" => Behaviour::NeverReady,
                    "crashes" => Behaviour::Crashes,
                    other => panic!("there is no behaviour {other}"),
                };
                self.machine.behaviours.insert((*image).to_owned(), behaviour);
            }
            ["no", "service"] => self.world.services.clear(),
            ["hold", "acknowledgements"] => self.machine.acknowledges = false,
            ["release", "acknowledgements"] => self.machine.acknowledges = true,
            ["crash", "first", "pod"] => {
                let name = self.first_pod();
                self.machine.crash(&mut self.world, &name);
            }
            ["delete", "first", "pod"] => {
                let name = self.first_pod();
                self.world.delete_pod(&name);
            }
            ["kill", "engine", "after", steps, "steps"] => self.kill_after = Some(steps.parse().unwrap()),
            ["run"] => self.run(LONGEST_RUN),
            ["run", seconds, "seconds"] => self.run(SignedDuration::from_secs(seconds.parse().unwrap())),
            _ => panic!("there is no command {line:?}"),
        }
    }

    fn declare(&mut self, change: impl FnOnce(&mut DeploymentSpec)) {
        self.world.declare(change);
    }

    fn first_pod(&self) -> String {
        self.world.pods.keys().next().cloned().unwrap()
    }

    /// Runs until nothing is left to do, or for this long.
    fn run(&mut self, most: SignedDuration) {
        let end = self.world.now + most;
        loop {
            while self.act() {}
            self.tell_waiting();
            let look = self.controllers.next_look(self.world.now);
            let Some(due) = self.machine.next_due(&self.world).into_iter().chain(look).min() else { return };
            self.world.now = self.world.now.max(due.min(end));
            if due > end {
                return;
            }
            self.machine.advance(&mut self.world).unwrap();
        }
    }

    /// One look of every controller; whether any of them did anything.
    fn act(&mut self) -> bool {
        self.controllers.look_at_deployment(&self.world);
        let mut steps: VecDeque<_> = std::iter::from_fn(|| self.controllers.take_rollout_step()).collect();
        let mut acted = self.apply_all(&mut steps);
        for name in self.world.replica_sets.keys().cloned().collect::<Vec<_>>() {
            self.controllers.look_at_replica_set(&self.world, &name);
            steps.extend(std::iter::from_fn(|| self.controllers.take_replicas_step()));
            acted |= self.apply_all(&mut steps);
        }
        acted
    }

    fn apply_all(&mut self, steps: &mut VecDeque<Applied>) -> bool {
        let acted = !steps.is_empty();
        while let Some(step) = steps.pop_front() {
            self.tell(&step.to_string());
            step.apply(&mut self.world).unwrap();
            self.kill_after = self.kill_after.map(|left| left - 1);
            if self.kill_after == Some(0) {
                self.kill_after = None;
                self.tell("the engine is killed");
                self.controllers.die();
                steps.clear();
            }
        }
        acted
    }

    fn tell_waiting(&mut self) {
        let waiting: Vec<_> = self.controllers.waiting_on.iter().map(ToString::to_string).collect();
        if waiting != self.told_waiting {
            for reason in &waiting {
                self.tell(&format!("waiting: {reason}"));
            }
            self.told_waiting = waiting;
        }
    }

    fn tell(&mut self, what: &str) {
        let seconds = self.world.now.duration_since(self.began).as_secs();
        let _ = writeln!(self.output, "{seconds:4}s  {what}");
    }
}

fn rolling(spec: &mut DeploymentSpec) -> &mut k8s_openapi::api::apps::v1::RollingUpdateDeployment {
    spec.strategy.get_or_insert_default().rolling_update.get_or_insert_default()
}

fn count(text: &str) -> IntOrString {
    match text.parse() {
        Ok(number) => IntOrString::Int(number),
        Err(_) => IntOrString::String(text.to_owned()),
    }
}
