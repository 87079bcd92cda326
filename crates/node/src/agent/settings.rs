//! What an agent must know of its machine, chosen by who starts it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use decide::node_pressure::Thresholds;
use objects::ranges::Range;

/// Where one agent keeps things and how its pods reach others.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Node object's name.
    pub node_name: String,
    /// The node's address, as users see it.
    pub host_ip: Ipv4Addr,
    /// The engine's data directory.
    pub data_dir: PathBuf,
    /// The engine's run directory.
    pub run_dir: PathBuf,
    /// `default`, or 8 hex digits; tells this engine's cgroups and links from another's.
    pub instance: String,
    /// Where pods' addresses come from.
    pub pod_range: Range,
    /// The nameserver of pods.
    pub dns: Ipv4Addr,
    /// `cluster.local`, usually.
    pub cluster_domain: String,
    /// Processes and threads that all containers of a pod together may have.
    pub pod_pids_limit: i64,
    /// When the machine is so short of something that pods have to go.
    pub eviction: Thresholds,
    /// The `segue` program, whose `shim` command runs pods.
    pub executable: PathBuf,
}

impl Settings {
    /// Those of a test that keeps everything below a directory of its own.
    #[cfg(test)]
    pub(crate) fn below(directory: &Path) -> Self {
        Self {
            node_name: "box".to_owned(),
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            data_dir: directory.join("data"),
            run_dir: directory.join("run"),
            instance: "default".to_owned(),
            pod_range: "10.44.0.0/16".parse().expect("a range"),
            dns: Ipv4Addr::new(10, 45, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            pod_pids_limit: 1024,
            eviction: Thresholds::DEFAULT,
            executable: PathBuf::from("/proc/self/exe"),
        }
    }

    /// Where the machine's owner puts seccomp profiles for pods to name.
    #[must_use]
    pub fn seccomp_dir(&self) -> PathBuf {
        self.data_dir.join("seccomp")
    }

    /// What outlives a reboot of one pod: logs, volumes, what its containers write.
    #[must_use]
    pub fn pod_data_dir(&self, uid: &str) -> PathBuf {
        pod_dir(&self.data_dir, uid)
    }

    /// What only matters while the pod's sandbox lives.
    #[must_use]
    pub fn pod_run_dir(&self, uid: &str) -> PathBuf {
        pod_dir(&self.run_dir, uid)
    }

    /// The log of one run of a container.
    #[must_use]
    pub fn log_path(&self, uid: &str, container: &str, attempt: i32) -> PathBuf {
        self.pod_data_dir(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }
}

fn pod_dir(directory: &Path, uid: &str) -> PathBuf {
    directory.join("pods").join(uid)
}
