//! The API as a plain collection of objects: one namespace, one Deployment. It refuses what the real one refuses, and
//! nothing here decides anything.

use std::collections::BTreeMap;

use decide::replicas::{self, Replicas};
use decide::rollout::{self, Rollout};
use decide::target::Target;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Grace period of every pod, in seconds.
const GRACE_SECONDS: i64 = 30;

/// Everything the API holds.
#[derive(Clone, Debug)]
pub struct World {
    pub now: Timestamp,
    pub deployment: Deployment,
    pub replica_sets: BTreeMap<String, ReplicaSet>,
    pub pods: BTreeMap<String, Pod>,
    pub services: Vec<Service>,
    /// The resourceVersion that was given out last; uids come from it too.
    version: u64,
}

/// Why a write changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object is no longer what it was.
    Conflict,
    NotFound,
    AlreadyExists,
}

impl World {
    /// A world with a Deployment `web` of the manifest's shape, which runs `image`, and its Service.
    ///
    /// # Panics
    /// Never: the objects are written here.
    #[must_use]
    pub fn new(replicas: i32, image: &str) -> Self {
        let deployment = json!({
            "metadata": {"namespace": "production", "name": "web"},
            "spec": {
                "replicas": replicas,
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "app", "image": image}]},
                },
            },
        });
        let service = json!({
            "metadata": {"namespace": "production", "name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let services = vec![written(service)];
        let deployment: Deployment = written(deployment);
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 50);
        let mut world =
            Self { now, deployment, replica_sets: BTreeMap::new(), pods: BTreeMap::new(), services, version: 0 };
        let mut metadata = world.deployment.metadata.clone();
        world.be_born(&mut metadata);
        world.deployment.metadata = metadata;
        world
    }

    /// What the Deployment's controller reads.
    #[must_use]
    pub fn rollout(&self) -> Rollout {
        Rollout {
            deployment: self.deployment.clone(),
            replica_sets: self.replica_sets.values().cloned().collect(),
            pods: self.pods.values().cloned().collect(),
            services: self.services.clone(),
        }
    }

    /// What the ReplicaSet's controller reads, if there is such a ReplicaSet.
    #[must_use]
    pub fn replicas(&self, name: &str) -> Option<Replicas> {
        Some(Replicas {
            replica_set: self.replica_sets.get(name)?.clone(),
            deployment: Some(self.deployment.clone()),
            replica_sets: self.replica_sets.values().cloned().collect(),
            pods: self.pods.values().cloned().collect(),
            services: self.services.clone(),
        })
    }

    /// Changes what is declared.
    pub fn declare(&mut self, change: impl FnOnce(&mut DeploymentSpec)) {
        change(self.deployment.spec.get_or_insert_default());
        let version = self.next_version();
        let metadata = &mut self.deployment.metadata;
        metadata.resource_version = Some(version);
        metadata.generation = Some(metadata.generation.unwrap_or(0) + 1);
    }

    /// Declares another image.
    pub fn set_image(&mut self, image: &str) {
        self.declare(|spec| {
            let containers = spec.template.spec.iter_mut().flat_map(|spec| &mut spec.containers);
            containers.for_each(|container| container.image = Some(image.to_owned()));
        });
    }

    /// Applies a step of the Deployment's controller.
    ///
    /// # Errors
    /// When the real API would refuse it.
    pub fn apply_rollout(&mut self, step: &rollout::Step) -> Result<(), Refused> {
        use rollout::Step;
        match step {
            Step::Adopt { replica_set, owner_references } | Step::Release { replica_set, owner_references } => {
                self.replica_set(replica_set)?.metadata.owner_references = Some(owner_references.clone());
            }
            Step::RecordRevision { deployment, .. } => {
                check(&self.deployment.metadata, deployment)?;
                annotate(&mut self.deployment.metadata, step.annotations());
                self.deployment.metadata.resource_version = Some(self.next_version());
            }
            Step::UpdateReplicaSet { replica_set, min_ready_seconds, .. } => {
                let found = self.replica_set(replica_set)?;
                annotate(&mut found.metadata, step.annotations());
                let spec = found.spec.get_or_insert_default();
                if spec.min_ready_seconds.unwrap_or(0) != *min_ready_seconds {
                    spec.min_ready_seconds = Some(*min_ready_seconds);
                    found.metadata.generation = found.metadata.generation.map(|generation| generation + 1);
                }
            }
            Step::CreateReplicaSet(replica_set) => return self.create_replica_set(replica_set),
            Step::ScaleReplicaSet { replica_set, to, .. } => {
                let found = self.replica_set(replica_set)?;
                annotate(&mut found.metadata, step.annotations());
                found.spec.get_or_insert_default().replicas = Some(*to);
                found.metadata.generation = found.metadata.generation.map(|generation| generation + 1);
            }
            Step::DeleteReplicaSet { replica_set } => {
                self.replica_set(replica_set)?;
                self.replica_sets.remove(&replica_set.name);
            }
            Step::WriteStatus { deployment, status } => {
                check(&self.deployment.metadata, deployment)?;
                self.deployment.status = Some(status.as_ref().clone());
                self.deployment.metadata.resource_version = Some(self.next_version());
            }
        }
        Ok(())
    }

    /// Applies a step of a ReplicaSet's controller.
    ///
    /// # Errors
    /// When the real API would refuse it.
    pub fn apply_replicas(&mut self, step: &replicas::Step) -> Result<(), Refused> {
        use replicas::Step;
        match step {
            Step::Adopt { pod, owner_references } | Step::Release { pod, owner_references } => {
                let owner_references = Some(owner_references.clone());
                self.change_pod(pod, |found| found.metadata.owner_references = owner_references)
            }
            Step::CreatePod(pod) => {
                self.create_pod(pod);
                Ok(())
            }
            Step::DeletePod { pod } => {
                check(&self.pods.get(&pod.name).ok_or(Refused::NotFound)?.metadata, pod)?;
                self.delete_pod(&pod.name);
                Ok(())
            }
            Step::WriteStatus { replica_set, status } => {
                self.replica_set(replica_set)?.status = Some(status.as_ref().clone());
                Ok(())
            }
        }
    }

    /// Deletes a pod as `kubectl delete pod` does: at once when no node has it, else by asking it to go.
    pub fn delete_pod(&mut self, name: &str) {
        let ends = Time(self.now + SignedDuration::from_secs(GRACE_SECONDS));
        let bound = self.pods.get(name).and_then(|pod| pod.spec.as_ref()?.node_name.as_ref()).is_some();
        if !bound {
            self.pods.remove(name);
            return;
        }
        self.write_pod(name, |pod| {
            pod.metadata.deletion_timestamp.get_or_insert(ends);
            pod.metadata.deletion_grace_period_seconds = Some(GRACE_SECONDS);
        });
    }

    /// Changes a pod, if it is there, as the node agent or the data plane does.
    pub fn write_pod(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        let version = self.next_version();
        if let Some(pod) = self.pods.get_mut(name) {
            change(pod);
            pod.metadata.resource_version = Some(version);
        }
    }

    fn change_pod(&mut self, target: &Target, change: impl FnOnce(&mut Pod)) -> Result<(), Refused> {
        check(&self.pods.get(&target.name).ok_or(Refused::NotFound)?.metadata, target)?;
        self.write_pod(&target.name, change);
        Ok(())
    }

    /// The ReplicaSet that is to be changed, already with a new version.
    fn replica_set(&mut self, target: &Target) -> Result<&mut ReplicaSet, Refused> {
        let version = self.next_version();
        let found = self.replica_sets.get_mut(&target.name).ok_or(Refused::NotFound)?;
        check(&found.metadata, target)?;
        found.metadata.resource_version = Some(version);
        Ok(found)
    }

    fn create_replica_set(&mut self, replica_set: &ReplicaSet) -> Result<(), Refused> {
        let name = replica_set.metadata.name.clone().unwrap_or_default();
        if self.replica_sets.contains_key(&name) {
            return Err(Refused::AlreadyExists);
        }
        let mut created = replica_set.clone();
        self.be_born(&mut created.metadata);
        self.replica_sets.insert(name, created);
        Ok(())
    }

    fn create_pod(&mut self, pod: &Pod) {
        let mut created = pod.clone();
        self.be_born(&mut created.metadata);
        let prefix = created.metadata.generate_name.clone().unwrap_or_default();
        let name = format!("{prefix}{}", self.version);
        created.metadata.name = Some(name.clone());
        self.pods.insert(name, created);
    }

    fn be_born(&mut self, metadata: &mut ObjectMeta) {
        let version = self.next_version();
        metadata.uid = Some(format!("uid-{version}"));
        metadata.resource_version = Some(version);
        metadata.generation = Some(1);
        metadata.creation_timestamp = Some(Time(self.now));
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }
}

fn written<K: DeserializeOwned>(value: Value) -> K {
    match serde_json::from_value(value) {
        Ok(object) => object,
        Err(error) => panic!("the model's own objects are valid: {error}"),
    }
}

fn check(found: &ObjectMeta, target: &Target) -> Result<(), Refused> {
    let same = found.uid.as_ref() == Some(&target.uid);
    let unchanged = found.resource_version.as_ref() == Some(&target.resource_version);
    if same && unchanged { Ok(()) } else { Err(Refused::Conflict) }
}

fn annotate(metadata: &mut ObjectMeta, annotations: BTreeMap<String, String>) {
    metadata.annotations.get_or_insert_default().extend(annotations);
}
