//! The `scale` subresource: how many replicas are wanted, in a form that is the same for every kind.

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use objects::status::Failure;
use objects::{body, selector};
use serde_json::{Value, json};

use super::answer;
use super::patch::Patch;
use super::{Answer, ApiServer, Asked, Place, objects_in, write};

impl ApiServer {
    pub(super) fn get_scale(&self, place: &Place) -> Answer {
        Ok(answer::json(StatusCode::OK, &scale_of(&self.find(place)?.value), &[]))
    }

    pub(super) async fn put_scale(&self, place: &Place, asked: &Asked) -> Answer {
        let sent: body::Parsed = objects_in::parse(asked)?;
        self.set_scale(place, asked, |_| Ok(sent.value.clone())).await
    }

    pub(super) async fn patch_scale(&self, place: &Place, asked: &Asked) -> Answer {
        let (patch, _) = Patch::read(asked)?;
        self.set_scale(place, asked, |scale| match &patch {
            // A Scale has no lists, so both kinds of merge mean the same for it.
            Patch::Strategic(changes) => Patch::Merge(changes.clone()).apply(place, scale),
            Patch::Merge(_) | Patch::Json(_) => patch.apply(place, scale),
        })
        .await
    }

    async fn set_scale<F>(&self, place: &Place, asked: &Asked, wanted: F) -> Answer
    where
        F: Fn(&Value) -> Result<Value, Failure>,
    {
        let written = self
            .change(place, asked, |stored| {
                let wanted = wanted(&scale_of(stored))?;
                write::check_uid(place, &wanted, stored)?;
                write::check_revision(place, &wanted, stored)?;
                let old = stored.clone();
                stored["spec"]["replicas"] = Value::from(replicas(&wanted)?);
                self.check_replacement(place.kind, stored, &old)
            })
            .await?;
        Ok(answer::json(StatusCode::OK, &scale_of(&written), &[]))
    }
}

fn replicas(scale: &Value) -> Result<i64, Failure> {
    let wanted = &scale["spec"]["replicas"];
    if wanted.is_null() {
        return Ok(0);
    }
    let sentence = || format!("spec.replicas: {wanted} is not a number of replicas");
    wanted.as_i64().ok_or_else(|| Failure::bad_request(sentence()))
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut kept = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !metadata[field].is_null() {
            kept.insert(field.to_owned(), metadata[field].clone());
        }
    }
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept,
        "spec": {}, "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)}});
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = Value::from(replicas);
    }
    if let Ok(wanted) = serde_json::from_value::<LabelSelector>(object["spec"]["selector"].clone()) {
        scale["status"]["selector"] = Value::String(selector::to_text(&wanted));
    }
    scale
}
