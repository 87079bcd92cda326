//! How a container is started: what it refers to is fetched, its configuration made, its last run cleared away.

use std::collections::BTreeMap;

use decide::pod_lifecycle::{Exit, ExitReason, Failure, FailureReason, ImageState, PostStart};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use kube::api::{Api, ListParams};

use super::events::EventType;
use super::hooks::{self, Asked};
use super::image_garbage;
use super::pod_task::PodTask;
use super::runtime::{Cause, Found, RuntimeError, Started, chain};
use crate::container::ContainerConfig;
use crate::images::Image;
use crate::pod::downward::Facts;
use crate::pod::references::{Names, References};
use crate::pod::{self, ConfigError, Ingredients, service_links, sharing, termination_message};
use crate::shim::protocol;
use objects::names::API_SERVICE;

/// How long a container that could not be created waits; Kubernetes' number.
const CREATE_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// How many runs' logs are kept: the last one, and the one before for `kubectl logs --previous`.
const LOGS_KEPT: i32 = 2;
/// The exit code of a command that could not be started; Kubernetes' number.
const CANNOT_RUN: i32 = 128;

/// Why a container was not started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot ask the API for what the container refers to")]
    Fetch(#[source] kube::Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot write the pod's /etc files")]
    EtcFiles(#[source] std::io::Error),
    #[error("cannot make the file for the container's termination message")]
    TerminationMessage(#[source] std::io::Error),
    #[error("an earlier Segue made this pod, which can't do all that it asks for: delete it, so that it is made anew")]
    OlderShim,
    #[error("the container's image was removed after it was found on this machine")]
    ImageGone,
    #[error("cannot write down which layers the container stands on")]
    NoteLayers(#[source] std::io::Error),
    #[error("cannot clear the container's last run away")]
    Clear(#[source] Cause),
}

impl PodTask {
    pub(super) async fn start_container(&mut self, container: &str, attempt: i32) {
        let Some(sandbox) = self.memory.sandbox.clone() else { return };
        let Some(spec) = self.memory.spec_of(container).cloned() else { return };
        let Some(image) = self.memory.container_mut(container).local_image.clone() else {
            // The image was found by an engine that is no more.
            self.memory.container_mut(container).image = ImageState::Unasked;
            return;
        };
        match self.try_to_start(&sandbox, &spec, attempt, &image).await {
            Ok(started) => {
                self.note_start(container, attempt, &image, &started);
                if started == Started::Running {
                    self.run_post_start(sandbox, spec, attempt);
                }
            }
            Err(error) => self.note_failure(container, &error),
        }
    }

    async fn try_to_start(
        &self,
        sandbox: &Found,
        container: &Container,
        attempt: i32,
        image: &Image,
    ) -> Result<Started, StartError> {
        let config = self.configure(sandbox, container, attempt, image).await?;
        if sandbox.level() < protocol::level_needed(&config, &sharing::of_pod(self.memory.pod())) {
            return Err(StartError::OlderShim);
        }
        self.clear_last_runs(sandbox, container, attempt).await?;
        // The sandbox may be older than this engine, and its maker may have been killed before it came to them.
        self.machine.write_etc_files(self.memory.pod(), sandbox.ip()).map_err(StartError::EtcFiles)?;
        termination_message::prepare(&self.machine.settings, &self.key.uid, &config.id)
            .map_err(StartError::TerminationMessage)?;
        self.note_layers(&config).await?;
        let _turn = self.machine.starts.acquire().await;
        Ok(sandbox.start(config).await?)
    }

    async fn note_layers(&self, config: &ContainerConfig) -> Result<(), StartError> {
        let _unswept = self.machine.images.unswept().await;
        let layers = &config.rootfs.lower;
        image_garbage::note_layers(&self.machine.settings, &self.key.uid, &config.id, layers)
            .map_err(StartError::NoteLayers)?;
        if layers.iter().all(|layer| layer.is_dir()) { Ok(()) } else { Err(StartError::ImageGone) }
    }

    async fn configure(
        &self,
        sandbox: &Found,
        container: &Container,
        attempt: i32,
        image: &Image,
    ) -> Result<ContainerConfig, StartError> {
        let machine = &self.machine;
        let pod = self.memory.pod();
        let names = Names::of_environment(container);
        let references =
            References::fetch(&machine.client, &self.key.namespace, &names).await.map_err(StartError::Fetch)?;
        let services = self.fetch_service_links(pod).await.map_err(StartError::Fetch)?;
        let facts = Facts {
            node_name: &machine.settings.node_name,
            pod_ip: sandbox.ip(),
            host_ip: machine.settings.host_ip,
            capacity: machine.capacity,
        };
        let ingredients = Ingredients {
            settings: &machine.settings,
            pod,
            container,
            attempt,
            image,
            references: &references,
            services: &services,
            facts,
        };
        Ok(pod::container_config(&ingredients)?)
    }

    async fn fetch_service_links(&self, pod: &Pod) -> kube::Result<BTreeMap<String, String>> {
        let services = |namespace: &str| Api::<Service>::namespaced(self.machine.client.clone(), namespace);
        // The API every container is told of.
        let (namespace, name) = API_SERVICE;
        let mut told: Vec<Service> = services(namespace).get_opt(name).await?.into_iter().collect();
        if service_links::are_wanted(pod) {
            told.extend(services(&self.key.namespace).list(&ListParams::default()).await?.items);
        }
        Ok(service_links::variables(&told))
    }

    /// How they ended is in the pod's status by now.
    async fn clear_last_runs(&self, sandbox: &Found, container: &Container, attempt: i32) -> Result<(), StartError> {
        let data_dir = self.machine.settings.pod_data_dir(&self.key.uid);
        for report in sandbox.containers().await?.iter().filter(|report| report.name == container.name) {
            sandbox.remove(&report.id).await?;
            let directory = data_dir.join("containers").join(&report.id);
            // It may have left very many files.
            let cleared = tokio::task::spawn_blocking(move || image_garbage::remove_container(&directory)).await;
            cleared.unwrap_or_else(|broke| Err(broke.into())).map_err(|error| StartError::Clear(error.into()))?;
        }
        let oldest_kept = attempt + 1 - LOGS_KEPT;
        crate::logs::remove_older(&data_dir.join("logs").join(&container.name), oldest_kept)
            .map_err(|error| StartError::Clear(error.into()))
    }

    fn note_start(&mut self, container: &str, attempt: i32, image: &Image, started: &Started) {
        let now = self.machine.clock.now();
        let status_id = pod::status_id(&self.key.uid, container, attempt);
        let known = self.memory.container_mut(container);
        known.never_ran = match started {
            Started::Running => None,
            Started::CannotRun(reason) => Some(never_ran(attempt, &status_id, image, reason)),
        };
        known.image_id = Some((status_id, image.image_id()));
        known.failure = None;
        known.backing_off_until = None;
        known.image = ImageState::Unasked;
        known.local_image = None;
        if attempt > 0 {
            known.restarts = known.restarts.attempted(now);
        }
        self.record(Some(container), EventType::Normal, "Created", format!("Created container: {container}"));
        match started {
            Started::Running => {
                self.record(Some(container), EventType::Normal, "Started", format!("Started container {container}"));
            }
            Started::CannotRun(reason) => {
                self.record(Some(container), EventType::Warning, "Failed", format!("Error: {reason}"));
            }
        }
    }

    fn run_post_start(&mut self, sandbox: Found, container: Container, attempt: i32) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else {
            return;
        };
        let status_id = pod::status_id(&self.key.uid, &container.name, attempt);
        self.memory.container_mut(&container.name).post_start = Some((status_id.clone(), PostStart::Running));
        let id = pod::container_id(&container.name, attempt);
        hooks::run_after_start(Asked { sandbox, id, container, hook }, status_id, self.tell.clone());
    }

    fn note_failure(&mut self, container: &str, error: &StartError) {
        let retry_at = self.machine.clock.now().checked_add(CREATE_RETRY).unwrap_or(Timestamp::MAX);
        let reason = match error {
            StartError::Config(_) | StartError::Fetch(_) => FailureReason::CreateContainerConfigError,
            StartError::Runtime(_)
            | StartError::OlderShim
            | StartError::ImageGone
            | StartError::EtcFiles(_)
            | StartError::TerminationMessage(_)
            | StartError::NoteLayers(_)
            | StartError::Clear(_) => FailureReason::CreateContainerError,
        };
        let message = chain(error);
        let known = self.memory.container_mut(container);
        known.failure = Some(Failure { reason, message: message.clone(), retry_at });
        if let StartError::Runtime(_) | StartError::ImageGone = error {
            // Its image may have been removed in between.
            known.image = ImageState::Unasked;
            known.local_image = None;
        }
        self.record(Some(container), EventType::Warning, "Failed", format!("Error: {message}"));
    }
}

fn never_ran(attempt: i32, status_id: &str, image: &Image, reason: &str) -> Exit {
    Exit {
        attempt,
        container_id: status_id.to_owned(),
        image_id: image.image_id(),
        code: CANNOT_RUN,
        reason: ExitReason::StartError,
        message: Some(reason.to_owned()),
        started_at: None,
        finished_at: Some(Timestamp::now()),
    }
}
