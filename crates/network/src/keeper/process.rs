//! The proxy as a process: started under its own user, or found alive and adopted.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::KeeperError;
use super::configured::Configured;
use crate::channel::Channel;
use crate::config::Listener;
use crate::frames::{Drain, Handover, Passed, decode};

/// How long a living proxy may take to hand its sockets over. It needs milliseconds; one that needs more is stuck.
const LONGEST_HANDOVER: Duration = Duration::from_secs(5);

const THIS_PROGRAM: &str = "/proc/self/exe";

/// User and group of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyUser {
    pub uid: u32,
    pub gid: u32,
}

/// A proxy that lives, as far as is known.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) channel: Channel,
    pub(super) started: Instant,
    /// The last configuration that it has put in force.
    pub(super) acknowledged: u64,
    /// Whether it is known to take changes of a configuration.
    pub(super) takes_changes: bool,
    /// The counts that it told last, and the version that they were counted under.
    pub(super) drains: (u64, Vec<Drain>),
    process: Process,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    Adopted(OwnedFd),
}

/// What a living proxy gave.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) proxy: Option<Proxy>,
    /// The socket at which the proxy is asked for a handover.
    pub(super) adoption: OwnedFd,
    /// Its predecessors that finish their connections.
    pub(super) leaving: Vec<Proxy>,
    pub(super) listeners: Vec<(Listener, OwnedFd)>,
    pub(super) configured: Option<Configured>,
}

impl Adopted {
    /// Where no proxy lives.
    pub(super) fn nothing(adoption: OwnedFd) -> Self {
        Self { proxy: None, adoption, leaving: Vec::new(), listeners: Vec::new(), configured: None }
    }
}

impl Proxy {
    /// Starts this executable again, as `proxy`, with its end of a channel as standard input.
    pub(super) fn start(user: Option<ProxyUser>) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("segue").arg("proxy").stdin(theirs);
        if let Some(ProxyUser { uid, gid }) = user {
            // As root, setting the user also drops every supplementary group.
            command.gid(gid).uid(uid);
        }
        let child = command.spawn()?;
        Ok(Self::new(channel, Process::Child(child)))
    }

    fn new(channel: Channel, process: Process) -> Self {
        Self {
            channel,
            started: Instant::now(),
            acknowledged: 0,
            takes_changes: false,
            drains: (0, Vec::new()),
            process,
        }
    }

    /// Copies by which another keeper can go on with it: of its channel, and of the process.
    pub(super) fn copies(&self) -> io::Result<[OwnedFd; 2]> {
        let process = match &self.process {
            Process::Child(child) => pidfd_open(pid(child)?, PidfdFlags::empty())?,
            Process::Adopted(pidfd) => pidfd.try_clone()?,
        };
        Ok([self.channel.as_fd().try_clone_to_owned()?, process])
    }

    /// Whether it runs another program than this process.
    pub(super) fn is_of_another_build(&self) -> bool {
        match &self.process {
            Process::Child(_) => false,
            Process::Adopted(pidfd) => pid_of(pidfd).is_some_and(|pid| runs_another_file(pid, Path::new(THIS_PROGRAM))),
        }
    }

    /// Makes sure that it is gone.
    pub(super) fn end(mut self) {
        let ended = match &mut self.process {
            Process::Child(child) => child.kill().and_then(|()| child.wait()).map(drop),
            Process::Adopted(pidfd) => end_adopted(pidfd).map_err(io::Error::from),
        };
        if let Err(error) = ended {
            tracing::warn!("can't end the proxy: {error}");
        }
    }
}

/// Whether a process is known to run another file than this one. A file that replaced another under the same name is
/// another.
pub(crate) fn runs_another_file(pid: i32, executable: &Path) -> bool {
    let identity = |path: &Path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
    };
    let (theirs, ours) = (identity(Path::new(&format!("/proc/{pid}/exe"))), identity(executable));
    theirs.is_some() && ours.is_some() && theirs != ours
}

fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    about.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}

fn pid(child: &Child) -> io::Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn end_adopted(pidfd: &OwnedFd) -> rustix::io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error),
    }
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).map(drop)
}

/// Asks the proxy that listens on `path` for everything it has; None when there is no such proxy.
pub(super) fn adopt(path: &Path) -> Result<Option<Adopted>, KeeperError> {
    let Ok(stream) = UnixStream::connect(path) else { return Ok(None) };
    let mut channel = Channel::new(stream).map_err(|source| KeeperError::Adopt { source })?;
    let deadline = Instant::now() + LONGEST_HANDOVER;
    let (mut listeners, mut adoption, mut process) = (Vec::new(), None, None);
    let (mut channels, mut processes) = (Vec::new(), Vec::new());
    loop {
        let Some(payload) = next_payload(&mut channel, deadline)? else { return Ok(None) };
        let configured = match decode::<Handover>(&payload).map_err(|error| KeeperError::Channel(error.into()))? {
            Handover::Take(names) => {
                let descriptors = channel.take_descriptors(names.len());
                for (name, descriptor) in names.into_iter().zip(descriptors) {
                    match name {
                        Passed::Listener(listener) => listeners.push((listener, descriptor)),
                        Passed::Adoption => adoption = Some(descriptor),
                        Passed::Process => process = Some(descriptor),
                        Passed::LeavingChannel => channels.push(descriptor),
                        Passed::LeavingProcess => processes.push(descriptor),
                    }
                }
                continue;
            }
            Handover::Configure(view) => Some(Configured::new(&payload, view.version)),
            Handover::Unconfigured => None,
        };
        let (Some(adoption), Some(process)) = (adoption, process) else { return Err(KeeperError::HalfAHandover) };
        let proxy = Proxy::new(channel, Process::Adopted(process));
        let leaving = channels
            .into_iter()
            .zip(processes)
            .map(|(channel, process)| Ok(Proxy::new(Channel::new(channel)?, Process::Adopted(process))));
        let leaving: io::Result<Vec<Proxy>> = leaving.collect();
        let leaving = leaving.map_err(|source| KeeperError::Adopt { source })?;
        return Ok(Some(Adopted { proxy: Some(proxy), adoption, leaving, listeners, configured }));
    }
}

/// None when the proxy ended meanwhile.
fn next_payload(channel: &mut Channel, deadline: Instant) -> Result<Option<Vec<u8>>, KeeperError> {
    loop {
        if let Some(payload) = channel.next_payload()? {
            return Ok(Some(payload));
        }
        if channel.is_closed() {
            return Ok(None);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(KeeperError::StuckProxy);
        }
        wait_for_input(channel, left).map_err(|source| KeeperError::Poll { source })?;
        channel.fill()?;
    }
}

pub(super) fn wait_for_input(channel: &Channel, longest: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    match poll(&mut [PollFd::new(channel, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
