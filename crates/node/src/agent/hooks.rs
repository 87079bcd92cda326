//! What a container is asked to do before it is signalled. The grace period runs meanwhile, so nothing waits for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tracing::{debug, warn};

use super::runtime::{ContainerSignal, Found, chain};
use crate::probes::http;

/// Runs the preStop hook in the background, at most for `limit`, and signals the container then.
pub(super) fn run_then_signal(
    sandbox: Found,
    id: String,
    container: Container,
    hook: LifecycleHandler,
    limit: Duration,
) {
    tokio::spawn(async move {
        let ran = tokio::time::timeout(limit, run(&sandbox, &id, &container, &hook, limit)).await;
        if !matches!(ran, Ok(Ok(()))) {
            debug!(container = id, ?ran, "the preStop hook failed; the container is signalled all the same");
        }
        if let Err(error) = sandbox.signal(&id, ContainerSignal::Stop).await {
            warn!(container = id, error = chain(&error), "cannot signal; it is killed after its grace period");
        }
    });
}

async fn run(
    sandbox: &Found,
    id: &str,
    container: &Container,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return sandbox.exec(id, &command, limit).await.map(drop).map_err(|error| chain(&error));
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
