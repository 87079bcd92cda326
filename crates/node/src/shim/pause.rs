//! The first process of the namespace in which a pod's containers share their processes. It holds the namespace
//! between containers and reaps what loses its parent there.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::journal::log;
use super::options;
use crate::sys;

/// The process. It ends when this is dropped, or the shim has ended.
#[derive(Debug)]
pub(crate) struct Pause {
    pid: u32,
    _alive: OwnedFd,
}

impl Pause {
    /// Starts it, in a namespace that it alone is in.
    pub(super) fn start(leading_args: &[OsString]) -> io::Result<Self> {
        let (told, alive) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let own = File::open("/proc/self/ns/pid")?;
        let mut command = Command::new("/proc/self/exe");
        command.args(leading_args).args(options::pause_args()).env_clear().stdin(Stdio::from(told));
        sys::unshare(UnshareFlags::NEWPID)?;
        let started = command.spawn();
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        Ok(Self { pid: started?.id(), _alive: alive })
    }

    /// Its number, as the shim sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// Its body.
pub(super) fn run() -> ExitCode {
    match reap_until_told() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("cannot reap the pod's processes: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn reap_until_told() -> io::Result<()> {
    let children = sys::watch_children()?;
    loop {
        let shim = rustix::stdio::stdin();
        let mut ready = [PollFd::new(&shim, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        rustix::event::poll(&mut ready, None)?;
        if !ready[0].revents().is_empty() {
            return Ok(());
        }
        let mut told = [0; 4096];
        rustix::io::read(&children, &mut told)?;
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
