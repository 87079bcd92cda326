//! Surge and unavailability: how many pods more, how many available pods fewer, and what follows for each ReplicaSet.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use objects::counts::{self, Rounding};

use super::situation::{Member, Situation, is_recreate};
use super::step::Step;
use crate::owners;

/// How many pods a Deployment may have, and how many of them must be available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub replicas: i32,
    /// Pods beyond `replicas` during a rollout.
    pub max_surge: i32,
    /// Pods below `replicas` that a rollout may leave unavailable; all of them under `Recreate`.
    pub max_unavailable: i32,
}

impl Limits {
    /// The limits of a Deployment: percentages of surge are rounded up, of unavailability down, and when both come to
    /// nothing one pod may be unavailable, since the rollout could not move.
    #[must_use]
    pub fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1);
        if is_recreate(spec) {
            return Self { replicas, max_surge: 0, max_unavailable: replicas };
        }
        let given = spec.strategy.as_ref().and_then(|it| it.rolling_update.clone()).unwrap_or_default();
        let quarter = || IntOrString::String("25%".to_owned());
        let max_surge = share(&given.max_surge.unwrap_or_else(quarter), replicas, Rounding::Up);
        let max_unavailable = share(&given.max_unavailable.unwrap_or_else(quarter), replicas, Rounding::Down);
        let stuck = max_surge == 0 && max_unavailable == 0;
        let max_unavailable = if stuck { 1 } else { max_unavailable };
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    /// The most pods, terminating ones not counted.
    #[must_use]
    pub fn ceiling(self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    /// The fewest available pods.
    #[must_use]
    pub fn floor(self) -> i32 {
        (self.replicas - self.max_unavailable).max(0)
    }
}

/// The fewest available pods of a Deployment that a deliberate act may leave; none of one that is being deleted.
#[must_use]
pub fn floor(deployment: &Deployment) -> i32 {
    let spec = deployment.spec.as_ref().filter(|_| !owners::is_going(&deployment.metadata));
    spec.map_or(0, |spec| Limits::of(spec).floor())
}

/// Old pods that serve nobody go first, since that costs nothing. As many are spared as the new ReplicaSet's pods are
/// still missing: an old pod may recover before a new one is there.
pub(super) fn scale_down_unhealthy(seen: &Situation<'_>) -> Vec<Step> {
    let Some(new) = seen.new_one() else { return Vec::new() };
    let spare = seen.total(Member::staying) - seen.limits.floor() - (new.wanted() - new.kept_available());
    shrink_old(seen, spare, |old| old.wanted() - old.kept_available())
}

/// The new ReplicaSet grows as far as the surge allows; pods that it has beyond its size take up no more of it. It
/// shrinks only when it is larger than the Deployment, or would create pods for which there is no room any more.
pub(super) fn scale_up_new(seen: &Situation<'_>) -> Vec<Step> {
    let Some(new) = seen.new_one() else { return Vec::new() };
    let size = seen.limits.replicas.min(seen.largest_size(new));
    if size == new.wanted() { Vec::new() } else { vec![Step::scale(seen, new, size)] }
}

/// Old ReplicaSets shrink by what is available beyond the floor; what is not available yet is not counted.
pub(super) fn scale_down_old(seen: &Situation<'_>) -> Vec<Step> {
    let spare = seen.total(Member::kept_available) - seen.limits.floor();
    shrink_old(seen, spare, Member::wanted)
}

/// Takes at most `most` pods from the old ReplicaSets together, oldest first, and from each at most what `part` says.
fn shrink_old<'a>(seen: &Situation<'a>, most: i32, part: impl Fn(&Member<'a>) -> i32) -> Vec<Step> {
    let mut left = most.max(0);
    let mut steps = Vec::new();
    for old in seen.old_ones() {
        let less = part(old).min(left);
        if less > 0 {
            left -= less;
            steps.push(Step::scale(seen, old, old.wanted() - less));
        }
    }
    steps
}

/// Validation refuses what is neither a number nor a percentage; a stored mistake counts as none.
fn share(count: &IntOrString, replicas: i32, rounding: Rounding) -> i32 {
    counts::resolve(count, replicas, rounding).map_or(0, |share| share.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentStrategy, RollingUpdateDeployment};

    fn limits(replicas: i32, surge: &str, unavailable: &str) -> Limits {
        let value = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.to_owned()),
        };
        let rolling =
            RollingUpdateDeployment { max_surge: Some(value(surge)), max_unavailable: Some(value(unavailable)) };
        let strategy = DeploymentStrategy { type_: None, rolling_update: Some(rolling) };
        Limits::of(&DeploymentSpec { replicas: Some(replicas), strategy: Some(strategy), ..Default::default() })
    }

    #[test]
    fn surge_rounds_up_and_unavailability_down() {
        let table = [
            // replicas, surge, unavailable -> ceiling, floor
            (3, "1", "0", 4, 3),
            (3, "25%", "25%", 4, 3),
            (4, "25%", "25%", 5, 3),
            (10, "25%", "25%", 13, 8),
            (1, "25%", "25%", 2, 1),
            (3, "0", "1", 3, 2),
            (3, "0", "0", 3, 2),
            (3, "0%", "10%", 3, 2),
            (2, "0", "100%", 2, 0),
            (2, "0", "5", 2, 0),
            (0, "25%", "25%", 0, 0),
            (0, "1", "0", 1, 0),
            (5, "100%", "0", 10, 5),
            (3, "34%", "33%", 5, 3),
            (3, "33%", "34%", 4, 2),
        ];
        for (replicas, surge, unavailable, ceiling, floor) in table {
            let found = limits(replicas, surge, unavailable);
            assert_eq!((found.ceiling(), found.floor()), (ceiling, floor), "{replicas} {surge} {unavailable}");
        }
    }
}
