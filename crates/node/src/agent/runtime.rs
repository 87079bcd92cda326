//! What the agent needs of the thing that runs pods: sandboxes with an address, containers in them, commands in those.
//! The real one is `agent::shims`; the fake one is `agent::fakes`.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Notify;

use crate::cgroups::Limits;
use crate::container::ContainerConfig;
use crate::shim::Sharing;
use crate::shim::protocol::ContainerState;

/// Runs pods.
pub trait Runtime: Send + Sync + 'static {
    /// Uids of all pods of which an earlier engine left something, alive or not.
    fn find_pods(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>>;

    /// The pod's sandbox if it is alive. `wake` is notified when anything in it changes.
    fn adopt<'a>(&'a self, uid: &'a str, wake: Arc<Notify>) -> BoxFuture<'a, Result<Option<Found>, RuntimeError>>;

    /// Clears what is left of the pod's last sandbox and makes a new one.
    fn create<'a>(&'a self, config: &'a SandboxConfig, wake: Arc<Notify>)
    -> BoxFuture<'a, Result<Found, RuntimeError>>;

    /// Ends every process of the pod and takes its network and run directory away. Nothing left is no error.
    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// The memory that the pod could not do without, as the kubelet counts it: all but files that were not used lately.
    /// Nothing for a pod of which nothing runs. May block for a moment.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn memory(&self, uid: &str) -> Result<Used, RuntimeError>;
}

/// What a pod uses of something, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub whole: u64,
    /// Of each container, by its name.
    pub containers: BTreeMap<String, u64>,
}

/// A sandbox that is alive.
pub type Found = Arc<dyn PodSandbox>;

/// One pod's sandbox.
pub trait PodSandbox: Send + Sync + 'static {
    /// The pod's address.
    fn ip(&self) -> Ipv4Addr;

    /// What its shim can do: see `shim::protocol::LEVEL`.
    fn level(&self) -> u32;

    /// Every container that was created here and not removed.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerState>, RuntimeError>>;

    /// Creates and starts a container.
    fn start(&self, config: ContainerConfig) -> BoxFuture<'_, Result<Started, RuntimeError>>;

    /// Sends a signal to a container's first process. A container that has ended is no error.
    fn signal<'a>(&'a self, id: &'a str, signal: ContainerSignal) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Removes a container that has ended.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Runs a command in a container and waits for its end, at most for `timeout`.
    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecAnswer, RuntimeError>>;
}

/// A sandbox to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The pod's uid.
    pub uid: String,
    pub hostname: String,
    /// What all containers together may use.
    pub limits: Limits,
    pub sharing: Sharing,
}

/// What became of a container that was to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    Running,
    /// Its command can't be run, so it has ended; with the reason.
    CannotRun(String),
}

/// Which signal a container is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerSignal {
    /// The one its image asks for, or SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
}

/// What a command in a container answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecAnswer {
    Exited {
        code: i32,
        /// What it printed, cut where it gets long.
        output: String,
    },
    TimedOut,
}

/// What the runtime could not do.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("cannot list the pods that an earlier engine left")]
    List(#[source] Cause),
    #[error("cannot create the sandbox of pod {uid}")]
    Create {
        uid: String,
        #[source]
        source: Cause,
    },
    #[error("cannot reach the sandbox of pod {uid}")]
    Reach {
        uid: String,
        #[source]
        source: Cause,
    },
    #[error("cannot remove what is left of pod {uid}")]
    Remove {
        uid: String,
        #[source]
        source: Cause,
    },
    #[error("cannot read the state of pod {uid}")]
    State {
        uid: String,
        #[source]
        source: Cause,
    },
    #[error("cannot create container {id}")]
    Start {
        id: String,
        #[source]
        source: Cause,
    },
    #[error("cannot signal container {id}")]
    Signal {
        id: String,
        #[source]
        source: Cause,
    },
    #[error("cannot remove container {id}")]
    RemoveContainer {
        id: String,
        #[source]
        source: Cause,
    },
    #[error("cannot read how much memory pod {uid} uses")]
    Memory {
        uid: String,
        #[source]
        source: Cause,
    },
    #[error("cannot run a command in container {id}")]
    Exec {
        id: String,
        #[source]
        source: Cause,
    },
}

/// Whatever went wrong further down.
pub type Cause = Box<dyn Error + Send + Sync>;

/// The whole chain of causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
