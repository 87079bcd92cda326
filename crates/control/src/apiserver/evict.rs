//! POST to a pod's `eviction`: it is deleted, if its disruption budget allows that. `kubectl drain` asks for nothing
//! else.

use decide::disruption::{self, Leave, NoLeave};
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use objects::names::DISRUPTION_TARGET;
use objects::status::Failure;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Answer, ApiServer, Asked, Place, answer, objects_in, refusals, write};
use crate::store::{Expected, WriteError};

const BUDGETS: &str = "poddisruptionbudgets.policy";

impl ApiServer {
    pub(super) async fn evict(&self, place: &Place, asked: &Asked) -> Answer {
        let eviction = objects_in::parse(asked)?.value;
        let named = eviction["metadata"]["name"].as_str().unwrap_or_default();
        if !named.is_empty() && named != place.name() {
            return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = eviction["deleteOptions"].clone();
        let is_dry_run = write::is_dry_run(asked) || options["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        self.take_leave(place, is_dry_run).await?;
        if !is_dry_run {
            self.show_disruption(place, asked).await?;
            self.delete_as(place, &options).await?;
        }
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(answer::json(StatusCode::CREATED, &done, &[]))
    }

    /// Asks again when somebody else has changed the budget meanwhile: two evictions never share the last leave.
    async fn take_leave(&self, place: &Place, is_dry_run: bool) -> Result<(), Failure> {
        loop {
            let pod: Pod = read(&self.find(place)?.value)?;
            let stored = self.store.list(BUDGETS, place.namespace.as_deref()).objects;
            let budgets = stored.iter().map(|object| read(&object.value)).collect::<Result<Vec<_>, _>>()?;
            let leave = disruption::may_evict(&pod, &budgets, Timestamp::now()).map_err(|why| refused(&why))?;
            let Leave::Counted(budget) = leave else { return Ok(()) };
            if is_dry_run {
                return Ok(());
            }
            match self.write_budget(place, &budget, &stored).await {
                Err(WriteError::Changed(_)) => {}
                Err(error) => return Err(write::failed(&error)),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn write_budget(
        &self,
        place: &Place,
        budget: &PodDisruptionBudget,
        stored: &[std::sync::Arc<crate::store::Object>],
    ) -> Result<(), WriteError> {
        let name = budget.metadata.name.clone().unwrap_or_default();
        let Some(old) = stored.iter().find(|object| object.value["metadata"]["name"] == *name) else { return Ok(()) };
        let mut value = old.value.clone();
        value["status"] = json!(budget.status);
        let key = (place.namespace().to_owned(), name);
        self.store.write(BUDGETS, key, Expected::Revision(old.revision), value).await.map(drop)
    }

    /// Whoever looks at the pod sees why it goes.
    async fn show_disruption(&self, place: &Place, asked: &Asked) -> Result<(), Failure> {
        let condition = json!({"type": DISRUPTION_TARGET, "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null,
            "lastTransitionTime": write::timestamp(Timestamp::now())});
        let shown = self.change(place, asked, |pod| {
            let mut condition = condition.clone();
            condition["observedGeneration"] = pod["metadata"]["generation"].clone();
            write::set_condition(pod, condition);
            Ok(())
        });
        shown.await.map(drop)
    }
}

fn refused(why: &NoLeave) -> Failure {
    match why {
        NoLeave::Several => Failure::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ),
        NoLeave::NotCounted { budget } => {
            refusals::over_budget(&format!("The disruption budget {budget} is still being processed by the server."))
        }
        NoLeave::Exhausted { budget, desired, current } => refusals::over_budget(&format!(
            "The disruption budget {budget} needs {desired} healthy pods and has {current} currently"
        )),
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    T::deserialize(value).map_err(Failure::internal)
}
