//! systemd as the first process of a machine: it starts what is installed, and takes it down with the machine.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::machine::Machine;
use crate::run::{LIMIT, limited, output_of};

/// Hierarchies of cgroups, of any layout, hang below this.
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// systemd over a machine whose processes, but not whose network, are its own. Its units outlive it, its end is a
/// machine's without power.
#[derive(Debug)]
pub struct Systemd {
    child: Child,
    /// As seen from outside.
    first_process: u32,
    pidfd: OwnedFd,
    cgroup: String,
}

impl Systemd {
    /// Starts it and waits until everything is started that is enabled.
    #[must_use]
    pub fn boot(machine: &Machine) -> Systemd {
        let units = machine.directory().join("units");
        fs::create_dir_all(&units).expect("a directory of ours");
        let name = machine.directory().file_name().expect("a name").to_string_lossy();
        let cgroup = format!("segue-systemd-{}", name.trim_start_matches('.'));
        let log = fs::File::options().create(true).append(true).open(machine.directory().join("systemd.log"));
        let log = log.expect("a directory of ours");
        let enter = format!(
            "if [ -e {HIERARCHIES}/cgroup.subtree_control ]; then all={HIERARCHIES}; \
             echo +cpu +memory +pids > $all/cgroup.subtree_control; else all={HIERARCHIES}/*; fi; \
             for directory in $all; do [ -e $directory/cgroup.procs ] || continue; \
             mkdir -p $directory/{cgroup}; for file in cpuset.cpus cpuset.mems; do [ ! -s $directory/$file ] || \
             cat $directory/$file > $directory/{cgroup}/$file; done; echo $$ > $directory/{cgroup}/cgroup.procs; done; \
             exec unshare --mount-proc --mount --cgroup --ipc bash -c \"$0\" bash \"$1\""
        );
        // Its parent, which systemd couldn't move, stays out of its cgroup: on version 2 that has to be empty to be divided.
        let mut unshare = machine.namespace().unlimited("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "bash", "-c", &enter]);
        unshare.arg(include_str!("systemd.sh")).arg(&units);
        let child = unshare.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = child.spawn().expect("unshare is part of util-linux");
        let first_process = wait_for_first_process(child.id());
        let pid = i32::try_from(first_process).ok().and_then(Pid::from_raw).expect("a process of ours");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it waits for nobody to reap it");
        let systemd = Systemd { child, first_process, pidfd, cgroup };
        systemd.wait_until_booted();
        systemd
    }

    fn wait_until_booted(&self) {
        let asks =
            "until systemctl is-system-running --wait 2>/dev/null | grep -E 'running|degraded'; do sleep 0.1; done";
        let said = output_of(self.command("timeout").args(["60", "bash", "-c", asks]));
        assert_eq!(said, "running\n", "{}", output_of(self.command("systemctl").args(["--failed"])));
    }

    /// `program` on this machine.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut nsenter = limited(LIMIT, "nsenter");
        nsenter.arg(format!("--target={}", self.first_process));
        nsenter.args(["--pid", "--mount", "--net", "--cgroup", "--ipc", "--", program]);
        nsenter
    }

    /// Takes the machine down in order, as `poweroff` does.
    pub fn power_off(mut self) {
        output_of(self.command("systemctl").args(["--no-block", "poweroff"]));
        self.child.wait().expect("a child of ours");
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Everything ends with its first process, which may be gone.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.child.wait();
        for path in cgroups(&self.cgroup) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// The cgroups of this name and those below them, the deepest first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let roots = fs::read_dir(HIERARCHIES).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = roots.chain([HIERARCHIES.into()]).map(|root| root.join(name)).collect();
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        found.extend(below.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()));
        next += 1;
    }
    found.reverse();
    found
}

/// The one child of the `unshare` that is the one child of `nsenter`, once it is systemd: it has its namespaces by then.
fn wait_for_first_process(nsenter: u32) -> u32 {
    let asks = "child_of() { cat /proc/$1/task/$1/children; }
        until unshare=$(child_of $0) && [ \"$(cat /proc/${unshare% }/comm)\" = unshare ] &&
          first=$(child_of ${unshare% }) && [ \"$(cat /proc/${first% }/comm)\" = systemd ]; do sleep 0.05; done 2>/dev/null
        echo ${first% }";
    let said = output_of(Command::new("timeout").args(["20", "bash", "-c", asks, &nsenter.to_string()]));
    said.trim().parse().unwrap_or_else(|_| panic!("one child, not {said:?}"))
}
