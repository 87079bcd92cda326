//! Revisions: the number of the template in use, kept on the Deployment and on the ReplicaSet made of it, so that
//! `rollout history` and `rollout undo` find it. Undoing is declaring an old template: its ReplicaSet gets a new
//! number.

use std::collections::BTreeMap;

use objects::names;

use super::situation::{Member, Situation};
use super::step::Step;
use crate::owners::annotation;
use crate::target::Target;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// Annotations that are about the one object they stand on.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// A long history would outgrow what an annotation may hold; the newest part is what somebody may look for.
const HISTORY_LIMIT: usize = 100;

/// Brings the new ReplicaSet's annotations and the Deployment's revision up to date.
pub(super) fn record(seen: &Situation<'_>) -> Vec<Step> {
    let Some(new) = seen.new_one() else { return Vec::new() };
    let revision = next(seen).max(of(new));
    let annotations = outdated(new, annotations(seen, new, revision));
    let min_ready_seconds = seen.spec.min_ready_seconds.unwrap_or(0);
    let recorded_seconds = new.replica_set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let mut steps = Vec::new();
    if !annotations.is_empty() || recorded_seconds != min_ready_seconds {
        let replica_set = Target::of(&new.replica_set.metadata);
        steps.push(Step::UpdateReplicaSet { replica_set, annotations, min_ready_seconds });
    }
    if annotation(&seen.deployment.metadata, REVISION) != Some(&revision.to_string()) {
        steps.push(Step::RecordRevision { deployment: Target::of(&seen.deployment.metadata), revision });
    }
    steps
}

/// The revision that the present template gets.
pub(super) fn next(seen: &Situation<'_>) -> i64 {
    seen.old_ones().map(of).max().unwrap_or(0) + 1
}

/// A ReplicaSet's revision; 0 when it has none.
pub(super) fn of(member: &Member<'_>) -> i64 {
    annotation(&member.replica_set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The Deployment's annotations that its ReplicaSet has as well, such as the cause of a change.
pub(super) fn copied(seen: &Situation<'_>) -> BTreeMap<String, String> {
    let all = seen.deployment.metadata.annotations.iter().flatten();
    let copied = all.filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()));
    copied.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn annotations(seen: &Situation<'_>, new: &Member<'_>, revision: i64) -> BTreeMap<String, String> {
    let mut annotations = copied(seen);
    let before = of(new);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if before != 0 && before != revision {
        let history = annotation(&new.replica_set.metadata, REVISION_HISTORY).unwrap_or_default();
        annotations.insert(REVISION_HISTORY.to_owned(), lengthened(history, before));
        annotations.insert(names::ROLLED_OUT_AGAIN.to_owned(), seen.now.to_string());
    }
    annotations
}

fn lengthened(history: &str, revision: i64) -> String {
    let revision = revision.to_string();
    let mut entries: Vec<_> = history.split(',').filter(|entry| !entry.is_empty()).chain([revision.as_str()]).collect();
    entries.drain(..entries.len().saturating_sub(HISTORY_LIMIT));
    entries.join(",")
}

fn outdated(member: &Member<'_>, mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|name, value| annotation(&member.replica_set.metadata, name) != Some(value));
    annotations
}
