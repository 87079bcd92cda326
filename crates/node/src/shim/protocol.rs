//! What engine and shim say to each other on the Unix socket: frames of a 4-byte big-endian length and JSON.
//! Shims outlive engines, so fields are only added, with defaults, and their meanings never change within version 1.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Sharing;
use crate::container::{ContainerConfig, Privilege, Seccomp};

/// The version that every frame carries.
pub const VERSION: u32 = 1;
/// What a shim of this Segue can do beyond what the first could, which ignores what it does not know.
/// 1: parts of volumes, profiles of system calls, privileged containers, and all of [`Sharing`].
pub const LEVEL: u32 = 1;
/// A frame beyond this ends the connection. A container with 1,000 variables of 1 KiB fits.
pub const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;
/// What is kept of the output of a process run in a container; the kubelet keeps as much of a probe's.
pub const MAX_EXEC_OUTPUT_BYTES: usize = 10 * 1024;

/// A frame's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame<T> {
    pub v: u32,
    pub body: T,
}

/// From the engine: a request with a number that its answer repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Makes a container whose process waits. Answered with `Created`.
    Create(Box<ContainerConfig>),
    /// Lets it go. Answered when its program runs, or can't be run: then it has exited with 128.
    Start { container: String },
    /// Signals the container's first process; its stop signal when none is named.
    Signal { container: String, signal: Option<String> },
    /// SIGKILL to every container.
    KillAll,
    /// Ends what is left of a container and forgets it.
    Remove { container: String },
    /// Runs a process in a running container. Answered with `Exec` when it has ended, or could not be run.
    Exec(ExecRequest),
    /// Answered with `State`.
    State,
    /// Opens the log files anew, after somebody else has moved them.
    ReopenLogs,
    /// Kills what is left, removes the pod's cgroup, answers and exits.
    Shutdown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    pub container: String,
    pub args: Vec<String>,
    /// The process is killed when it has run this long.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Where its standard streams lead. Without, it has no input and its output is in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
}

/// Where the standard streams of a process lead. Whoever asks has opened its ends before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Streams {
    /// To FIFOs at these paths; those that are left out to nothing.
    Fifos { stdin: Option<PathBuf>, stdout: Option<PathBuf>, stderr: Option<PathBuf> },
    /// To a terminal in the container, of which the other end is sent to the Unix socket at this path.
    Terminal { socket: PathBuf },
}

/// From the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Said {
    Answer {
        id: u64,
        answer: Answer,
    },
    /// To every open connection.
    Event(Event),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    Done,
    Created { pid: i32 },
    State(PodState),
    Exec(ExecResult),
    Failed(Failure),
}

/// A container has changed: its whole new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub container: ContainerState,
}

/// What a process in a container did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecResult {
    pub exit_code: i32,
    /// Standard output and error as they came, at most `MAX_EXEC_OUTPUT_BYTES` of them.
    pub output: String,
}

/// Everything a shim knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    pub pod_uid: String,
    /// In the order of creation, those that were removed left out.
    pub containers: Vec<ContainerState>,
    /// Its [`LEVEL`].
    #[serde(default)]
    pub level: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    pub id: String,
    pub name: String,
    pub attempt: u32,
    /// Of the container's first process, as the shim sees it. It may have ended.
    pub pid: i32,
    pub created_at: Timestamp,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Status {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// As Kubernetes reports it: 128 plus the signal when one ended it, 128 when it could not be started.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel killed it for want of memory, by the kernel's own count.
    pub oom_killed: bool,
    /// Absent when its program never ran.
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// Why its program could not be run.
    #[serde(default)]
    pub start_error: Option<String>,
}

/// Why a request was not done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// There is no such container.
    NotFound,
    /// There is a container of this id.
    AlreadyExists,
    /// The container is not in the state for this.
    WrongState,
    /// The request itself makes no sense.
    Invalid,
    /// The program can't be run; Kubernetes says `StartError`, exit code 128.
    CannotRun,
    /// A process in a container was killed because its time was over.
    TimedOut,
    /// Something else failed on the machine.
    Internal,
}

/// Why bytes from the other side can't be understood.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a frame of {0} bytes is longer than {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("a frame can't be read")]
    Decode(#[source] serde_json::Error),
    #[error("a frame can't be written")]
    Encode(#[source] serde_json::Error),
    #[error("a frame of version {0} was made by a newer Segue; this one understands version {VERSION}")]
    Version(u32),
}

/// The level of a shim that does all that is asked for. What an earlier one only confines more is no reason.
#[must_use]
pub fn level_needed(config: &ContainerConfig, sharing: &Sharing) -> u32 {
    let confinement = &config.confinement;
    let is_widened = *sharing != Sharing::default()
        || config.mounts.iter().any(|mount| mount.sub_path.is_some())
        || confinement.privilege == Privilege::Full
        || matches!(confinement.seccomp, Seccomp::Profile { .. });
    u32::from(is_widened)
}

/// A frame, length first.
pub fn encode<T: Serialize>(body: T) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, &Frame { v: VERSION, body }).map_err(ProtocolError::Encode)?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_FRAME_BYTES => bytes[..4].copy_from_slice(&prefix.to_be_bytes()),
        Ok(_) | Err(_) => return Err(ProtocolError::TooLong(length)),
    }
    Ok(bytes)
}

/// Puts frames together from bytes as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The JSON of the next frame, if it has come wholly.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, ProtocolError> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(ProtocolError::TooLong(length));
        }
        let Some(json) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let json = json.to_vec();
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some(json))
    }
}

/// The body of a frame.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, ProtocolError> {
    #[derive(Deserialize)]
    struct Head {
        v: u32,
    }
    let head: Head = serde_json::from_slice(json).map_err(ProtocolError::Decode)?;
    if head.v > VERSION {
        return Err(ProtocolError::Version(head.v));
    }
    let frame: Frame<T> = serde_json::from_slice(json).map_err(ProtocolError::Decode)?;
    Ok(frame.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: u64) -> Call {
        Call { id, request: Request::Signal { container: "web".into(), signal: None } }
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let bytes: Vec<u8> = (0..3).flat_map(|id| encode(call(id)).unwrap()).collect();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut calls = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(json) = decoder.next_frame().unwrap() {
                    calls.push(decode::<Call>(&json).unwrap().id);
                }
            }
            assert_eq!(calls, [0, 1, 2], "cut at {cut}");
        }
    }

    #[test]
    fn a_newer_version_and_an_absurd_length_are_refused() {
        let newer = decode::<Call>(br#"{"v":2,"body":{}}"#);
        assert!(matches!(newer, Err(ProtocolError::Version(2))));
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 8]);
        assert!(matches!(decoder.next_frame(), Err(ProtocolError::TooLong(_))));
    }

    #[test]
    fn the_wire_format_is_what_older_shims_speak() {
        let text = String::from_utf8(encode(call(7)).unwrap().split_off(4)).unwrap();
        let expected = r#"{"v":1,"body":{"id":7,"request":{"signal":{"container":"web","signal":null}}}}"#;
        assert_eq!(text, expected);
        let oldest = r#"{"id":"a","name":"web","rootfs":{"lower":["/l"],"upper":"/u","work":"/w"},"args":["x"],"logPath":"/l/0.log"}"#;
        let config: ContainerConfig = serde_json::from_str(oldest).unwrap();
        assert_eq!((config.attempt, config.user.uid), (0, 0));
        assert_eq!(level_needed(&config, &Sharing::default()), 0);
        let state: PodState = serde_json::from_str(r#"{"podUid":"u","containers":[]}"#).unwrap();
        assert_eq!(state.level, 0);
    }
}
