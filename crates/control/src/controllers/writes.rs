//! Writes that are refused when the object is no longer what the decision saw.

use std::fmt::{Debug, Display};

use decide::target::Target;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Error;

/// Merges `change` into the object.
pub(super) async fn merge<K>(api: &Api<K>, target: &Target, mut change: Value, step: &impl Display) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    change["metadata"]["resourceVersion"] = json!(target.resource_version);
    let patched = api.patch(&target.name, &PatchParams::default(), &Patch::Merge(change)).await;
    done(patched, step)
}

/// Creates the object.
pub(super) async fn create<K>(api: &Api<K>, object: &K, step: &impl Display) -> Result<K, Error>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    api.create(&PostParams::default(), object).await.map_err(|source| failed(step, source))
}

/// Replaces the object, which carries the resourceVersion it was read with.
pub(super) async fn replace<K>(api: &Api<K>, name: &str, object: &K, step: &impl Display) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    done(api.replace(name, &PostParams::default(), object).await, step)
}

/// Replaces the object's status; the rest of it is ignored.
pub(super) async fn replace_status<K>(api: &Api<K>, name: &str, object: &K, step: &impl Display) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
{
    done(api.replace_status(name, &PostParams::default(), object).await, step)
}

/// Deletes the object; one that is gone is as good.
pub(super) async fn delete<K>(
    api: &Api<K>,
    target: &Target,
    propagation: PropagationPolicy,
    step: &impl Display,
) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let preconditions =
        Preconditions { uid: Some(target.uid.clone()), resource_version: Some(target.resource_version.clone()) };
    let parameters = DeleteParams {
        preconditions: Some(preconditions),
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    };
    match api.delete(&target.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(failed(step, source)),
    }
}

/// The outcome of a write, named after its step.
pub(super) fn done<T>(outcome: kube::Result<T>, step: &impl Display) -> Result<(), Error> {
    outcome.map(drop).map_err(|source| failed(step, source))
}

fn failed(step: &impl Display, source: kube::Error) -> Error {
    Error::Apply { step: step.to_string(), source: Box::new(source) }
}

impl Error {
    /// Whether somebody else was faster, or the namespace is going; then a fresh look decides better.
    pub(super) fn is_overtaken(&self) -> bool {
        match self {
            Self::Apply { source, .. } => matches!(source.as_ref(), kube::Error::Api(status) if is_overtaken(status)),
            Self::Read { .. } | Self::UnknownKind { .. } => false,
        }
    }
}

fn is_overtaken(status: &Status) -> bool {
    matches!(status.code, 404 | 409) || status.message.contains("is being terminated")
}
