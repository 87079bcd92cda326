//! One container: what the engine asks for, as data, and what makes a process of it (libcontainer, inside the shim).
//! Everything below is used by the shim only. It knows no Kubernetes object.

pub mod capabilities;
pub(crate) mod runtime;

mod devices;
mod executor;
mod rootfs;
pub(crate) mod seccomp;
mod spec;
mod syscalls;

pub(crate) use self::executor::chain;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroups::Limits;

/// A container to create. Paths are the host's, except where the container's are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerConfig {
    /// Unique in the pod over all attempts; names the container's directories and cgroup.
    pub id: String,
    pub name: String,
    /// How many times a container of this name was created before.
    #[serde(default)]
    pub attempt: u32,
    pub rootfs: Overlay,
    /// The program and its arguments, entrypoint and command already joined.
    pub args: Vec<String>,
    /// `NAME=value`; later ones win. `PATH`, `HOME` and `HOSTNAME` have defaults.
    #[serde(default)]
    pub env: Vec<String>,
    /// The working directory in the container, made when it isn't there. `/` when empty.
    #[serde(default)]
    pub cwd: PathBuf,
    #[serde(default)]
    pub user: User,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub limits: Limits,
    /// Which processes the kernel sacrifices first: −1000 (never) to 1000. Raising needs no privilege.
    #[serde(default)]
    pub oom_score_adj: Option<i32>,
    #[serde(default)]
    pub root: RootAccess,
    #[serde(default)]
    pub capabilities: CapabilityChange,
    #[serde(default)]
    pub confinement: Confinement,
    /// What a `Signal` without a name sends, from the image's configuration. SIGTERM when absent.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Where its output goes, in the CRI format.
    pub log_path: PathBuf,
}

/// The container's root filesystem: the image's layers and a directory of its own for what it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlay {
    /// Unpacked layers, from the bottom to the top; at least one.
    pub lower: Vec<PathBuf>,
    /// New for every container: what is written here needn't survive the machine. Made when missing.
    pub upper: PathBuf,
    /// New for every container, on the filesystem of `upper`. Made when missing.
    pub work: PathBuf,
}

/// Whether the root filesystem can be written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RootAccess {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// Whom the container's process runs as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
}

/// Something mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute, in the container.
    pub target: PathBuf,
    pub source: MountSource,
    /// What of the source is mounted, below it: made as a directory when it is missing, and never outside, whatever links
    /// there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<PathBuf>,
    #[serde(default)]
    pub access: MountAccess,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MountSource {
    /// A file or directory of the host, with what is mounted below it.
    Bind { path: PathBuf },
    /// Memory that all containers of the pod share under this name, for as long as the pod lives.
    PodTmpfs { name: String, size_bytes: Option<u64> },
    /// Memory of this container alone.
    Tmpfs { size_bytes: Option<u64> },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountAccess {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// Capabilities by name (`NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`), dropped first and added then, as Kubernetes does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapabilityChange {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

/// How a container is kept apart from the machine and from the pod's other containers. By default as far as possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Confinement {
    pub privilege: Privilege,
    pub escalation: Escalation,
    pub seccomp: Seccomp,
    pub processes: Processes,
}

/// Whether a container is kept from the machine at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Privilege {
    #[default]
    Confined,
    /// Every capability and device, nothing hidden, no filter of system calls: root of the machine.
    Full,
}

/// Whether a program can get more privileges than its parent, as set-user-ID programs do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Escalation {
    #[default]
    Refused,
    Allowed,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile in the OCI runtime specification's JSON.
    Profile {
        json: String,
    },
}

/// Which processes a container's processes see and may signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Processes {
    /// Its own.
    #[default]
    Own,
    /// The pod's.
    Pod,
    /// The machine's.
    Machine,
}
