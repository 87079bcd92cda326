//! The shim's command line, as the engine writes it and the shim reads it. Not for people.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cgroups::Limits;

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
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Serve(Box<Options>),
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
    #[error("the value of --limits is not what the engine writes")]
    Limits,
}

const EXEC: &str = "exec";
const NAMES: [&str; 7] = ["--pod-uid", "--hostname", "--socket", "--pid-file", "--bundle-dir", "--cgroup", "--limits"];

impl Options {
    /// The arguments that `parse` reads these options from.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let limits = serde_json::json!(self.limits).to_string();
        let values: [OsString; NAMES.len()] = [
            self.pod_uid.clone().into(),
            self.hostname.clone().into(),
            self.socket.clone().into(),
            self.pid_file.clone().into(),
            self.bundle_dir.clone().into(),
            self.cgroup.clone().into(),
            limits.into(),
        ];
        NAMES.iter().map(OsString::from).zip(values).flat_map(|(name, value)| [name, value]).collect()
    }
}

/// The arguments that make a shim's program join a container.
pub(super) fn exec_args() -> [OsString; 1] {
    [EXEC.into()]
}

pub(super) fn parse(args: &[OsString]) -> Result<Command, OptionsError> {
    if let [only] = args
        && only == EXEC
    {
        return Ok(Command::Exec);
    }
    let mut values: [Option<OsString>; NAMES.len()] = Default::default();
    for pair in args.chunks(2) {
        let position = NAMES.iter().position(|name| pair.first().is_some_and(|given| given == name));
        match (position, pair) {
            (Some(position), [_, value]) => values[position] = Some(value.clone()),
            _ => return Err(OptionsError::Unknown(pair.first().cloned().unwrap_or_default())),
        }
    }
    let [uid, hostname, socket, pid_file, bundle_dir, cgroup, limits] = values;
    Ok(Command::Serve(Box::new(Options {
        pod_uid: text(uid, "--pod-uid")?,
        hostname: text(hostname, "--hostname")?,
        socket: path(socket, "--socket")?,
        pid_file: path(pid_file, "--pid-file")?,
        bundle_dir: path(bundle_dir, "--bundle-dir")?,
        cgroup: text(cgroup, "--cgroup")?,
        limits: read_limits(limits)?,
    })))
}

fn path(value: Option<OsString>, name: &'static str) -> Result<PathBuf, OptionsError> {
    value.map(PathBuf::from).ok_or(OptionsError::Missing(name))
}

fn text(value: Option<OsString>, name: &'static str) -> Result<String, OptionsError> {
    let value = value.ok_or(OptionsError::Missing(name))?;
    value.into_string().map_err(|_| OptionsError::NotText(name))
}

fn read_limits(value: Option<OsString>) -> Result<Limits, OptionsError> {
    let Some(value) = value else { return Ok(Limits::default()) };
    let text = value.into_string().map_err(|_| OptionsError::NotText("--limits"))?;
    serde_json::from_str(&text).map_err(|_| OptionsError::Limits)
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
        };
        assert_eq!(parse(&options.to_args()), Ok(Command::Serve(Box::new(options))));
        assert_eq!(parse(&exec_args()), Ok(Command::Exec));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let parse = |args: &[&str]| parse(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Err(OptionsError::Missing("--pod-uid")));
        assert_eq!(parse(&["--pod"]), Err(OptionsError::Unknown("--pod".into())));
        assert_eq!(parse(&["--socket"]), Err(OptionsError::Unknown("--socket".into())));
    }
}
