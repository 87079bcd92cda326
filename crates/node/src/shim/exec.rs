//! Processes that run in containers for a while: probes, hooks, and what users run there. Each is started and awaited by a small process of
//! its own (`exec_process`), because joining a container that is starved of CPU may take long, and must not keep the
//! shim from its other work.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::containers::failure;
use super::options;
use super::protocol::{Answer, ExecResult, Failure, FailureKind, MAX_EXEC_OUTPUT_BYTES, Streams};
use super::server::Caller;
use crate::container::chain;
use crate::container::runtime::{self, Joining};
use crate::pidfd::{Process, Signal};

/// How much longer than the process itself its starter may take before both are given up.
const STARTER_GRACE: Duration = Duration::from_secs(5);
/// Probes of a hundred containers at once; more is a mistake of the engine.
const MAX_RUNNING: usize = 128;

/// What the starter is told on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) joining: Joining,
    pub(super) timeout_ms: Option<u64>,
    pub(super) streams: Option<Streams>,
}

/// What it answers, on the same socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Exited(i32),
    TimedOut,
    CannotRun(String),
    Failed(String),
}

pub(super) struct Execs {
    leading_args: Vec<OsString>,
    running: BTreeMap<Key, Running>,
    next: Key,
}

pub(super) type Key = u64;

struct Running {
    caller: Caller,
    starter: Process,
    answer: UnixStream,
    output: Option<File>,
    kept: Vec<u8>,
    deadline: Option<Instant>,
    given_up: bool,
}

impl Execs {
    pub(super) fn new(leading_args: Vec<OsString>) -> Self {
        Self { leading_args, running: BTreeMap::new(), next: 0 }
    }

    /// Starts a process; the answer comes when it has ended.
    pub(super) fn start(&mut self, task: &Task, caller: Caller) -> Result<(), Failure> {
        if self.running.len() >= MAX_RUNNING {
            let message = format!("{MAX_RUNNING} processes are running in this pod's containers already");
            return Err(failure(FailureKind::WrongState, message));
        }
        let running = self
            .try_start(task, caller)
            .map_err(|error| failure(FailureKind::Internal, format!("cannot run a process in a container: {error}")))?;
        self.running.insert(self.next, running);
        self.next += 1;
        Ok(())
    }

    fn try_start(&self, task: &Task, caller: Caller) -> io::Result<Running> {
        let (output, output_end) = runtime::pipe()?;
        let (mut answer, told) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .args(&self.leading_args)
            .args(options::exec_args())
            .stdin(Stdio::from(OwnedFd::from(told)))
            .stdout(Stdio::from(output_end.try_clone()?))
            .stderr(Stdio::from(output_end))
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let starter = Process::open(pid).map_err(io::Error::other)?;
        answer.write_all(&serde_json::to_vec(task)?)?;
        answer.shutdown(std::net::Shutdown::Write)?;
        answer.set_nonblocking(true)?;
        let limit = task.timeout_ms.map(|ms| Duration::from_millis(ms) + STARTER_GRACE);
        let deadline = limit.map(|limit| Instant::now() + limit);
        Ok(Running { caller, starter, answer, output: Some(output), kept: Vec::new(), deadline, given_up: false })
    }

    /// The outputs to wait for. That a starter has ended, the loop hears as it does of every child.
    pub(super) fn outputs(&self) -> Vec<(Key, BorrowedFd<'_>)> {
        self.running.iter().filter_map(|(key, one)| Some((*key, one.output.as_ref()?.as_fd()))).collect()
    }

    pub(super) fn read_output(&mut self, key: Key) {
        if let Some(running) = self.running.get_mut(&key) {
            running.read_output();
        }
    }

    /// A child has ended. When it was a starter, the answer to who asked.
    pub(super) fn handle_ended(&mut self, pid: i32) -> Option<(Caller, Answer)> {
        let key = self.running.iter().find(|(_, one)| one.starter.pid() == pid).map(|(key, _)| *key)?;
        self.running.remove(&key).map(Running::finish)
    }

    /// When the next process has to be given up, at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.running.values().filter_map(|running| running.deadline).min()
    }

    /// Kills starters whose time is over. That ends them, and the answer follows.
    pub(super) fn give_up(&mut self, now: Instant) {
        for running in self.running.values_mut().filter(|one| one.deadline.is_some_and(|at| at <= now)) {
            (running.deadline, running.given_up) = (None, true);
            if let Err(error) = running.starter.send(Signal::KILL) {
                super::journal::log(&chain(&error));
            }
        }
    }
}

impl Running {
    /// Keeps the first part of what comes and drops the rest.
    fn read_output(&mut self) {
        let Some(output) = self.output.as_mut() else { return };
        let mut buffer = [0; 4096];
        match output.read(&mut buffer) {
            Ok(0) => self.output = None,
            Ok(length) => {
                let room = MAX_EXEC_OUTPUT_BYTES.saturating_sub(self.kept.len());
                self.kept.extend(buffer.iter().take(length.min(room)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.output = None,
        }
    }

    /// A grandchild may hold the pipe open for ever, so what has come until the end is all.
    fn finish(mut self) -> (Caller, Answer) {
        let mut before = usize::MAX;
        while self.output.is_some() && self.kept.len() != before {
            before = self.kept.len();
            self.read_output();
        }
        let mut json = Vec::new();
        // The starter has ended, so all it wrote is there; that a child of it may hold the socket still is no error.
        let _ = self.answer.read_to_end(&mut json);
        let output = String::from_utf8_lossy(&self.kept).into_owned();
        let answer = match serde_json::from_slice(&json).ok() {
            None if self.given_up => timed_out(),
            outcome => answer(outcome, output),
        };
        (self.caller, answer)
    }
}

fn timed_out() -> Answer {
    let message = "the process did not end within its time and was killed".to_owned();
    Answer::Failed(failure(FailureKind::TimedOut, message))
}

fn answer(outcome: Option<Outcome>, output: String) -> Answer {
    match outcome {
        Some(Outcome::Exited(exit_code)) => Answer::Exec(ExecResult { exit_code, output }),
        Some(Outcome::CannotRun(why)) => Answer::Failed(failure(FailureKind::CannotRun, why)),
        Some(Outcome::Failed(why)) => Answer::Failed(failure(FailureKind::Internal, why)),
        Some(Outcome::TimedOut) => timed_out(),
        None => {
            let message = "the process that was to join the container has ended without a word";
            Answer::Failed(failure(FailureKind::Internal, message.to_owned()))
        }
    }
}
