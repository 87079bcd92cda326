//! The shim's command line, as the engine writes it and the shim reads it. Not for people.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroups::Limits;
use crate::container::Processes;

/// What a shim is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) pod_uid: String,
    pub(crate) hostname: String,
    pub(crate) socket: PathBuf,
    pub(crate) pid_file: PathBuf,
    /// Where containers are put together: root filesystems are mounted and runtime state is kept below.
    pub(crate) bundle_dir: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) limits: Limits,
    pub(crate) sharing: Sharing,
}

/// What a pod has in common with its machine, and its containers with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sharing {
    /// Interfaces, ports and the hostname.
    pub network: Whose,
    /// Shared memory, semaphores and message queues.
    pub ipc: Whose,
    pub processes: Processes,
    /// Settings of the kernel, by names such as `net.ipv4.tcp_syncookies`, in the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
}

/// Whose namespace a pod's containers are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    #[default]
    Pod,
    Machine,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve(Box<Options>),
    /// Hold the namespace of the pod's processes, and reap them.
    Pause,
    /// Run one process in a container, told by the shim on standard input.
    Exec,
}

/// Why a command line can't be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum OptionsError {
    #[error("option {0:?} is unknown to the shim, or has no value")]
    Unknown(OsString),
    #[error("the value of {0} is not text")]
    NotText(&'static str),
    #[error("the shim needs {0}")]
    Missing(&'static str),
    #[error("the value of {0} is not what the engine writes")]
    Unreadable(&'static str),
}

const EXEC: &str = "exec";
const PAUSE: &str = "pause";
const NAMES: [&str; 8] =
    ["--pod-uid", "--hostname", "--socket", "--pid-file", "--bundle-dir", "--cgroup", "--limits", "--sharing"];

impl Options {
    /// The arguments that `parse` reads these options from.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let (limits, sharing) = (serde_json::json!(self.limits), serde_json::json!(self.sharing));
        let values: [OsString; NAMES.len()] = [
            self.pod_uid.clone().into(),
            self.hostname.clone().into(),
            self.socket.clone().into(),
            self.pid_file.clone().into(),
            self.bundle_dir.clone().into(),
            self.cgroup.clone().into(),
            limits.to_string().into(),
            sharing.to_string().into(),
        ];
        NAMES.iter().map(OsString::from).zip(values).flat_map(|(name, value)| [name, value]).collect()
    }
}

/// The arguments that make a shim's program join a container.
pub(super) fn exec_args() -> [OsString; 1] {
    [EXEC.into()]
}

/// The arguments that make it hold a namespace.
pub(super) fn pause_args() -> [OsString; 1] {
    [PAUSE.into()]
}

pub(super) fn parse(args: &[OsString]) -> Result<Command, OptionsError> {
    match args {
        [only] if only == EXEC => return Ok(Command::Exec),
        [only] if only == PAUSE => return Ok(Command::Pause),
        _ => {}
    }
    let mut values: [Option<OsString>; NAMES.len()] = Default::default();
    for pair in args.chunks(2) {
        let position = NAMES.iter().position(|name| pair.first().is_some_and(|given| given == name));
        match (position, pair) {
            (Some(position), [_, value]) => values[position] = Some(value.clone()),
            _ => return Err(OptionsError::Unknown(pair.first().cloned().unwrap_or_default())),
        }
    }
    let [uid, hostname, socket, pid_file, bundle_dir, cgroup, limits, sharing] = values;
    Ok(Command::Serve(Box::new(Options {
        pod_uid: text(uid, "--pod-uid")?,
        hostname: text(hostname, "--hostname")?,
        socket: path(socket, "--socket")?,
        pid_file: path(pid_file, "--pid-file")?,
        bundle_dir: path(bundle_dir, "--bundle-dir")?,
        cgroup: text(cgroup, "--cgroup")?,
        limits: read(limits, "--limits")?,
        sharing: read(sharing, "--sharing")?,
    })))
}

fn path(value: Option<OsString>, name: &'static str) -> Result<PathBuf, OptionsError> {
    value.map(PathBuf::from).ok_or(OptionsError::Missing(name))
}

fn text(value: Option<OsString>, name: &'static str) -> Result<String, OptionsError> {
    let value = value.ok_or(OptionsError::Missing(name))?;
    value.into_string().map_err(|_| OptionsError::NotText(name))
}

fn read<T: DeserializeOwned + Default>(value: Option<OsString>, name: &'static str) -> Result<T, OptionsError> {
    let Some(value) = value else { return Ok(T::default()) };
    serde_json::from_str(&text(Some(value), name)?).map_err(|_| OptionsError::Unreadable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_writes_the_shim_reads() {
        let options = Options {
            pod_uid: "1".into(),
            hostname: "web-0".into(),
            socket: "/run/a b/shim.sock".into(),
            pid_file: "/run/shim.pid".into(),
            bundle_dir: "/run/bundles".into(),
            cgroup: "/segue-default/pod1".into(),
            limits: Limits { memory_bytes: Some(1), ..Limits::default() },
            sharing: Sharing { network: Whose::Machine, ..Sharing::default() },
        };
        assert_eq!(parse(&options.to_args()), Ok(Command::Serve(Box::new(options))));
        assert_eq!(parse(&exec_args()), Ok(Command::Exec));
        assert_eq!(parse(&pause_args()), Ok(Command::Pause));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let parse = |args: &[&str]| parse(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Err(OptionsError::Missing("--pod-uid")));
        assert_eq!(parse(&["--pod"]), Err(OptionsError::Unknown("--pod".into())));
        assert_eq!(parse(&["--socket"]), Err(OptionsError::Unknown("--socket".into())));
    }
}
