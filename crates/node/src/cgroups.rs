//! The cgroups of pods: created with the pod's limits, counted for OOM kills, killed and removed.
//! Version 1 and hybrid layouts are treated alike (the controllers are in version 1), version 2 by itself.
//! A `Cgroup` is always below `/segue-<instance>/`, so nothing here can reach the rest of the machine.

mod hierarchies;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};

pub use self::hierarchies::{Hierarchies, Version};
use crate::pidfd::{Process, ProcessError, Signal};

/// How long the kernel may take to end processes that were sent SIGKILL before that is an error.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a cgroup may stay busy after the last process has left `cgroup.procs`.
const REMOVE_DEADLINE: Duration = Duration::from_secs(2);
const REMOVE_RETRY: Duration = Duration::from_millis(2);
/// The controllers in which a pod gets a limit of its own.
const LIMITED: [&str; 3] = ["cpu", "memory", "pids"];

/// A cgroup of a pod (`/segue-default/pod<uid>`) or of one of its containers, as a path from the hierarchies' root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(String);

/// What a cgroup may use; what is absent isn't limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    pub memory_bytes: Option<i64>,
    /// Microseconds of CPU in every `cpu_period_us`.
    pub cpu_quota_us: Option<i64>,
    /// 100,000 when absent.
    pub cpu_period_us: Option<u64>,
    /// Weight against others, 1024 for each CPU requested.
    pub cpu_shares: Option<u64>,
    pub pids: Option<i64>,
}

/// Why a cgroup could not be found, made, killed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{0:?} is not the cgroup of a pod: it must be /segue-<instance>/<pod>[/<container>]")]
    NotAPod(String),
    #[error("cannot read where cgroups are mounted")]
    Mounts(#[source] io::Error),
    #[error("no cgroup hierarchy is mounted below /sys/fs/cgroup: is cgroupfs available here?")]
    NotMounted,
    #[error("cannot create cgroup {path:?}")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {value:?} to {path:?}")]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cgroup {path:?} holds a process of another PID namespace, which can't be signalled from here")]
    Foreign { path: PathBuf },
    #[error("cannot kill what is left in cgroup {cgroup}")]
    Kill {
        cgroup: String,
        #[source]
        source: ProcessError,
    },
    #[error("{left} processes of cgroup {cgroup} have not ended {waited:?} after SIGKILL")]
    StillAlive { cgroup: String, left: usize, waited: Duration },
    #[error("cannot wait for the processes of cgroup {cgroup}")]
    Wait {
        cgroup: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove cgroup {path:?}")]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Cgroup {
    /// Accepts `/segue-<instance>/<pod>` and what is below it, and nothing else.
    pub fn parse(path: &str) -> Result<Self, CgroupError> {
        let refused = || CgroupError::NotAPod(path.to_owned());
        let parts: Vec<&str> = path.strip_prefix('/').ok_or_else(refused)?.split('/').collect();
        let named = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
        let ours = parts.first().is_some_and(|first| first.starts_with("segue-"));
        if named && ours && parts.len() >= 2 { Ok(Self(path.to_owned())) } else { Err(refused()) }
    }

    /// The cgroup of a container of this pod.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        Self::parse(&format!("{}/{name}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Creates the cgroup in every hierarchy that limits something, and writes the limits. Existing ones are kept.
    pub fn create(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<(), CgroupError> {
        match hierarchies.version() {
            Version::V1 => self.create_v1(hierarchies, limits),
            Version::V2 => self.create_v2(hierarchies, limits),
        }
    }

    fn create_v1(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<(), CgroupError> {
        for controller in LIMITED {
            let Some(path) = hierarchies.directory(controller, self) else { continue };
            create_directory(&path)?;
            for (file, value) in v1_values(controller, limits) {
                write(&path.join(file), &value)?;
            }
        }
        Ok(())
    }

    fn create_v2(&self, hierarchies: &Hierarchies, limits: &Limits) -> Result<(), CgroupError> {
        let Some(path) = hierarchies.directory("", self) else { return Err(CgroupError::NotMounted) };
        create_directory(&path)?;
        for ancestor in hierarchies.ancestors(self) {
            for controller in LIMITED {
                write(&ancestor.join("cgroup.subtree_control"), &format!("+{controller}"))?;
            }
        }
        for (file, value) in v2_values(limits) {
            write(&path.join(file), &value)?;
        }
        Ok(())
    }

    /// How many processes of this cgroup the kernel has killed for want of memory since it was created.
    pub fn oom_kills(&self, hierarchies: &Hierarchies) -> Result<u64, CgroupError> {
        let file = match hierarchies.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let Some(directory) = hierarchies.directory("memory", self) else { return Ok(0) };
        let path = directory.join(file);
        let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        Ok(find_counter(&text, "oom_kill").unwrap_or(0))
    }

    /// The bytes of memory that are used here and below, but for what files left that nobody has used lately. Nothing
    /// for a cgroup that isn't there.
    pub fn working_set(&self, hierarchies: &Hierarchies) -> Result<u64, CgroupError> {
        let (usage, inactive) = match hierarchies.version() {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let Some(directory) = hierarchies.directory("memory", self) else { return Ok(0) };
        let used = read_if_there(&directory.join(usage))?.and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64);
        let counters = read_if_there(&directory.join("memory.stat"))?.unwrap_or_default();
        Ok(used.saturating_sub(find_counter(&counters, inactive).unwrap_or(0)))
    }

    /// The names of the cgroups directly below.
    pub fn children(&self, hierarchies: &Hierarchies) -> Result<Vec<String>, CgroupError> {
        let Some(path) = hierarchies.directory("memory", self) else { return Ok(Vec::new()) };
        let failed = |source| CgroupError::Read { path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Kills every process in this cgroup and below, and waits until all have ended. Blocks, for seconds at worst.
    pub fn kill(&self, hierarchies: &Hierarchies) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_DEADLINE;
        loop {
            let members = self.open_members(hierarchies)?;
            if members.is_empty() {
                return Ok(());
            }
            for process in &members {
                self.kill_member(process)?;
            }
            self.wait_for(&members, deadline)?;
        }
    }

    fn kill_member(&self, process: &Process) -> Result<(), CgroupError> {
        match process.send(Signal::KILL) {
            Err(source) if !source.is_gone() => Err(CgroupError::Kill { cgroup: self.0.clone(), source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The members as pidfds. A pid that was read may belong to another process by the time it is opened, so only
    /// those that are members still afterwards are returned.
    fn open_members(&self, hierarchies: &Hierarchies) -> Result<Vec<Process>, CgroupError> {
        let mut opened = Vec::new();
        for pid in self.pids(hierarchies)? {
            match Process::open(pid) {
                Ok(process) => opened.push(process),
                Err(source) if source.is_gone() => {}
                Err(source) => return Err(CgroupError::Kill { cgroup: self.0.clone(), source }),
            }
        }
        let still = self.pids(hierarchies)?;
        opened.retain(|process| still.contains(&process.pid()));
        Ok(opened)
    }

    fn wait_for(&self, processes: &[Process], deadline: Instant) -> Result<(), CgroupError> {
        let mut left: Vec<&Process> = processes.iter().collect();
        while !left.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                let (cgroup, left) = (self.0.clone(), left.len());
                return Err(CgroupError::StillAlive { cgroup, left, waited: KILL_DEADLINE });
            }
            left = wait_some(left, remaining).map_err(|source| CgroupError::Wait { cgroup: self.0.clone(), source })?;
        }
        Ok(())
    }

    /// The processes in this cgroup and below it, in any hierarchy, in order.
    pub fn pids(&self, hierarchies: &Hierarchies) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for directory in hierarchies.directories(self) {
            collect_pids(&directory, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes the cgroup and what is below it, which must hold no processes any more. Blocks for milliseconds.
    pub fn remove(&self, hierarchies: &Hierarchies) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        hierarchies.directories(self).iter().try_for_each(|path| remove_tree(path, deadline))
    }
}

/// Removes the directories of an instance, `/segue-<instance>`, in which no process may be any more. Those of pods whose
/// shims and sockets were lost, with `/run` say, are still in it.
pub fn remove_instance(instance: &str, hierarchies: &Hierarchies) -> Result<(), CgroupError> {
    let some_pod = Cgroup::parse(&format!("/segue-{instance}/pod"))?;
    let deadline = Instant::now() + REMOVE_DEADLINE;
    hierarchies.instance_directories(&some_pod).iter().try_for_each(|path| remove_tree(path, deadline))
}

/// Waits until at least one has ended, or the time is over, and returns those that have not.
fn wait_some(processes: Vec<&Process>, at_most: Duration) -> io::Result<Vec<&Process>> {
    let mut fds: Vec<_> = processes.iter().map(|process| PollFd::new(*process, PollFlags::IN)).collect();
    let timeout = rustix::event::Timespec::try_from(at_most).map_err(io::Error::other)?;
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    Ok(processes.into_iter().zip(ended).filter(|(_, ended)| !ended).map(|(p, _)| p).collect())
}

fn v1_values(controller: &str, limits: &Limits) -> Vec<(&'static str, String)> {
    let values = match controller {
        "cpu" => vec![
            ("cpu.shares", limits.cpu_shares.map(|shares| shares.to_string())),
            ("cpu.cfs_period_us", limits.cpu_period_us.map(|period| period.to_string())),
            ("cpu.cfs_quota_us", limits.cpu_quota_us.map(|quota| quota.to_string())),
        ],
        "memory" => {
            vec![("memory.limit_in_bytes", limits.memory_bytes.map(|bytes| bytes.to_string()))]
        }
        _ => vec![("pids.max", limits.pids.map(|pids| pids.to_string()))],
    };
    values.into_iter().filter_map(|(file, value)| Some((file, value?))).collect()
}

fn v2_values(limits: &Limits) -> Vec<(&'static str, String)> {
    let period = limits.cpu_period_us.unwrap_or(100_000);
    let values = [
        ("cpu.weight", limits.cpu_shares.map(|shares| weight(shares).to_string())),
        ("cpu.max", limits.cpu_quota_us.map(|quota| format!("{quota} {period}"))),
        ("memory.max", limits.memory_bytes.map(|bytes| bytes.to_string())),
        ("pids.max", limits.pids.map(|pids| pids.to_string())),
    ];
    values.into_iter().filter_map(|(file, value)| Some((file, value?))).collect()
}

/// Shares of version 1 (2 to 262,144) on the scale of version 2 (1 to 10,000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Nothing of a cgroup that went away, or was never there.
fn read_if_there(path: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(CgroupError::Read { path: path.to_owned(), source }),
    }
}

fn find_counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn create_directory(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError::Create { path: path.to_owned(), source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(source) => return Err(CgroupError::Read { path, source }),
    };
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if pid == 0 {
            return Err(CgroupError::Foreign { path });
        }
        pids.push(pid);
    }
    subdirectories(directory)?.iter().try_for_each(|below| collect_pids(below, pids))
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let unreadable = |source| CgroupError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_tree(directory: &Path, deadline: Instant) -> Result<(), CgroupError> {
    for below in subdirectories(directory)? {
        remove_tree(&below, deadline)?;
    }
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => wait_for_last_task(),
            Err(source) => {
                return Err(CgroupError::Remove { path: directory.to_owned(), source });
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a task that has ended leaves its cgroup a moment later, and version 1 tells nobody when"
)]
fn wait_for_last_task() {
    std::thread::sleep(REMOVE_RETRY);
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_pods_goes_with_their_instance() {
        let (instance, hierarchies) = (format!("left{}", std::process::id()), Hierarchies::find().unwrap());
        let container = Cgroup::parse(&format!("/segue-{instance}/pod1/c-0")).unwrap();
        let directories = hierarchies.directories(&container);
        directories.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        remove_instance(&instance, &hierarchies).unwrap();
        let instance_directories = directories.iter().map(|path| path.parent().unwrap().parent().unwrap());
        assert!(!directories.is_empty() && instance_directories.into_iter().all(|path| !path.exists()));
    }

    #[test]
    fn only_what_is_below_an_instance_is_a_pods_cgroup() {
        for path in ["/segue-default/pod1", "/segue-1a2b/pod1/web-0"] {
            assert_eq!(Cgroup::parse(path).unwrap().as_str(), path);
        }
        for path in [
            "",
            "/",
            "/segue-default",
            "/segue-default/",
            "segue-default/pod1",
            "/system/pod1",
            "/segue-default/../system",
            "/segue-default/./pod1",
            "/segue-default//pod1",
        ] {
            assert!(Cgroup::parse(path).is_err(), "{path}");
        }
        assert!(Cgroup::parse("/segue-default/pod1").unwrap().child("../../x").is_err());
    }

    #[test]
    fn shares_become_weights_at_both_ends() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144)], [1, 1, 39, 10_000]);
    }

    #[test]
    fn limits_are_written_as_each_version_wants_them() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_quota_us: Some(50_000),
            cpu_period_us: None,
            cpu_shares: Some(512),
            pids: None,
        };
        let v2: Vec<String> = v2_values(&limits).iter().map(|(file, value)| format!("{file}={value}")).collect();
        assert_eq!(v2, ["cpu.weight=20", "cpu.max=50000 100000", "memory.max=1048576"]);
        assert_eq!(v1_values("memory", &limits), [("memory.limit_in_bytes", "1048576".to_owned())]);
        assert!(v1_values("pids", &limits).is_empty());
    }

    #[test]
    fn the_kernels_counter_is_found_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(find_counter(text, "oom_kill"), Some(3));
        assert_eq!(find_counter("oom 1\noom_group_kill 0\n", "oom_kill"), None);
    }
}
