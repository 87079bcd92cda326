//! What the API needs of the node to show what is inside pods: logs, processes, connections.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// A process to run in a container. A terminal takes the place of standard output and error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub terminal: bool,
}

/// A process that runs in a container.
pub struct ExecSession {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Tells the process the columns and rows of its terminal.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Its exit code, or a sentence for the user when it could not be run.
    pub ended: BoxFuture<'static, Result<i32, String>>,
}

/// The bytes of a connection, both ways.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// What part of a container's output is wanted, as the query of `log` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since_seconds: Option<u64>,
    /// RFC 3339.
    pub since_time: Option<String>,
}

/// A container's output as it is read.
pub type LogStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// The node's side.
pub trait PodAccess: Send + Sync {
    /// The output of a container of a pod.
    ///
    /// # Errors
    /// A sentence for the user, when there is no such output.
    fn read_log(&self, pod: &Value, container: &str, options: &LogOptions) -> Result<LogStream, String>;

    /// Runs a process in a container of a pod.
    ///
    /// # Errors
    /// A sentence for the user.
    fn exec<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        request: &'a ExecRequest,
    ) -> BoxFuture<'a, Result<ExecSession, String>>;

    /// Connects to a TCP port of a pod, from within it.
    ///
    /// # Errors
    /// A sentence for the user.
    fn connect<'a>(&'a self, pod: &'a Value, port: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, String>>;
}
