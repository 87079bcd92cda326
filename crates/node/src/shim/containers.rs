//! The containers of one pod: what is asked of them and what becomes of them. Every change of state goes through
//! `Containers::change`, which tells every engine that listens.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use jiff::Timestamp;

use super::journal::log;
use super::output::Output;
use super::protocol::{Answer, ContainerState, Event, Exit, Failure, FailureKind, LEVEL, PodState, Status};
use super::server::{Caller, Outgoing};
use crate::container::runtime::{self, Created, Joining, Pod, RuntimeError};
use crate::container::{ContainerConfig, Processes, chain};
use crate::cri_log::LogFile;
use crate::pidfd::{Ended, Signal};

/// The exit code of a container whose program could not be run.
const CANNOT_RUN: i32 = 128;
const KILLED: i32 = 128 + 9;

/// A container's number in this shim, in the order of creation.
pub(super) type Key = u64;

pub(super) struct Containers {
    pod_uid: String,
    pod: Pod,
    all: BTreeMap<Key, Container>,
    next: Key,
    outgoing: Vec<Outgoing>,
}

struct Container {
    config: ContainerConfig,
    created: Created,
    output: Output,
    state: ContainerState,
    /// Until its program runs: who is to be told.
    starting: Option<Starting>,
    start_error: Option<String>,
    /// Who waits for it to end and be removed.
    removing: Vec<Caller>,
    /// SIGKILL was sent from here, so a count of OOM kills doesn't say that the kernel ended it.
    killed: bool,
}

struct Starting {
    caller: Caller,
    report: File,
}

/// Something of a container that may be ready.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Output(usize),
    Report,
}

impl Containers {
    pub(super) fn new(pod_uid: String, pod: Pod) -> Self {
        Self { pod_uid, pod, all: BTreeMap::new(), next: 0, outgoing: Vec::new() }
    }

    pub(super) fn parts(&self) -> Vec<(Key, Part, BorrowedFd<'_>)> {
        self.all.iter().flat_map(|(key, container)| container.parts(*key)).collect()
    }

    pub(super) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    pub(super) fn state(&self) -> PodState {
        let containers = self.all.values().map(|container| container.state.clone()).collect();
        PodState { pod_uid: self.pod_uid.clone(), containers, level: LEVEL }
    }

    pub(super) fn create(&mut self, config: ContainerConfig) -> Result<Answer, Failure> {
        if self.all.values().any(|container| container.config.id == config.id) {
            return Err(failure(FailureKind::AlreadyExists, format!("container {} exists", config.id)));
        }
        let stop_signal = config.stop_signal.as_deref();
        if let Some(name) = stop_signal.filter(|name| Signal::parse(name).is_none()) {
            return Err(failure(FailureKind::Invalid, format!("there is no signal {name:?}")));
        }
        let container = Container::create(&self.pod, config)?;
        let (key, pid) = (self.next, container.state.pid);
        self.next += 1;
        self.all.insert(key, container);
        self.tell(key);
        Ok(Answer::Created { pid })
    }

    /// Answered later, when the program runs or can't be run.
    pub(super) fn start(&mut self, id: &str, caller: Caller) -> Result<(), Failure> {
        let container = self.find(id)?.1;
        let (Status::Created, None) = (&container.state.status, &container.starting) else {
            return Err(failure(FailureKind::WrongState, format!("container {id} was started before")));
        };
        let report =
            container.created.report.try_clone().map_err(|error| {
                failure(FailureKind::Internal, format!("cannot watch container {id} start: {error}"))
            })?;
        container.created.start(id).map_err(|error| internal(&error))?;
        container.starting = Some(Starting { caller, report });
        Ok(())
    }

    pub(super) fn signal(&mut self, id: &str, name: Option<&str>) -> Result<Answer, Failure> {
        let container = self.find(id)?.1;
        let wanted = name.or(container.config.stop_signal.as_deref()).unwrap_or("TERM");
        let signal = Signal::parse(wanted)
            .ok_or_else(|| failure(FailureKind::Invalid, format!("there is no signal {wanted:?}")))?;
        if container.has_exited() {
            return Err(failure(FailureKind::WrongState, format!("container {id} has exited")));
        }
        container.send(signal).map(|()| Answer::Done)
    }

    pub(super) fn kill_all(&mut self) -> Result<Answer, Failure> {
        let living = |container: &&mut Container| !container.has_exited();
        let mut living = self.all.values_mut().filter(living);
        living.try_for_each(|container| container.send(Signal::KILL)).map(|()| Answer::Done)
    }

    /// Removes a container that has ended; kills one that hasn't, and answers later. Waiting here would be for ever:
    /// its first process can't end before this one has reaped what it adopted from the container.
    pub(super) fn remove(&mut self, id: &str, caller: Caller) -> Result<Option<Answer>, Failure> {
        let (key, container) = self.find(id)?;
        if container.has_exited() {
            return self.remove_exited(key).map(Some);
        }
        container.send(Signal::KILL)?;
        container.removing.push(caller);
        Ok(None)
    }

    fn remove_exited(&mut self, key: Key) -> Result<Answer, Failure> {
        if let Some(container) = self.all.get(&key) {
            self.pod.remove(&container.config.id).map_err(|error| internal(&error))?;
            self.all.remove(&key);
        }
        Ok(Answer::Done)
    }

    /// What a process needs to know to join a running container.
    pub(super) fn joining(&mut self, id: &str, args: Vec<String>) -> Result<Joining, Failure> {
        let container = self.find(id)?.1;
        let Status::Running { .. } = container.state.status else {
            return Err(failure(FailureKind::WrongState, format!("container {id} isn't running")));
        };
        let config = container.config.clone();
        self.pod.joining(&config, args).map_err(|error| internal(&error))
    }

    pub(super) fn reopen_logs(&mut self) -> Result<Answer, Failure> {
        for container in self.all.values_mut() {
            container.output.reopen().map_err(|error| {
                let id = &container.config.id;
                failure(FailureKind::Internal, format!("cannot reopen the log of {id}: {error}"))
            })?;
        }
        Ok(Answer::Done)
    }

    pub(super) fn have_all_exited(&self) -> bool {
        self.all.values().all(Container::has_exited)
    }

    /// Removes all containers, which must have ended, and the pod's cgroup.
    pub(super) fn destroy(&mut self) -> Result<Answer, Failure> {
        let keys: Vec<Key> = self.all.keys().copied().collect();
        keys.into_iter().try_for_each(|key| self.remove_exited(key).map(|_| ()))?;
        self.pod.destroy().map(|()| Answer::Done).map_err(|error| internal(&error))
    }

    pub(super) fn handle(&mut self, key: Key, part: Part) {
        match part {
            Part::Output(number) => {
                if let Some(container) = self.all.get_mut(&key) {
                    container.output.read(number);
                }
            }
            Part::Report => self.read_report(key),
        }
    }

    fn read_report(&mut self, key: Key) {
        let Some(container) = self.all.get_mut(&key) else { return };
        let Some(mut starting) = container.starting.take() else { return };
        let answer = match runtime::told(&mut starting.report) {
            Some(sentence) => {
                container.start_error = Some(sentence.clone());
                Answer::Failed(failure(FailureKind::CannotRun, sentence))
            }
            None => {
                container.state.status = Status::Running { started_at: Timestamp::now() };
                self.tell(key);
                Answer::Done
            }
        };
        self.outgoing.push(Outgoing::Answer(starting.caller, answer));
    }

    /// A child has ended: a container's, or one that was adopted, of which nothing is wanted.
    pub(super) fn handle_ended(&mut self, pid: i32, ended: Ended) {
        let is_it = |one: &Container| one.state.pid == pid && !one.has_exited();
        let Some(key) = self.all.iter().find(|(_, one)| is_it(one)).map(|(key, _)| *key) else {
            return;
        };
        self.read_report(key);
        let Some(container) = self.all.get_mut(&key) else { return };
        if container.config.confinement.processes != Processes::Own
            && let Err(error) = self.pod.end_others(&container.config.id)
        {
            log(&error.sentence());
        }
        container.output.finish();
        let oom_kills = self.pod.oom_kills(&container.config.id);
        container.state.status = Status::Exited(container.exit(ended, oom_kills));
        let removing = std::mem::take(&mut container.removing);
        self.tell(key);
        for caller in removing {
            let answer = self.remove_exited(key).unwrap_or_else(Answer::Failed);
            self.outgoing.push(Outgoing::Answer(caller, answer));
        }
    }

    fn tell(&mut self, key: Key) {
        if let Some(container) = self.all.get(&key) {
            self.outgoing.push(Outgoing::Event(Event { container: container.state.clone() }));
        }
    }

    fn find(&mut self, id: &str) -> Result<(Key, &mut Container), Failure> {
        let found = self.all.iter_mut().find(|(_, container)| container.config.id == id);
        found
            .map(|(key, container)| (*key, container))
            .ok_or_else(|| failure(FailureKind::NotFound, format!("there is no container {id}")))
    }
}

impl Container {
    fn create(pod: &Pod, config: ContainerConfig) -> Result<Self, Failure> {
        let log = LogFile::open(&config.log_path).map_err(|error| {
            let path = config.log_path.display();
            failure(FailureKind::Internal, format!("cannot open the log {path}: {error}"))
        })?;
        let (created, outputs) = pod.create(&config).map_err(refusal)?;
        let state = ContainerState {
            id: config.id.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            pid: created.init.pid(),
            created_at: Timestamp::now(),
            status: Status::Created,
        };
        let output = Output::new(log, outputs);
        Ok(Self {
            config,
            created,
            output,
            state,
            starting: None,
            start_error: None,
            removing: Vec::new(),
            killed: false,
        })
    }

    fn has_exited(&self) -> bool {
        matches!(self.state.status, Status::Exited(_))
    }

    fn parts(&self, key: Key) -> Vec<(Key, Part, BorrowedFd<'_>)> {
        let outputs = self.output.pipes().map(|(number, fd)| (key, Part::Output(number), fd));
        let report = self.starting.iter().map(|one| (key, Part::Report, one.report.as_fd()));
        outputs.chain(report).collect()
    }

    fn send(&mut self, signal: Signal) -> Result<(), Failure> {
        self.killed |= signal == Signal::KILL;
        match self.created.init.send(signal) {
            Err(error) if !error.is_gone() => Err(failure(FailureKind::Internal, chain(&error))),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// An out-of-memory kill is believed when the kernel counted one in the container's cgroup and the container
    /// ended as one ends: a worker that was killed long ago doesn't make a later, orderly exit one.
    fn exit(&mut self, ended: Ended, oom_kills: u64) -> Exit {
        let started_at = match self.state.status {
            Status::Running { started_at } => Some(started_at),
            Status::Created | Status::Exited(_) => None,
        };
        let start_error = self.start_error.take();
        let code = if start_error.is_some() { CANNOT_RUN } else { ended.code() };
        Exit {
            code,
            signal: ended.signal(),
            oom_killed: oom_kills > 0 && code == KILLED && !self.killed,
            started_at,
            finished_at: Timestamp::now(),
            start_error,
        }
    }
}

pub(super) fn failure(kind: FailureKind, message: String) -> Failure {
    Failure { kind, message }
}

fn refusal(error: RuntimeError) -> Failure {
    if let RuntimeError::Capability(unknown) = &error {
        return failure(FailureKind::Invalid, unknown.to_string());
    }
    if let RuntimeError::CannotRun(sentence) = error {
        return failure(FailureKind::CannotRun, sentence);
    }
    internal(&error)
}

fn internal(error: &RuntimeError) -> Failure {
    let message = error.sentence();
    log(&message);
    failure(FailureKind::Internal, message)
}
