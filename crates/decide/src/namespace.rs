//! What is left to do in a namespace: filling a new one, emptying a terminating one and letting it go.

mod step;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, NamespaceCondition, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::Decision;
use crate::object::AnyObject;
use crate::owners;
use crate::target::Target;

pub use step::{Step, WaitingOn};

/// Finalizer in the spec of each namespace, which this decision takes away at last.
const KUBERNETES: &str = "kubernetes";

/// The ConfigMap of each namespace that holds the certificate of the API's authority.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// Deletions in one look: a namespace may hold very many objects.
const BURST: usize = 200;

/// A namespace and what is in it.
#[derive(Clone, Debug)]
pub struct Content {
    pub namespace: Namespace,
    /// Every object of a terminating namespace; those of others are not asked for.
    pub objects: Vec<AnyObject>,
    /// The API's certificate authority in PEM form, for pods to find in their namespace.
    pub root_ca: String,
    pub service_accounts: ServiceAccounts,
    /// What the namespace's `kube-root-ca.crt` says.
    pub published_root_ca: Option<ConfigMap>,
}

/// Whether the namespace has its ServiceAccount `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAccounts {
    Present,
    Missing,
    /// The API has no such kind.
    NotServed,
}

/// What happens next in the namespace.
#[must_use]
pub fn next_steps(content: &Content, now: Timestamp) -> Decision<Step, WaitingOn> {
    if owners::is_going(&content.namespace.metadata) { finish(content, now) } else { furnish(content) }
}

/// Every namespace holds a ServiceAccount `default` and the API's certificate authority.
fn furnish(content: &Content) -> Decision<Step, WaitingOn> {
    let steps = [service_account(content), root_ca(content)].into_iter().flatten().collect();
    Decision { steps, waiting_on: Vec::new(), look_again_at: None }
}

fn service_account(content: &Content) -> Option<Step> {
    let account = ServiceAccount { metadata: named(content, "default"), ..ServiceAccount::default() };
    (content.service_accounts == ServiceAccounts::Missing).then(|| Step::CreateServiceAccount(Box::new(account)))
}

fn root_ca(content: &Content) -> Option<Step> {
    let data = BTreeMap::from([("ca.crt".to_owned(), content.root_ca.clone())]);
    match &content.published_root_ca {
        Some(published) if published.data.as_ref() == Some(&data) => None,
        Some(published) => Some(Step::UpdateRootCa(Box::new(ConfigMap { data: Some(data), ..published.clone() }))),
        None => {
            let metadata = named(content, ROOT_CA);
            Some(Step::CreateRootCa(Box::new(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })))
        }
    }
}

fn named(content: &Content, name: &str) -> ObjectMeta {
    let namespace = content.namespace.metadata.name.clone();
    ObjectMeta { name: Some(name.to_owned()), namespace, ..ObjectMeta::default() }
}

/// Deletes all there is; when nothing is left, the namespace goes too.
fn finish(content: &Content, now: Timestamp) -> Decision<Step, WaitingOn> {
    let target = Target::of(&content.namespace.metadata);
    if content.objects.is_empty() {
        let finalizers = finalizers_left(&content.namespace);
        let steps = finalizers.map(|finalizers| Step::Finalize { namespace: target, finalizers });
        return Decision { steps: steps.into_iter().collect(), waiting_on: Vec::new(), look_again_at: None };
    }
    let staying = content.objects.iter().filter(|object| !owners::is_going(&object.meta)).take(BURST);
    let mut steps: Vec<_> = staying.map(|object| Step::Delete { object: object.target() }).collect();
    let conditions = conditions(content, now);
    let before = content.namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    if conditions != before {
        steps.push(Step::WriteConditions { namespace: target, conditions });
    }
    let waiting_on = counts(content).into_iter().map(|(kind, count)| WaitingOn::Objects { kind, count }).collect();
    Decision { steps, waiting_on, look_again_at: None }
}

/// None when ours is gone already, and somebody else's is waited for.
fn finalizers_left(namespace: &Namespace) -> Option<Vec<String>> {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref())?;
    let others: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != KUBERNETES).cloned().collect();
    (others.len() < finalizers.len()).then_some(others)
}

fn counts(content: &Content) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    content.objects.iter().for_each(|object| *counts.entry(object.kind.kind.clone()).or_default() += 1);
    counts
}

fn conditions(content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let before = content.namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let kinds = counts(content).into_iter().map(|(kind, count)| format!("{kind} has {count} resource instances"));
    let remaining = format!("Some resources are remaining: {}", kinds.collect::<Vec<_>>().join(", "));
    let held = content.objects.iter().flat_map(|object| object.meta.finalizers.iter().flatten());
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    held.for_each(|finalizer| *finalizers.entry(finalizer).or_default() += 1);
    let finalizers = finalizers.into_iter().map(|(name, count)| format!("{name} in {count} resource instances"));
    let finalizers: Vec<_> = finalizers.collect();
    let held = format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
    let mut conditions = vec![condition(&before, CONTENT, "SomeResourcesRemain", remaining, now)];
    if !finalizers.is_empty() {
        conditions.push(condition(&before, FINALIZERS, "SomeFinalizersRemain", held, now));
    }
    conditions
}

fn condition(
    before: &[NamespaceCondition],
    type_: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> NamespaceCondition {
    let since = before.iter().find(|condition| condition.type_ == type_).and_then(|it| it.last_transition_time.clone());
    NamespaceCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    }
}

#[cfg(test)]
mod tests;
