//! Garbage collection: who asks `decide::garbage`, and who applies its answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use decide::garbage::{self, Garbage, Propagation, Step};
use decide::object::{AnyObject, AnyTarget, KindName};
use decide::owners;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{DynamicObject, PropagationPolicy};
use serde_json::json;
use tracing::debug;

use super::control_loop::ControlLoop;
use super::kinds::{self, ServedKind};
use super::watches::Change;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, snapshot, writes};

/// Every look is at everything.
const AT_ONCE: usize = 1;

pub(super) fn start(mut control_loop: ControlLoop<'_>, kinds: &Arc<Vec<ServedKind>>) {
    for kind in kinds.iter().filter(|kind| kind.is_collected()) {
        let api = kind.everywhere(&control_loop.context.client);
        control_loop = control_loop.wakes_on_any(api, wake);
    }
    let kinds = Arc::clone(kinds);
    control_loop.works(AT_ONCE, move |context, key| reconcile(context, key, Arc::clone(&kinds)));
}

/// Only what goes, or comes with an owner, can leave garbage; what running objects report cannot.
fn wake(queue: &WorkQueue, change: Change, object: &DynamicObject) {
    let owned = object.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    let matters = match change {
        Change::Added => owned,
        Change::Modified => owners::is_going(&object.metadata),
        Change::Deleted | Change::Listed => true,
    };
    if matters {
        queue.wake(Key::everything());
    }
}

/// One look at all objects: snapshot, decision, steps. A step that is overtaken does not keep the others waiting.
async fn reconcile(context: Context, key: Key, kinds: Arc<Vec<ServedKind>>) -> Result<Next, Error> {
    let garbage = snapshot(&context.client, &kinds).await?;
    let decision = garbage::next_steps(&garbage);
    let mut failure = None;
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        failure = apply(&context.client, &kinds, step).await.err().or(failure);
    }
    for reason in &decision.waiting_on {
        debug!(%key, %reason, "waiting");
    }
    failure.map_or_else(|| Ok(Next::after(&decision)), Err)
}

async fn snapshot(client: &Client, kinds: &[ServedKind]) -> Result<Garbage, Error> {
    let collected: Vec<_> = kinds.iter().filter(|kind| kind.is_collected()).collect();
    let mut objects = Vec::new();
    for kind in &collected {
        objects.extend(kind.read(&kind.everywhere(client)).await?);
    }
    let late = late_owners(client, &collected, &objects).await?;
    objects.extend(late);
    Ok(Garbage { kinds: collected.iter().map(|kind| kind.name()).collect(), objects })
}

/// Owners that were not there when their kind was read, but are now: they were created in between, as were their
/// dependents.
async fn late_owners(client: &Client, kinds: &[&ServedKind], objects: &[AnyObject]) -> Result<Vec<AnyObject>, Error> {
    let known: BTreeSet<_> = objects.iter().filter_map(|object| object.meta.uid.as_deref()).collect();
    let mut asked = BTreeSet::new();
    let mut late = Vec::new();
    for object in objects {
        for owner in object.meta.owner_references.iter().flatten() {
            if !known.contains(owner.uid.as_str()) && asked.insert((&object.meta.namespace, &owner.uid)) {
                late.extend(find(client, kinds, object, owner).await?);
            }
        }
    }
    Ok(late)
}

async fn find(
    client: &Client,
    kinds: &[&ServedKind],
    dependent: &AnyObject,
    owner: &OwnerReference,
) -> Result<Option<AnyObject>, Error> {
    let wanted = KindName { api_version: owner.api_version.clone(), kind: owner.kind.clone() };
    let same = |kind: &&&ServedKind| kind.resource.group == wanted.group() && kind.resource.kind == wanted.kind;
    let Some(kind) = kinds.iter().find(same) else { return Ok(None) };
    let namespace = dependent.meta.namespace.as_deref().filter(|_| kind.namespaced).unwrap_or_default();
    let found = snapshot::get_of(&kind.within(client, namespace), &owner.name).await?;
    let found = found.filter(|object| object.metadata.uid.as_ref() == Some(&owner.uid));
    Ok(found.map(|object| AnyObject { kind: kind.name(), meta: object.metadata }))
}

async fn apply(client: &Client, kinds: &[ServedKind], step: &Step) -> Result<(), Error> {
    let AnyTarget { target, .. } = step.object();
    let api = kinds::api_of(kinds, client, step.object())?;
    match step {
        Step::Delete { propagation, .. } => writes::delete(&api, target, policy(*propagation), step).await,
        Step::SetOwners { owner_references, .. } => {
            let change = json!({"metadata": {"ownerReferences": owner_references}});
            writes::merge(&api, target, change, step).await
        }
        Step::SetFinalizers { finalizers, .. } => {
            writes::merge(&api, target, json!({"metadata": {"finalizers": finalizers}}), step).await
        }
    }
}

fn policy(propagation: Propagation) -> PropagationPolicy {
    match propagation {
        Propagation::Background => PropagationPolicy::Background,
        Propagation::Foreground => PropagationPolicy::Foreground,
        Propagation::Orphan => PropagationPolicy::Orphan,
    }
}
