//! Namespaces: who asks `decide::namespace`, and who applies its answer.

use std::sync::Arc;

use decide::namespace::{self, Content, ServiceAccounts, Step};
use decide::owners;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::Api;
use kube::api::{DynamicObject, PropagationPolicy};
use tracing::debug;

use super::control_loop::ControlLoop;
use super::kinds::{self, ServedKind};
use super::snapshot::{get, get_of};
use super::watches::Change;
use super::work_queue::{Key, Next, WorkQueue};
use super::{Context, Error, writes};

/// Namespaces are independent of each other; this many share the API at a time.
const AT_ONCE: usize = 2;

/// What the loop knows besides the API.
struct Surroundings {
    kinds: Arc<Vec<ServedKind>>,
    root_ca: String,
}

pub(super) fn start(control_loop: ControlLoop<'_>, kinds: &Arc<Vec<ServedKind>>, root_ca: &str) {
    let surroundings = Arc::new(Surroundings { kinds: Arc::clone(kinds), root_ca: root_ca.to_owned() });
    let mut control_loop =
        control_loop.wakes_on(|queue, _, namespace: &Namespace| queue.wake(key_of(namespace.metadata.name.as_deref())));
    for kind in kinds.iter().filter(|kind| kind.namespaced) {
        let api = kind.everywhere(&control_loop.context.client);
        control_loop = control_loop.wakes_on_any(api, wake);
    }
    control_loop.works(AT_ONCE, move |context, key| reconcile(context, key, Arc::clone(&surroundings)));
}

/// What goes may be the last of a terminating namespace, or something that every namespace has to have.
fn wake(queue: &WorkQueue, change: Change, object: &DynamicObject) {
    if change == Change::Deleted {
        queue.wake_if_known(key_of(object.metadata.namespace.as_deref()));
    }
}

fn key_of(namespace: Option<&str>) -> Key {
    Key { namespace: String::new(), name: namespace.unwrap_or_default().to_owned() }
}

/// One look at a namespace: snapshot, decision, steps. An object that can't be deleted does not keep the others
/// waiting.
async fn reconcile(context: Context, key: Key, surroundings: Arc<Surroundings>) -> Result<Next, Error> {
    let Some(content) = snapshot(&context, &key, &surroundings).await? else { return Ok(Next::Gone) };
    let decision = namespace::next_steps(&content, Timestamp::now());
    let mut failure = None;
    for step in &decision.steps {
        debug!(%key, %step, "applying");
        failure = apply(&context, &content, &surroundings.kinds, step).await.err().or(failure);
    }
    for reason in &decision.waiting_on {
        debug!(%key, %reason, "waiting");
    }
    failure.map_or_else(|| Ok(Next::after(&decision)), Err)
}

async fn snapshot(context: &Context, key: &Key, surroundings: &Surroundings) -> Result<Option<Content>, Error> {
    let namespaces = Api::<Namespace>::all(context.client.clone());
    let Some(namespace) = get_of(&namespaces, &key.name).await? else { return Ok(None) };
    let within = |name: &str| Key { namespace: key.name.clone(), name: name.to_owned() };
    let mut objects = Vec::new();
    if owners::is_going(&namespace.metadata) {
        for kind in surroundings.kinds.iter().filter(|kind| kind.namespaced) {
            objects.extend(kind.read(&kind.within(&context.client, &key.name)).await?);
        }
    }
    let serves_accounts = surroundings.kinds.iter().any(|kind| kind.resource.kind == "ServiceAccount");
    let service_accounts = if !serves_accounts {
        ServiceAccounts::NotServed
    } else if get::<ServiceAccount>(&context.client, &within("default")).await?.is_some() {
        ServiceAccounts::Present
    } else {
        ServiceAccounts::Missing
    };
    let published_root_ca = get::<ConfigMap>(&context.client, &within(namespace::ROOT_CA)).await?;
    let root_ca = surroundings.root_ca.clone();
    Ok(Some(Content { namespace, objects, root_ca, service_accounts, published_root_ca }))
}

async fn apply(context: &Context, content: &Content, kinds: &[ServedKind], step: &Step) -> Result<(), Error> {
    let client = &context.client;
    let name = content.namespace.metadata.name.as_deref().unwrap_or_default();
    let config_maps = Api::<ConfigMap>::namespaced(client.clone(), name);
    let namespaces = Api::<Namespace>::all(client.clone());
    match step {
        Step::CreateServiceAccount(account) => {
            let accounts = Api::<ServiceAccount>::namespaced(client.clone(), name);
            writes::create(&accounts, account.as_ref(), step).await.map(drop)
        }
        Step::CreateRootCa(map) => writes::create(&config_maps, map.as_ref(), step).await.map(drop),
        Step::UpdateRootCa(map) => writes::replace(&config_maps, namespace::ROOT_CA, map.as_ref(), step).await,
        Step::Delete { object } => {
            let api = kinds::api_of(kinds, client, object)?;
            writes::delete(&api, &object.target, PropagationPolicy::Background, step).await
        }
        Step::WriteConditions { namespace, conditions } => {
            let mut changed = content.namespace.clone();
            changed.status.get_or_insert_default().conditions = Some(conditions.clone());
            writes::replace_status(&namespaces, &namespace.name, &changed, step).await
        }
        Step::Finalize { namespace, finalizers } => {
            let mut changed = content.namespace.clone();
            changed.spec.get_or_insert_default().finalizers = Some(finalizers.clone());
            let finalized =
                namespaces.replace_subresource("finalize", &namespace.name, &Default::default(), &changed).await;
            writes::done(finalized, step)
        }
    }
}
