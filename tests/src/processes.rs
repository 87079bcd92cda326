//! The processes of a machine, found by their PID namespace and signalled only by a checked pidfd.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::namespace::Namespace;

/// A living process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// As seen from outside.
    pub pid: i32,
    pub executable: PathBuf,
    pub arguments: Vec<String>,
    /// In clock ticks since the machine started: tells two processes with the same number apart.
    started: u64,
}

/// All living processes in the PID namespace of `machine` and below it, but the machine's first.
#[must_use]
pub fn of(machine: &Namespace) -> Vec<Process> {
    let first = i32::try_from(machine.first_process()).expect("a pid");
    let namespace = fs::read_link(machine.proc("ns/pid")).expect("the first process lives");
    let parents: Vec<_> = pids().into_iter().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let inside = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|of| of == namespace);
    let mut found: Vec<_> = parents.iter().map(|(pid, _)| *pid).filter(|pid| inside(*pid)).collect();
    // A container has a PID namespace of its own, but its shim is its ancestor.
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid);
        let new: Vec<_> = children.filter(|child| !found.contains(child)).collect();
        found.extend(new);
        next += 1;
    }
    found.into_iter().filter(|pid| *pid != first).filter_map(read).collect()
}

/// The processes of `machine` that run `segue` in `role`: `up`, `keeper`, `proxy`.
#[must_use]
pub fn in_role(machine: &Namespace, role: &str) -> Vec<Process> {
    let mut found = of(machine);
    found.retain(|process| process.role() == Some(role));
    // A child that has not become its own program yet still looks like its parent.
    let pids: Vec<i32> = found.iter().map(|process| process.pid).collect();
    found.retain(|process| parent_of(process.pid).is_some_and(|parent| !pids.contains(&parent)));
    found
}

/// The process of `machine` that has been running `program` for longest.
#[must_use]
pub fn oldest(machine: &Namespace, program: &str) -> Process {
    let mut found = of(machine);
    found.retain(|process| process.arguments.first().is_some_and(|first| first == program));
    found.into_iter().min_by_key(|process| process.started).unwrap_or_else(|| panic!("{program} does not run"))
}

impl Process {
    /// The first argument of a `segue` process.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        let segue = self.executable.file_name().is_some_and(|name| name == "segue");
        self.arguments.get(1).filter(|_| segue).map(String::as_str)
    }

    /// Kills it with SIGKILL and waits until it has ended.
    pub fn kill(&self) {
        let pidfd = self.open();
        pidfd_send_signal(&pidfd, Signal::KILL).expect("a process of ours can be killed");
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).expect("a pidfd can be polled");
    }

    /// Time spent on it, in its own code and in the kernel, in hundredths of a second: Linux counts so for all
    /// programs, whatever the kernel's own tick.
    #[must_use]
    pub fn cpu_hundredths(&self) -> u64 {
        let stat = stat(self.pid).expect("the process lives");
        [11, 12].iter().map(|place| stat[*place].parse::<u64>().expect("a number")).sum()
    }

    /// Its memory in KiB, with a fair share of what it shares with others.
    #[must_use]
    pub fn pss_kib(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).expect("the process lives");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the kernel says Pss");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    fn open(&self) -> OwnedFd {
        let pid = Pid::from_raw(self.pid).filter(|pid| pid.as_raw_pid() > 1).expect("a process that was found");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("the process has not ended");
        // The pidfd is of whoever has the number now: it must still be the process that was found.
        assert_eq!(read(self.pid).as_ref(), Some(self), "another process took the number {}", self.pid);
        pidfd
    }
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// `None` for a process that has ended or is a zombie.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = stat(pid)?;
    (stat.first()? != "Z").then(|| stat.get(1)?.parse().ok())?
}

fn read(pid: i32) -> Option<Process> {
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = arguments.split_terminator('\0').map(str::to_owned).collect();
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let started = stat(pid)?.get(19)?.parse().ok()?;
    Some(Process { pid, executable, arguments, started })
}

/// The fields of `/proc/PID/stat` from the third, the state, on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}
