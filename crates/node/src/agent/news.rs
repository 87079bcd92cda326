//! What happened in the background: a pull came to its end, a probe was answered. The pod's task remembers it and
//! decides afresh.

use decide::images::{FailedPull, ImageWaiting};
use decide::pod_lifecycle::{EndReason, ImageState, NodesEnd, PostStart};
use decide::probes::{Outcome, ProbeKind, Verdict};

use super::events::EventType;
use super::pod_task::PodTask;
use crate::images::Image;

/// Something that the pod's task did not wait for.
#[derive(Debug)]
pub(crate) enum News {
    Pulled {
        container: String,
        /// How long it took, as an event tells it.
        took: std::time::Duration,
        /// The image, or the registry's or the store's answer.
        result: Result<Box<Image>, String>,
    },
    Probed {
        container: String,
        /// The run of the container that was probed.
        container_id: String,
        kind: ProbeKind,
        outcome: Outcome,
        /// What the answers so far mean.
        verdict: Verdict,
        message: String,
    },
    PostStartEnded {
        container: String,
        /// The run of the container that it was for.
        container_id: String,
        result: Result<(), String>,
    },
    PreStopFailed {
        container: String,
        message: String,
    },
    /// The pod has to go, for what it uses.
    Evict {
        message: String,
    },
    PullSecretsMissing {
        names: Vec<String>,
    },
}

impl PodTask {
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Pulled { container, took, result } => self.hear_of_pull(&container, took, result),
            News::Probed { container, container_id, kind, outcome, verdict, message } => {
                self.hear_of_probe(&container, &container_id, kind, verdict);
                if outcome == Outcome::Failure {
                    let text = format!("{} probe failed: {message}", kind.word());
                    self.record(Some(&container), EventType::Warning, "Unhealthy", text);
                }
            }
            News::PostStartEnded { container, container_id, result } => {
                self.hear_of_post_start(&container, container_id, result);
            }
            News::PreStopFailed { container, message } => {
                let text = format!("PreStopHook failed: {message}");
                self.record(Some(&container), EventType::Warning, "FailedPreStopHook", text);
            }
            News::PullSecretsMissing { names } => {
                let text = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    names.join(", ")
                );
                self.record(None, EventType::Warning, "FailedToRetrieveImagePullSecret", text);
            }
            News::Evict { message } => {
                self.memory.nodes_end = Some(NodesEnd { reason: EndReason::Evicted, message });
            }
        }
    }

    fn hear_of_pull(&mut self, container: &str, took: std::time::Duration, result: Result<Box<Image>, String>) {
        let now = self.machine.clock.now();
        let reference = self.memory.image_of(container);
        let known = self.memory.container_mut(container);
        match result {
            Ok(image) => {
                let message =
                    format!("Successfully pulled image {reference:?} in {took:.3?}. Image size: {} bytes.", image.size);
                known.image = ImageState::Present;
                known.local_image = Some(*image);
                known.failed_pull = None;
                self.record(Some(container), EventType::Normal, "Pulled", message);
            }
            Err(error) => {
                known.failed_pull = Some(FailedPull::after(known.failed_pull.as_ref(), now));
                known.image = ImageState::Failed(ImageWaiting::ErrImagePull { error: error.clone() });
                let message = format!("Failed to pull image {reference:?}: {error}");
                self.record(Some(container), EventType::Warning, "Failed", message);
                self.record(Some(container), EventType::Warning, "Failed", "Error: ErrImagePull");
            }
        }
    }

    fn hear_of_post_start(&mut self, container: &str, container_id: String, result: Result<(), String>) {
        let known = self.memory.container_mut(container);
        if known.post_start.as_ref().is_none_or(|(id, _)| *id != container_id) {
            return;
        }
        let became = if result.is_ok() { PostStart::Over } else { PostStart::Failed };
        known.post_start = Some((container_id, became));
        if let Err(message) = result {
            let text = format!("PostStartHook failed: {message}");
            self.record(Some(container), EventType::Warning, "FailedPostStartHook", text);
        }
    }

    fn hear_of_probe(&mut self, container: &str, container_id: &str, kind: ProbeKind, verdict: Verdict) {
        let known = self.memory.container_mut(container);
        if known.probed_id.as_deref() == Some(container_id) {
            known.verdicts.insert(kind, verdict);
        }
    }

    /// Reports an event on this pod.
    pub(super) fn record(
        &self,
        container: Option<&str>,
        type_: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.machine.events.record(self.memory.pod(), container, type_, reason, message);
    }
}
