//! What a container is asked to do right after its start, and before it is signalled. Nothing waits for a hook but what
//! the container's own lifecycle says: a grace period runs meanwhile.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::sync::mpsc;
use tracing::warn;

use super::news::News;
use super::runtime::{ContainerSignal, ExecAnswer, Found, chain};
use crate::probes::http;

/// A hook without a limit of its own ends with its container. This is for what nobody would wait for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A container that is asked.
pub(super) struct Asked {
    pub(super) sandbox: Found,
    /// The container's name in its sandbox.
    pub(super) id: String,
    pub(super) container: Container,
    pub(super) hook: LifecycleHandler,
}

/// Runs the postStart hook in the background, and tells how it ended. `container_id` is that of the pod's status.
pub(super) fn run_after_start(asked: Asked, container_id: String, tell: mpsc::Sender<News>) {
    tokio::spawn(async move {
        let result = asked.run(LONGEST).await;
        // A pod that is gone meanwhile wants no news.
        let _ = tell.send(News::PostStartEnded { container: asked.container.name, container_id, result }).await;
    });
}

/// Runs the preStop hook in the background, at most for `limit`, and signals the container then.
pub(super) fn run_then_signal(asked: Asked, limit: Duration, tell: mpsc::Sender<News>) {
    tokio::spawn(async move {
        let ran = tokio::time::timeout(limit, asked.run(limit)).await;
        let ran = ran.unwrap_or_else(|_| Err(format!("it did not end within the grace period of {limit:?}")));
        if let Err(error) = asked.sandbox.signal(&asked.id, ContainerSignal::Stop).await {
            warn!(container = asked.id, error = chain(&error), "cannot signal; it is killed after its grace period");
        }
        if let Err(message) = ran {
            // A pod that is gone meanwhile wants no news.
            let _ = tell.send(News::PreStopFailed { container: asked.container.name, message }).await;
        }
    });
}

impl Asked {
    async fn run(&self, limit: Duration) -> Result<(), String> {
        let Self { sandbox, id, container, hook } = self;
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            return match sandbox.exec(id, &command, limit).await.map_err(|error| chain(&error))? {
                ExecAnswer::Exited { code: 0, .. } => Ok(()),
                ExecAnswer::Exited { code, output } => {
                    Err(format!("command {command:?} exited with {code}: {}", output.trim_end()))
                }
                ExecAnswer::TimedOut => Err(format!("command {command:?} did not end within {limit:?}")),
            };
        }
        if let Some(get) = &hook.http_get {
            let request = http::Request::new(get, container, sandbox.ip().into())?;
            return http::get(&request).await.map(drop);
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        }
        Ok(())
    }
}
