//! What the kernel says about this machine.

use std::path::Path;

use decide::node_pressure::{Resource, Room};

use crate::agent::Settings;

/// The kubelet's default threshold.
const LEAST_PIDS_PERCENT: u64 = 5;

/// What the machine is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: Shortage,
    pub(super) disk: Shortage,
    pub(super) pids: Shortage,
}

/// Whether less is left than the node wants to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shortage {
    #[default]
    No,
    Yes,
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: u64,
}

pub(super) fn memory() -> Memory {
    read_memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// What there is of a resource. What cannot be read is unknown.
pub(crate) fn room(resource: Resource, data_dir: &Path) -> Room {
    match resource {
        Resource::Memory => {
            let memory = memory();
            Room { capacity: memory.total_bytes, available: memory.available_bytes }
        }
        Resource::Disk => rustix::fs::statvfs(data_dir).map_or(Room::default(), |disk| Room {
            capacity: disk.f_blocks * disk.f_frsize,
            available: disk.f_bavail * disk.f_frsize,
        }),
    }
}

/// What is unknown is not short.
pub(super) fn pressure(settings: &Settings) -> Pressure {
    let is_short = |resource| {
        let crossed = settings.eviction.are_crossed(resource, room(resource, &settings.data_dir));
        if crossed { Shortage::Yes } else { Shortage::No }
    };
    Pressure { memory: is_short(Resource::Memory), disk: is_short(Resource::Disk), pids: pid_shortage() }
}

/// As Kubernetes and images call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The first line of a file, or nothing.
pub(super) fn read_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

pub(super) fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

impl Shortage {
    /// Less is left than this.
    fn below(left: u64, least: u64) -> Self {
        if left < least { Self::Yes } else { Self::No }
    }
}

/// `/proc/loadavg` counts the threads that there are, `pid_max` says how many there can be.
fn pid_shortage() -> Shortage {
    let used = read_line("/proc/loadavg")
        .split_whitespace()
        .nth(3)
        .and_then(|tasks| tasks.split_once('/')?.1.parse::<u64>().ok());
    let most = read_line("/proc/sys/kernel/pid_max").parse::<u64>().ok();
    let (Some(used), Some(most)) = (used, most) else { return Shortage::No };
    Shortage::below(most.saturating_sub(used) * 100, most * LEAST_PIDS_PERCENT)
}

fn read_memory(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Memory { total_bytes: bytes("MemTotal:").unwrap_or(0), available_bytes: bytes("MemAvailable:").unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let memory = read_memory("MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:    1024 kB\n");
        assert_eq!((memory.total_bytes, memory.available_bytes), (2 << 20, 1 << 20));
    }
}
