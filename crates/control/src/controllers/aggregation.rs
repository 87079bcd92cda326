//! ClusterRoles that others are put into: who asks `decide::rbac`, and who writes its answer.

use decide::rbac::aggregated;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;

use super::control_loop::ControlLoop;
use super::work_queue::{Key, Next};
use super::{Context, Error, snapshot, writes};

/// One may be put into the next.
const AT_ONCE: usize = 1;

/// A role may be put into any other, and may have been by its former labels.
pub(super) fn start(control_loop: ControlLoop<'_>) {
    control_loop
        .wakes_on(|queue, _, role: &ClusterRole| {
            if role.aggregation_rule.is_some() {
                queue.wake(Key::of(&role.metadata));
            }
            queue.wake_known(|_| true);
        })
        .works(AT_ONCE, reconcile);
}

async fn reconcile(context: Context, key: Key) -> Result<Next, Error> {
    let all = snapshot::list_all::<ClusterRole>(&context.client).await?;
    let Some(role) = all.iter().find(|role| role.metadata.name.as_ref() == Some(&key.name)) else {
        return Ok(Next::Gone);
    };
    let Some(rules) = aggregated(role, &all) else { return Ok(Next::Gone) };
    if role.rules.as_deref().unwrap_or_default() != rules {
        let filled = ClusterRole { rules: Some(rules), ..role.clone() };
        writes::replace(&Api::all(context.client), &key.name, &filled, &"fill the role").await?;
    }
    Ok(Next::WhenWoken)
}
