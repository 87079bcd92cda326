//! The READY, STATUS and RESTARTS of a pod in a table, as `kubectl get pods` prints them.

use jiff::Timestamp;
use serde_json::Value;

use crate::json::{integer, is_true, items, text};
use crate::table;

/// What a pod's row says of it.
pub(super) struct Summary {
    pub(super) ready: usize,
    pub(super) total: usize,
    /// One word, e.g. `Running`, `CrashLoopBackOff`, `Init:0/2`, `Terminating`.
    pub(super) status: String,
    restarts: Restarts,
}

#[derive(Clone, Default)]
struct Restarts {
    count: i64,
    /// When a container last ended and was started again.
    last: Option<Timestamp>,
}

/// Looks at the pod's containers in the order in which they run: whatever the first unfinished one waits for is what
/// the pod waits for.
pub(super) fn summary(pod: &Value) -> Summary {
    let mut summary = Summary {
        ready: 0,
        total: items(pod, "/spec/containers").len() + sidecars(pod).count(),
        status: phase_or_reason(pod),
        restarts: Restarts::default(),
    };
    let sidecar_restarts = summary.look_at_init_containers(pod);
    let is_initialised = condition_is_true(pod, "Initialized");
    match sidecar_restarts {
        InitContainers::Done(restarts) => summary.look_at_containers(pod, restarts),
        InitContainers::Running(restarts) if is_initialised => summary.look_at_containers(pod, restarts),
        InitContainers::Running(_) => {}
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        summary.mark_terminating(pod);
    }
    summary
}

/// How far the init containers are, with the restarts of those that keep running.
enum InitContainers {
    Done(Restarts),
    Running(Restarts),
}

impl Summary {
    /// `3`, or `3 (5s ago)`.
    pub(super) fn restarts_cell(&self, now: Timestamp) -> String {
        match (self.restarts.count, self.restarts.last) {
            (0, _) | (_, None) => self.restarts.count.to_string(),
            (count, Some(last)) => {
                format!("{count} ({} ago)", table::human_duration(now.duration_since(last).as_secs()))
            }
        }
    }

    fn look_at_init_containers(&mut self, pod: &Value) -> InitContainers {
        let mut sidecar_restarts = Restarts::default();
        let count = items(pod, "/spec/initContainers").len();
        for (index, container) in items(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.restarts.add(container);
            let is_sidecar = sidecars(pod).any(|sidecar| text(sidecar, "/name") == text(container, "/name"));
            if is_sidecar {
                sidecar_restarts.add(container);
            }
            if integer(container, "/state/terminated/exitCode") == Some(0) {
                continue;
            }
            if is_sidecar && is_true(container, "/started") {
                self.ready += usize::from(is_true(container, "/ready"));
                continue;
            }
            self.status = format!("Init:{}", unfinished(container).unwrap_or_else(|| format!("{index}/{count}")));
            return InitContainers::Running(sidecar_restarts);
        }
        InitContainers::Done(sidecar_restarts)
    }

    /// The first container that has something to say decides, so they are looked at from the last to the first.
    fn look_at_containers(&mut self, pod: &Value, restarts: Restarts) {
        self.restarts = restarts;
        let mut has_running = false;
        for container in items(pod, "/status/containerStatuses").iter().rev() {
            self.restarts.add(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if let Some(ended) = container.pointer("/state/terminated") {
                self.status = ended_as(ended);
            } else if is_true(container, "/ready") && container.pointer("/state/running").is_some() {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && has_running {
            let is_ready = condition_is_true(pod, "Ready");
            self.status = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn mark_terminating(&mut self, pod: &Value) {
        if text(pod, "/status/reason") == "NodeLost" {
            self.status = "Unknown".to_owned();
        } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            self.status = "Terminating".to_owned();
        }
    }
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += integer(container, "/restartCount").unwrap_or(0);
        let ended = text(container, "/lastState/terminated/finishedAt").parse().ok();
        self.last = self.last.max(ended);
    }
}

fn phase_or_reason(pod: &Value) -> String {
    let conditions = items(pod, "/status/conditions").iter();
    let mut scheduling = conditions.filter(|condition| text(condition, "/type") == "PodScheduled");
    if scheduling.any(|condition| text(condition, "/reason") == "SchedulingGated") {
        return "SchedulingGated".to_owned();
    }
    match text(pod, "/status/reason") {
        "" => text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    }
}

/// Why an init container is not done; None when there is nothing special about it.
fn unfinished(container: &Value) -> Option<String> {
    if let Some(ended) = container.pointer("/state/terminated") {
        return Some(ended_as(ended));
    }
    let waiting = text(container, "/state/waiting/reason");
    (!matches!(waiting, "" | "PodInitializing")).then(|| waiting.to_owned())
}

fn ended_as(ended: &Value) -> String {
    match (text(ended, "/reason"), integer(ended, "/signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", integer(ended, "/exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn sidecars(pod: &Value) -> impl Iterator<Item = &Value> {
    items(pod, "/spec/initContainers").iter().filter(|container| text(container, "/restartPolicy") == "Always")
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    let found = items(pod, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind);
    found.is_some_and(|condition| text(condition, "/status") == "True")
}

#[cfg(test)]
mod tests;
