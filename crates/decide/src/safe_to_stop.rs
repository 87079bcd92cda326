//! May this pod be taken down now? Every path that stops a pod on purpose asks here, and only here it gets a yes.
//! A scale-down can be refused for as long as it takes; a deletion only delayed, until its drain deadline at most.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use objects::{names, pods};

use crate::availability::Standing;

/// Why somebody wants the pod to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopCause {
    /// A rollout or a scale-down wants to delete it.
    ScaleDown {
        /// How the pod stands with those who count on it.
        standing: Standing,
        floor: Floor,
    },
    /// Its deletion was asked for, and the node wants to signal its containers.
    Deletion,
    /// Its node ends it, and has shown so.
    NodesEnd,
    /// The engine goes down and takes all pods with it.
    Down,
}

/// What a scale-down must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Pods that are available now, this one included. An old, higher count would allow too much, so it is taken from
    /// the same snapshot as the pod, and nobody else may spend the same surplus meanwhile.
    pub available: i32,
    /// Pods that must stay available.
    pub at_least: i32,
}

/// Why a pod may not be taken down now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSafe {
    /// Without it, fewer pods than promised would be available.
    BelowFloor(Floor),
    /// It was told nobody yet that it goes.
    NotDeleted,
    /// It may still be given work: the data plane has not acknowledged its withdrawal.
    NotWithdrawn { drain_deadline: Timestamp },
    /// It is still busy with what it was given.
    InFlight { drain_deadline: Timestamp },
}

/// Whether the pod may be taken down now.
///
/// # Errors
/// The reason not to, which also says when the answer changes without an event.
pub fn safe_to_stop(pod: &Pod, cause: StopCause, now: Timestamp) -> Result<(), NotSafe> {
    match cause {
        StopCause::Down => Ok(()),
        StopCause::ScaleDown { standing, floor } => leaves_enough(standing, floor),
        StopCause::Deletion | StopCause::NodesEnd => is_drained(pod, now),
    }
}

/// How long a terminating pod may be given for what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainBudgets {
    pub requests: SignedDuration,
    pub long_connections: SignedDuration,
}

/// What the pod asks for, but no more than half of a grace period that somebody chose, since that period is for drain
/// and termination together.
#[must_use]
pub fn drain_budgets(pod: &Pod) -> DrainBudgets {
    let capped = |budget: SignedDuration| {
        let capped = pods::explicit_grace(pod).map_or(budget, |grace| budget.min(grace / 2));
        capped.max(SignedDuration::ZERO)
    };
    DrainBudgets {
        requests: capped(pods::drain_budget(pod)),
        long_connections: capped(pods::long_connection_budget(pod)),
    }
}

/// When a pod that goes is signalled even though it is not idle. None while it doesn't.
#[must_use]
pub fn drain_deadline(pod: &Pod) -> Option<Timestamp> {
    let DrainBudgets { requests, long_connections } = drain_budgets(pod);
    pods::leaves_since(pod)?.checked_add(requests.max(long_connections)).ok()
}

fn leaves_enough(standing: Standing, floor: Floor) -> Result<(), NotSafe> {
    if standing == Standing::Available && floor.available <= floor.at_least {
        return Err(NotSafe::BelowFloor(floor));
    }
    Ok(())
}

fn is_drained(pod: &Pod, now: Timestamp) -> Result<(), NotSafe> {
    let drain_deadline = drain_deadline(pod).ok_or(NotSafe::NotDeleted)?;
    if drain_deadline <= now || is_forced(pod) || !runs_anything(pod) || pods::is_true(pod, names::DRAINED) {
        return Ok(());
    }
    let reason = pods::condition(pod, names::DRAINED).and_then(|drained| drained.reason.as_deref());
    let withdrawn = matches!(reason, Some(names::WITHDRAWN | names::ENDING_LONG_CONNECTIONS));
    Err(if withdrawn { NotSafe::InFlight { drain_deadline } } else { NotSafe::NotWithdrawn { drain_deadline } })
}

fn is_forced(pod: &Pod) -> bool {
    pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// A container that was started but not yet reported can't be Ready, so nothing was routed to it.
fn runs_anything(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.filter_map(|status| status.state.as_ref());
    !pods::is_finished(pod) && states.any(|state| state.running.is_some())
}

impl NotSafe {
    /// When the answer changes although nothing happens.
    #[must_use]
    pub fn look_again_at(&self) -> Option<Timestamp> {
        match self {
            Self::BelowFloor(_) | Self::NotDeleted => None,
            Self::NotWithdrawn { drain_deadline } | Self::InFlight { drain_deadline } => Some(*drain_deadline),
        }
    }
}

impl fmt::Display for NotSafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowFloor(Floor { available, at_least }) => {
                write!(f, "it is one of {available} available pods and {at_least} must stay available")
            }
            Self::NotDeleted => write!(f, "nothing says that it is to go"),
            Self::NotWithdrawn { drain_deadline } => {
                write!(f, "it may still be given requests (it is waited for until {drain_deadline})")
            }
            Self::InFlight { drain_deadline } => {
                write!(f, "requests to it are in flight (they are waited for until {drain_deadline})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A running pod whose deletion was asked for at second 1000, with 30 seconds of grace.
    fn terminating(more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"deletionTimestamp": at(1030).to_string(), "deletionGracePeriodSeconds": 30},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
            }]},
        });
        json_patch_merge(&mut pod, more);
        serde_json::from_value(pod).unwrap()
    }

    fn json_patch_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    json_patch_merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn drained(status: &str, reason: &str) -> Value {
        json!({"status": {"conditions": [{"type": names::DRAINED, "status": status, "reason": reason}]}})
    }

    #[test]
    fn a_terminating_pod_is_signalled_once_drained_or_out_of_time() {
        let deadline = at(1030);
        let table = [
            ("nothing is known yet", json!({}), 1001, Err(NotSafe::NotWithdrawn { drain_deadline: deadline })),
            (
                "still a last resort",
                drained("False", names::DEPRIORITISED),
                1001,
                Err(NotSafe::NotWithdrawn { drain_deadline: deadline }),
            ),
            (
                "withdrawn but busy",
                drained("False", names::WITHDRAWN),
                1001,
                Err(NotSafe::InFlight { drain_deadline: deadline }),
            ),
            ("idle", drained("True", names::IDLE), 1001, Ok(())),
            ("not routed", drained("True", names::NOT_ROUTED), 1000, Ok(())),
            ("the budget is over", drained("False", names::WITHDRAWN), 1030, Ok(())),
            (
                "a budget of its own",
                json!({"metadata": {"annotations": {names::DRAIN_DEADLINE: "5"}}}),
                1004,
                Err(NotSafe::NotWithdrawn { drain_deadline: at(1005) }),
            ),
            ("it is over", json!({"metadata": {"annotations": {names::DRAIN_DEADLINE: "5"}}}), 1005, Ok(())),
            (
                "half of a chosen grace period",
                json!({"metadata": {"annotations": {names::EXPLICIT_GRACE: "8"}, "deletionGracePeriodSeconds": 8,
                    "deletionTimestamp": at(1008).to_string()}}),
                1003,
                Err(NotSafe::NotWithdrawn { drain_deadline: at(1004) }),
            ),
            (
                "forced",
                json!({"metadata": {"deletionGracePeriodSeconds": 0, "deletionTimestamp": at(1000).to_string()}}),
                1000,
                Ok(()),
            ),
            ("finished", json!({"status": {"phase": "Failed"}}), 1001, Ok(())),
            ("never started", json!({"status": {"containerStatuses": null}}), 1001, Ok(())),
            ("not deleted", json!({"metadata": {"deletionTimestamp": null}}), 1001, Err(NotSafe::NotDeleted)),
        ];
        for (what, more, second, expected) in table {
            let pod = terminating(more);
            assert_eq!(safe_to_stop(&pod, StopCause::Deletion, at(second)), expected, "{what}");
            assert_eq!(safe_to_stop(&pod, StopCause::Down, at(second)), Ok(()), "{what}, but the engine goes down");
        }
    }

    #[test]
    fn a_scale_down_never_goes_below_the_floor() {
        let floor = |available| Floor { available, at_least: 3 };
        let table = [
            (Standing::Available, 4, Ok(())),
            (Standing::Available, 3, Err(NotSafe::BelowFloor(floor(3)))),
            (Standing::Available, 1, Err(NotSafe::BelowFloor(floor(1)))),
            (Standing::NotReady, 3, Ok(())),
            (Standing::NotRouted, 3, Ok(())),
            (Standing::Young { available_at: at(1) }, 2, Ok(())),
        ];
        for (standing, available, expected) in table {
            let cause = StopCause::ScaleDown { standing, floor: floor(available) };
            assert_eq!(safe_to_stop(&Pod::default(), cause, at(0)), expected, "{standing:?} {available}");
        }
    }

    #[test]
    fn the_reason_says_when_to_look_again() {
        let refusal = safe_to_stop(&terminating(json!({})), StopCause::Deletion, at(1001)).unwrap_err();
        assert_eq!(refusal.look_again_at(), Some(at(1030)));
        assert!(refusal.to_string().starts_with("it may still be given requests"));
    }
}
