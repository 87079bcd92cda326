//! How the steps for a pod are done. What fails is remembered with the time of the next attempt and told as an event;
//! an error that ends the round is one that the pod's own state does not explain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use decide::images::{self, FailedPull, ImageReference, ImageStep, ImageWaiting, Presence, PullPolicy};
use decide::pod_lifecycle::{Files, ImageState, Kill, Object, PodSnapshot, PodStep, StopReason, Stopping, Volumes};
use decide::probes::ProbeKind;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};
use tokio::time::Instant;
use tracing::warn;

use super::PodError;
use super::events::EventType;
use super::hooks::{self, Asked};
use super::memory::ContainerMemory;
use super::news::News;
use super::pod_task::PodTask;
use super::pull_secrets;
use super::runtime::{ContainerSignal, SandboxConfig, chain};
use crate::cgroups::Limits;
use crate::pod::{self, etc_files, limits, sharing};
use crate::volumes;

impl PodTask {
    pub(super) async fn apply(&mut self, step: &PodStep, snapshot: &PodSnapshot) -> Result<(), PodError> {
        match step {
            PodStep::PrepareVolumes => self.prepare_volumes().await,
            PodStep::CreateSandbox => self.create_sandbox().await?,
            PodStep::PullImage { container } => self.pull_image(container).await,
            PodStep::BackOffPull { container } => self.back_off_pull(container),
            PodStep::StartContainer { container, attempt } => self.start_container(container, *attempt).await,
            PodStep::BackOffRestart { container, until } => self.back_off_restart(container, *until),
            PodStep::StopContainer { container, reason, grace } => {
                self.stop_container(container, *reason, *grace, snapshot).await?;
            }
            PodStep::KillContainer { container } => self.kill_container(container).await?,
            PodStep::RemoveSandbox => self.remove_sandbox().await?,
            PodStep::RemoveData => self.remove_data().await?,
            PodStep::RemoveFiles => self.remove_files().await?,
            PodStep::DeleteObject => self.delete_object().await?,
            PodStep::Forget => {}
        }
        Ok(())
    }

    async fn prepare_volumes(&mut self) {
        let machine = Arc::clone(&self.machine);
        let (settings, client) = (&machine.settings, &machine.client);
        let prepared = match self.memory.volumes {
            Volumes::Stale { .. } => volumes::refresh(settings, client, self.memory.pod()).await,
            Volumes::Unprepared | Volumes::Ready | Volumes::Failed { .. } => {
                volumes::prepare(settings, client, self.memory.pod()).await
            }
        };
        match prepared {
            Ok(()) => {
                self.memory.volumes = Volumes::Ready;
                self.memory.tried_with_success();
            }
            Err(error) => {
                let retry_at = self.memory.next_retry(machine.clock.now());
                self.memory.volumes = match self.memory.volumes {
                    Volumes::Stale { .. } => Volumes::Stale { refresh_at: retry_at },
                    Volumes::Unprepared | Volumes::Ready | Volumes::Failed { .. } => Volumes::Failed { retry_at },
                };
                self.record(None, EventType::Warning, "FailedMount", chain(&error));
            }
        }
    }

    async fn create_sandbox(&mut self) -> Result<(), PodError> {
        let machine = Arc::clone(&self.machine);
        let pod = self.memory.pod();
        let config = SandboxConfig {
            uid: self.key.uid.clone(),
            hostname: etc_files::hostname(pod),
            limits: Limits { pids: Some(machine.settings.pod_pids_limit), ..limits::of_pod(pod) },
            sharing: sharing::of_pod(pod),
        };
        let containers = machine.settings.pod_data_dir(&self.key.uid).join("containers");
        remove_directory(containers).await?;
        let _turn = machine.starts.acquire().await;
        match machine.runtime.create(&config, Arc::clone(&self.wake)).await {
            Ok(sandbox) => {
                self.take_sandbox(sandbox);
            }
            Err(error) => {
                let retry_at = self.memory.next_retry(machine.clock.now());
                self.memory.sandbox_retry_at = Some(retry_at);
                let message = format!("Failed to create pod sandbox: {}", chain(&error));
                warn!(pod = %self.key.name, message);
                self.record(None, EventType::Warning, "FailedCreatePodSandBox", message);
            }
        }
        Ok(())
    }

    /// Asks the store, and leaves a pull to the background: a deletion must not wait for a registry.
    async fn pull_image(&mut self, container: &str) {
        let Some(spec) = self.memory.spec_of(container).cloned() else { return };
        let text = spec.image.clone().unwrap_or_default();
        let reference = match ImageReference::parse(&text) {
            Ok(reference) => reference,
            Err(cause) => return self.refuse_image(container, ImageWaiting::InvalidImageName { image: text, cause }),
        };
        let found = match self.machine.images.find(&reference).await {
            Ok(found) => found,
            Err(error) => return self.refuse_image(container, ImageWaiting::ErrImagePull { error: chain(&*error) }),
        };
        let presence = if found.is_some() { Presence::Present } else { Presence::Absent };
        // The API has checked the word.
        let policy = PullPolicy::of(spec.image_pull_policy.as_deref(), &reference).unwrap_or(PullPolicy::IfNotPresent);
        match (images::next_step(policy, presence, None, self.machine.clock.now()), found) {
            (ImageStep::UsePresent, Some(image)) => {
                let message =
                    format!("Container image {text:?} already present on machine and can be accessed by the pod");
                self.record(Some(container), EventType::Normal, "Pulled", message);
                let known = self.memory.container_mut(container);
                known.image = ImageState::Present;
                known.local_image = Some(image);
            }
            (ImageStep::Refuse, _) => self.refuse_image(container, ImageWaiting::ErrImageNeverPull { image: text }),
            (ImageStep::UsePresent | ImageStep::Pull | ImageStep::BackOffUntil(_), _) => {
                self.record(Some(container), EventType::Normal, "Pulling", format!("Pulling image {text:?}"));
                self.memory.container_mut(container).image = ImageState::Pulling;
                self.pull_in_background(container.to_owned(), reference);
            }
        }
    }

    fn pull_in_background(&self, container: String, reference: ImageReference) {
        let (machine, tell, pod) = (Arc::clone(&self.machine), self.tell.clone(), self.memory.pod().clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let turn = machine.pulls.acquire().await;
            let (keyring, missing) = pull_secrets::keyring(&machine.client, &pod).await;
            if !missing.is_empty() {
                let _ = tell.send(News::PullSecretsMissing { names: missing }).await;
            }
            let result = machine.images.pull(&reference, keyring).await;
            drop(turn);
            let result = result.map(Box::new).map_err(|error| chain(&*error));
            // A pod that is gone meanwhile wants no news.
            let _ = tell.send(News::Pulled { container, took: started.elapsed(), result }).await;
        });
    }

    fn refuse_image(&mut self, container: &str, waiting: ImageWaiting) {
        let now = self.machine.clock.now();
        let known = self.memory.container_mut(container);
        known.failed_pull = Some(FailedPull::after(known.failed_pull.as_ref(), now));
        known.image = ImageState::Failed(waiting.clone());
        self.record(Some(container), EventType::Warning, refusal(&waiting), waiting.message());
        self.record(Some(container), EventType::Warning, "Failed", format!("Error: {}", waiting.reason()));
    }

    fn back_off_pull(&mut self, container: &str) {
        let image = self.memory.image_of(container);
        let known = self.memory.container_mut(container);
        let ImageState::Failed(ImageWaiting::ErrImagePull { error }) = &known.image else { return };
        let waiting = ImageWaiting::ImagePullBackOff { image: image.clone(), error: error.clone() };
        known.image = ImageState::BackingOff(waiting);
        self.record(Some(container), EventType::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
        self.record(Some(container), EventType::Warning, "Failed", "Error: ImagePullBackOff");
    }

    fn back_off_restart(&mut self, container: &str, until: Timestamp) {
        self.memory.container_mut(container).backing_off_until = Some(until);
        let pod = pod::full_name(self.memory.pod());
        let message = format!("Back-off restarting failed container {container} in pod {pod}");
        self.record(Some(container), EventType::Warning, "BackOff", message);
    }

    async fn stop_container(
        &mut self,
        container: &str,
        reason: StopReason,
        grace: SignedDuration,
        snapshot: &PodSnapshot,
    ) -> Result<(), PodError> {
        let deadline = self.machine.clock.now().checked_add(grace).unwrap_or(Timestamp::MAX);
        let is_first = self.memory.container_mut(container).stopping.is_none();
        self.memory.container_mut(container).stopping = Some(Stopping { reason, deadline, kill: Kill::NotYet });
        if is_first {
            self.record(Some(container), EventType::Normal, "Killing", killing_message(container, reason));
        }
        if grace <= SignedDuration::ZERO {
            return self.kill_container(container).await;
        }
        if !is_first {
            return Ok(());
        }
        let Some(sandbox) = self.memory.sandbox.clone() else { return Ok(()) };
        let Some(id) = running_id(snapshot, container) else { return Ok(()) };
        let hook = self.memory.spec_of(container).and_then(|spec| spec.lifecycle.as_ref()?.pre_stop.clone());
        match hook {
            None => sandbox.signal(&id, ContainerSignal::Stop).await?,
            Some(hook) => {
                let limit = Duration::try_from(grace).unwrap_or_default();
                let container = self.memory.spec_of(container).cloned().unwrap_or_default();
                hooks::run_then_signal(Asked { sandbox, id, container, hook }, limit, self.tell.clone());
            }
        }
        Ok(())
    }

    async fn kill_container(&mut self, container: &str) -> Result<(), PodError> {
        let known: &mut ContainerMemory = self.memory.container_mut(container);
        if let Some(stopping) = &mut known.stopping {
            stopping.kill = Kill::Sent;
        }
        let Some(sandbox) = self.memory.sandbox.clone() else { return Ok(()) };
        let reports = sandbox.containers().await?;
        for report in reports.iter().filter(|report| report.name == container) {
            sandbox.signal(&report.id, ContainerSignal::Kill).await?;
        }
        Ok(())
    }

    async fn remove_sandbox(&mut self) -> Result<(), PodError> {
        self.machine.runtime.remove(&self.key.uid).await?;
        self.memory.forget_sandbox();
        // Secrets went with the run directory.
        self.memory.volumes = Volumes::Unprepared;
        Ok(())
    }

    async fn remove_data(&mut self) -> Result<(), PodError> {
        let directory = self.machine.settings.pod_data_dir(&self.key.uid);
        remove_directory(directory.join("volumes")).await?;
        remove_directory(directory.join("containers")).await?;
        self.memory.files = Files::Logs;
        Ok(())
    }

    async fn remove_files(&mut self) -> Result<(), PodError> {
        remove_directory(self.machine.settings.pod_run_dir(&self.key.uid)).await?;
        remove_directory(self.machine.settings.pod_data_dir(&self.key.uid)).await?;
        self.memory.files = Files::Removed;
        Ok(())
    }

    async fn delete_object(&mut self) -> Result<(), PodError> {
        let api: Api<Pod> = Api::namespaced(self.machine.client.clone(), &self.key.namespace);
        let only_this = Preconditions { uid: Some(self.key.uid.clone()), resource_version: None };
        let at_once = DeleteParams::default().grace_period(0).preconditions(only_this);
        match api.delete(&self.key.name, &at_once).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => return Err(PodError::Delete(error)),
            Ok(_) => {}
        }
        self.memory.object = Object::DeletionSent;
        Ok(())
    }
}

fn refusal(waiting: &ImageWaiting) -> &'static str {
    match waiting {
        ImageWaiting::InvalidImageName { .. } => "InspectFailed",
        ImageWaiting::ErrImageNeverPull { .. } => "ErrImageNeverPull",
        ImageWaiting::ErrImagePull { .. } | ImageWaiting::ImagePullBackOff { .. } => "Failed",
    }
}

fn killing_message(container: &str, reason: StopReason) -> String {
    match reason {
        StopReason::ProbeFailed(ProbeKind::Startup) => {
            format!("Container {container} failed startup probe, will be restarted")
        }
        StopReason::ProbeFailed(ProbeKind::Liveness | ProbeKind::Readiness) => {
            format!("Container {container} failed liveness probe, will be restarted")
        }
        StopReason::PostStartFailed => "FailedPostStartHook".to_owned(),
        StopReason::PodDeleted
        | StopReason::EngineGoesDown
        | StopReason::DeadlineExceeded
        | StopReason::Evicted
        | StopReason::PodFinished => format!("Stopping container {container}"),
    }
}

/// The name that the running container has in its sandbox.
fn running_id(snapshot: &PodSnapshot, container: &str) -> Option<String> {
    match &snapshot.containers.get(container)?.instance {
        decide::pod_lifecycle::Instance::Running(running) => Some(pod::container_id(container, running.attempt)),
        decide::pod_lifecycle::Instance::None
        | decide::pod_lifecycle::Instance::Exited(_)
        | decide::pod_lifecycle::Instance::Earlier(_) => None,
    }
}

/// On a thread that may block: a container can leave very many files.
pub(super) async fn remove_directory(path: PathBuf) -> Result<(), PodError> {
    let removed = tokio::task::spawn_blocking({
        let path = path.clone();
        move || std::fs::remove_dir_all(path)
    });
    match removed.await.unwrap_or_else(|failure| Err(failure.into())) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(PodError::RemoveFiles { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}
