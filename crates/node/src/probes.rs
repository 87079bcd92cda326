//! Asks a container how it is: one task a probe, until it is dropped. What the answers mean is `decide::probes`'.

mod connect;
mod grpc;
pub(crate) mod http;
mod tcp;

use std::time::Duration;

use decide::probes::{self, Answers, Outcome, ProbeKind, Timing, Verdict};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use crate::agent::News;
use crate::agent::runtime::{ExecAnswer, Found, chain};

/// Whom to ask.
pub(crate) struct Target {
    pub(crate) sandbox: Found,
    pub(crate) container: Container,
    /// The container's name in its sandbox.
    pub(crate) runtime_id: String,
    /// The container's id in the pod's status.
    pub(crate) container_id: String,
}

/// A probe that is asked again and again. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Prober {
    task: JoinHandle<()>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
}

impl Answer {
    /// Nobody listens.
    fn is_refusal(&self) -> bool {
        self.outcome == Outcome::Failure && self.message.ends_with(connect::REFUSED)
    }
}

impl Prober {
    /// Starts asking. `running_for` is how long the container runs; `answers` what is known already.
    pub(crate) fn start(
        target: Target,
        kind: ProbeKind,
        probe: Probe,
        running_for: SignedDuration,
        answers: Answers,
        tell: mpsc::Sender<News>,
    ) -> Self {
        let timing = Timing::of(&probe);
        let first_wait = duration(timing.first_wait(running_for));
        let first_due = Instant::now() + first_wait;
        Self { task: tokio::spawn(ask_repeatedly(target, kind, probe, timing, first_due, answers, tell)) }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_repeatedly(
    target: Target,
    kind: ProbeKind,
    probe: Probe,
    timing: Timing,
    first_due: Instant,
    mut answers: Answers,
    tell: mpsc::Sender<News>,
) {
    let mut due = tokio::time::interval_at(first_due, duration(timing.period));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let Some(answer) = ask_patiently(&target, kind, &probe, &timing, answers).await else { continue };
        let before = answers.verdict;
        answers = answers.and(answer.outcome, &timing);
        if answer.outcome == Outcome::Success && answers.verdict == before {
            continue;
        }
        let news = news(&target, kind, answer, answers.verdict);
        if tell.send(news).await.is_err() {
            return;
        }
    }
}

/// A container that starts is asked until it listens, for a while.
async fn ask_patiently(
    target: &Target,
    kind: ProbeKind,
    probe: &Probe,
    timing: &Timing,
    answers: Answers,
) -> Option<Answer> {
    for refusals in 0.. {
        let answer = ask(target, probe, duration(timing.timeout)).await?;
        let knocks = probe.exec.is_none() && answer.is_refusal();
        match probes::knock_again_after(kind, answers, refusals).filter(|_| knocks) {
            Some(wait) => tokio::time::sleep(duration(wait)).await,
            None => return Some(answer),
        }
    }
    None
}

fn news(target: &Target, kind: ProbeKind, answer: Answer, verdict: Verdict) -> News {
    News::Probed {
        container: target.container.name.clone(),
        container_id: target.container_id.clone(),
        kind,
        outcome: answer.outcome,
        verdict,
        message: answer.message,
    }
}

/// None if nothing can be said: the question could not be put.
async fn ask(target: &Target, probe: &Probe, timeout: Duration) -> Option<Answer> {
    if let Some(exec) = &probe.exec {
        return exec_answer(target, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return Some(match http::Request::new(get, &target.container, target.sandbox.ip().into()) {
            Ok(request) => http_answer(&request, timeout).await,
            Err(message) => failure(message),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = tcp::address(tcp, &target.container, target.sandbox.ip().into());
        return Some(match address {
            Ok(address) => tcp::connect(&address, timeout).await,
            Err(message) => failure(message),
        });
    }
    if let Some(grpc) = &probe.grpc {
        return Some(grpc::check(grpc, target.sandbox.ip().into(), timeout).await);
    }
    Some(failure("the probe names nothing to ask: it needs one of httpGet, exec, tcpSocket and grpc".to_owned()))
}

async fn exec_answer(target: &Target, command: &[String], timeout: Duration) -> Option<Answer> {
    match target.sandbox.exec(&target.runtime_id, command, timeout).await {
        Ok(ExecAnswer::Exited { code: 0, output }) => Some(Answer { outcome: Outcome::Success, message: output }),
        Ok(ExecAnswer::Exited { output, .. }) => Some(failure(output)),
        Ok(ExecAnswer::TimedOut) => {
            Some(failure(format!("command timed out: {command:?} timed out after {}s", timeout.as_secs())))
        }
        Err(error) => {
            debug!(container = target.runtime_id, error = chain(&error), "a probe's command could not be run");
            None
        }
    }
}

async fn http_answer(request: &http::Request, timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, http::get(request)).await {
        Ok(Ok(message)) => Answer { outcome: Outcome::Success, message },
        Ok(Err(message)) => failure(message),
        Err(_) => failure(format!(
            "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            request.url()
        )),
    }
}

fn failure(message: String) -> Answer {
    Answer { outcome: Outcome::Failure, message }
}

fn duration(signed: SignedDuration) -> Duration {
    Duration::try_from(signed).unwrap_or_default()
}

#[cfg(test)]
mod tests;
