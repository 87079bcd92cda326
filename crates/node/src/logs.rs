//! What a container has printed, read from its CRI log files across their rotation, and followed until it ends.

mod files;
mod lines;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;

use crate::agent::Settings;
use crate::shim::client::ShimClient;
use crate::shim::protocol::Status;
use decide::pod_lifecycle::find_status;
use files::Files;
use lines::Lines;

/// Chunks that wait for a slow reader; each is at most [`files::CHUNK_BYTES`] long.
const CHUNKS_AHEAD: usize = 8;

/// What of a log is wanted, as `kubectl logs` asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub run: Run,
    pub follow: Follow,
    pub timestamps: Timestamps,
    /// Only the last lines, this many.
    pub tail_lines: Option<usize>,
    /// Only lines this young.
    pub since_seconds: Option<i64>,
    /// Only lines not older than this.
    pub since_time: Option<Timestamp>,
    /// Not more than this.
    pub limit_bytes: Option<usize>,
}

/// Which run of the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Run {
    #[default]
    Current,
    /// The one that ended last.
    Previous,
}

/// Whether the reader waits for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    #[default]
    No,
    UntilTheContainerEnds,
}

/// Whether each line begins with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    #[default]
    Left,
    Shown,
}

/// Why there is no log to read; all but the last are the asker's to solve and answered with 400.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("container {container} is not valid for pod {pod}")]
    UnknownContainer { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    WaitingToStart { container: String, pod: String, reason: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { container: String, pod: String },
    #[error("cannot read the log {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Reads the log of a container of this pod. The stream ends with the log, or when it is followed, with the run.
///
/// # Errors
/// When the pod has no such container or no such run of it, or the files cannot be read.
pub fn read(
    settings: &Settings,
    pod: &Pod,
    container: &str,
    options: &LogOptions,
) -> Result<BoxStream<'static, io::Result<Bytes>>, LogError> {
    let attempt = attempt(pod, container, options.run)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let path = settings.log_path(uid, container, attempt);
    let files = Files::open(&path).map_err(|source| LogError::Read { path: path.clone(), source })?;
    let lines = Lines::new(options, since(options, Timestamp::now()));
    let socket = settings.pod_run_dir(uid).join("shim.sock");
    let ended = run_ended(socket, crate::pod::container_id(container, attempt));
    let (tell, hear) = mpsc::channel(CHUNKS_AHEAD);
    let follow = options.follow;
    tokio::spawn(async move {
        if let Err(error) = pump(files, lines, follow, ended, &tell).await {
            // A reader that has gone needs no error.
            let _ = tell.send(Err(error)).await;
        }
    });
    Ok(stream::unfold(hear, |mut hear| async { Some((hear.recv().await?, hear)) }).boxed())
}

/// Removes the logs of runs before this one.
pub(crate) fn remove_older(directory: &Path, oldest_kept: i32) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let attempt = name.to_str().and_then(|name| name.split('.').next()?.parse::<i32>().ok());
        if attempt.is_some_and(|attempt| attempt < oldest_kept) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Which run the pod's status means. A container whose restart waits shows how its last run ended as both.
fn attempt(pod: &Pod, container: &str, run: Run) -> Result<i32, LogError> {
    let pod_name = || pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let mut known = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    if !known.any(|known| known.name == container) {
        return Err(LogError::UnknownContainer { container: container.to_owned(), pod: pod_name() });
    }
    let waiting = |reason: &str| LogError::WaitingToStart {
        container: container.to_owned(),
        pod: pod_name(),
        reason: reason.to_owned(),
    };
    let status = find_status(pod, container).ok_or_else(|| waiting("ContainerCreating"))?;
    let last_ended = status.last_state.as_ref().is_some_and(|last| last.terminated.is_some());
    let reason = waiting_reason(status);
    match (run, reason, last_ended) {
        (Run::Current, Some(reason), false) => Err(waiting(reason)),
        (Run::Current, _, _) | (Run::Previous, Some(_), true) => Ok(status.restart_count),
        (Run::Previous, None, true) => Ok(status.restart_count - 1),
        (Run::Previous, _, false) => Err(LogError::NoPrevious { container: container.to_owned(), pod: pod_name() }),
    }
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some(waiting.reason.as_deref().unwrap_or("ContainerCreating"))
}

fn since(options: &LogOptions, now: Timestamp) -> Option<Timestamp> {
    let young = options.since_seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    young.max(options.since_time)
}

async fn pump(
    mut files: Files,
    mut lines: Lines,
    follow: Follow,
    ended: impl Future<Output = ()>,
    tell: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut ended = Box::pin(ended);
    let mut has_ended = follow == Follow::No;
    loop {
        while let Some(chunk) = files.next_chunk().await? {
            let wanted = lines.take(&chunk);
            if !send(tell, wanted).await || lines.is_full() {
                return Ok(());
            }
        }
        send(tell, lines.caught_up()).await;
        if has_ended || lines.is_full() {
            return Ok(());
        }
        tokio::select! {
            () = tell.closed() => return Ok(()),
            () = &mut ended => has_ended = true,
            changed = files.changed() => changed?,
        }
    }
}

/// Whether the reader is still there.
async fn send(tell: &mpsc::Sender<io::Result<Bytes>>, bytes: Bytes) -> bool {
    bytes.is_empty() || tell.send(Ok(bytes)).await.is_ok()
}

/// Returns when this run of a container has ended. A pod without a shim runs nothing.
async fn run_ended(socket: PathBuf, id: String) {
    let Ok(shim) = ShimClient::connect(&socket).await else { return };
    let mut events = shim.events();
    loop {
        let Ok(state) = shim.state().await else { return };
        let runs = state.containers.iter().any(|container| match container.status {
            Status::Created | Status::Running { .. } => container.id == id,
            Status::Exited(_) => false,
        });
        if !runs {
            return;
        }
        tokio::select! {
            // Whatever it says, the state says it better.
            _ = events.recv() => {}
            () = shim.gone() => return,
        }
    }
}

#[cfg(test)]
mod tests;
