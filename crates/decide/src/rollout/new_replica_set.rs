//! The ReplicaSet for a template that has none yet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::revision::{self, DESIRED_REPLICAS, MAX_REPLICAS, REVISION};
use super::situation::{Situation, TEMPLATE_HASH};
use super::status;
use super::step::Step;
use crate::owners;

/// Creates it as large as the surge allows. When an object with another template has its name, the hash is made anew
/// with a collision count.
pub(super) fn create(seen: &Situation<'_>) -> Vec<Step> {
    if seen.new_one().is_some() {
        return Vec::new();
    }
    let name = seen.new_name();
    if seen.claims.iter().any(|(it, _)| it.metadata.name.as_ref() == Some(&name)) {
        return vec![status::with_another_hash(seen)];
    }
    let size = seen.limits.replicas.min(seen.room());
    vec![Step::CreateReplicaSet(Box::new(replica_set(seen, name, size)))]
}

fn replica_set(seen: &Situation<'_>, name: String, size: i32) -> ReplicaSet {
    let hash = seen.template_hash();
    let mut template = seen.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: seen.deployment.metadata.namespace.clone(),
        labels: Some(labels.clone()),
        annotations: Some(annotations(seen)),
        owner_references: Some(vec![owners::controller_reference("apps/v1", "Deployment", &seen.deployment.metadata)]),
        ..ObjectMeta::default()
    };
    let spec = ReplicaSetSpec {
        replicas: Some(size),
        min_ready_seconds: seen.spec.min_ready_seconds.filter(|seconds| *seconds != 0),
        selector: with_hash(&seen.spec.selector, hash),
        template: Some(template),
    };
    ReplicaSet { metadata, spec: Some(spec), status: None }
}

fn annotations(seen: &Situation<'_>) -> BTreeMap<String, String> {
    let mut annotations = revision::copied(seen);
    annotations.insert(REVISION.to_owned(), revision::next(seen).to_string());
    annotations.insert(DESIRED_REPLICAS.to_owned(), seen.limits.replicas.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), seen.limits.ceiling().to_string());
    annotations
}

fn with_hash(selector: &LabelSelector, hash: String) -> LabelSelector {
    let mut selector = selector.clone();
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_owned(), hash);
    selector
}
