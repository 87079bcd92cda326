//! The body of the process that joins a container for one exec, waits for what it started, and answers the shim.
//! It ends with the shim.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal as DeathSignal;

use super::exec::{Outcome, Task};
use crate::container::runtime::RuntimeError;
use crate::pidfd::{Process, Signal};

pub(super) fn run() -> ExitCode {
    match answer_on_stdin() {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody can be told: the shim, at the other end, has gone, and this process is about to follow.
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer_on_stdin() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(DeathSignal::KILL))?;
    let mut shim = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let mut json = Vec::new();
    shim.read_to_end(&mut json)?;
    let outcome = perform(&serde_json::from_slice(&json)?);
    shim.write_all(&serde_json::to_vec(&outcome)?)
}

fn perform(task: &Task) -> Outcome {
    let process = match task.joining.run(task.streams.as_ref()) {
        Ok(process) => process,
        Err(RuntimeError::CannotRun(sentence)) => return Outcome::CannotRun(sentence),
        Err(error) => return Outcome::Failed(error.sentence()),
    };
    let limit = task.timeout_ms.map(Duration::from_millis);
    await_end(&process, limit).unwrap_or_else(|error| Outcome::Failed(error.to_string()))
}

fn await_end(process: &Process, limit: Option<Duration>) -> io::Result<Outcome> {
    let timeout = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut ended = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    if rustix::event::poll(&mut ended, timeout.as_ref())? == 0 {
        process.send(Signal::KILL).map_err(io::Error::other)?;
        process.wait()?;
        return Ok(Outcome::TimedOut);
    }
    process.wait().map(|ended| Outcome::Exited(ended.code()))
}
