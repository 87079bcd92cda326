//! Lets the API server look into pods, which the node can.

use control::apiserver::{Connection, ExecRequest, ExecSession, LogOptions, LogStream, PodAccess};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use node::agent::Settings;
use node::logs::{self, Follow, Run, Timestamps};
use node::{exec, port_forward};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// One node's pods.
pub(crate) struct NodePods {
    pub(crate) settings: Settings,
}

impl PodAccess for NodePods {
    fn read_log(&self, pod: &Value, container: &str, options: &LogOptions) -> Result<LogStream, String> {
        let wanted = wanted(options)?;
        logs::read(&self.settings, &read(pod)?, container, &wanted).map_err(|error| error.to_string())
    }

    fn exec<'a>(
        &'a self,
        pod: &'a Value,
        container: &'a str,
        request: &'a ExecRequest,
    ) -> BoxFuture<'a, Result<ExecSession, String>> {
        Box::pin(async move {
            let request = exec::Request {
                command: request.command.clone(),
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            };
            let started = exec::start(&self.settings, &read(pod)?, container, &request).await;
            Ok(session(started.map_err(sentence)?))
        })
    }

    fn connect<'a>(&'a self, pod: &'a Value, port: u16) -> BoxFuture<'a, Result<Box<dyn Connection>, String>> {
        Box::pin(async move {
            let connected = port_forward::connect(&self.settings, &read(pod)?, port).await;
            Ok(Box::new(connected.map_err(sentence)?) as Box<dyn Connection>)
        })
    }
}

fn read(pod: &Value) -> Result<Pod, String> {
    serde_json::from_value(pod.clone()).map_err(|error| format!("the pod can't be read: {error}"))
}

/// The error with its causes.
fn sentence(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn session(session: exec::Session) -> ExecSession {
    let exec::Session { stdin, stdout, stderr, terminal, ended } = session;
    let ended = async {
        let ended = ended.await.map_err(|_| "nobody knows how the process ended".to_owned())?;
        ended.map_err(sentence)
    };
    ExecSession {
        stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
        stdout: stdout.map(|stdout| Box::new(stdout) as Box<dyn AsyncRead + Send + Unpin>),
        stderr: stderr.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
        resize: terminal.map(|terminal| {
            let resize = move |columns, rows| {
                // A terminal that has gone needs no size.
                let _ = terminal.resize(columns, rows);
            };
            Box::new(resize) as Box<dyn Fn(u16, u16) + Send + Sync>
        }),
        ended: Box::pin(ended),
    }
}

fn wanted(options: &LogOptions) -> Result<logs::LogOptions, String> {
    let since_time = options.since_time.as_deref().map(str::parse).transpose();
    Ok(logs::LogOptions {
        run: if options.previous { Run::Previous } else { Run::Current },
        follow: if options.follow { Follow::UntilTheContainerEnds } else { Follow::No },
        timestamps: if options.timestamps { Timestamps::Shown } else { Timestamps::Left },
        tail_lines: options.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        since_seconds: options.since_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        since_time: since_time.map_err(|error| format!("sinceTime: {error}; write it as 2026-01-31T12:00:00Z"))?,
        limit_bytes: options.limit_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
}
