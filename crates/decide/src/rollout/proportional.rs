//! A Deployment that is scaled in the middle of a rollout, or while it is paused: every ReplicaSet gets its share.

use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS};
use super::situation::{Member, Mode, Situation};
use super::step::Step;
use crate::owners;

/// Scales when the Deployment's size is not the one its ReplicaSets were made for.
pub(super) fn scale_if_resized(seen: &Situation<'_>) -> Vec<Step> {
    let resized =
        |member: &&Member<'_>| recorded(member, DESIRED_REPLICAS).is_some_and(|it| it != seen.limits.replicas);
    if active(seen).iter().any(resized) { scale(seen) } else { Vec::new() }
}

/// Gives every ReplicaSet with pods its share of the Deployment's size; one alone, all of it.
pub(super) fn scale(seen: &Situation<'_>) -> Vec<Step> {
    let active = active(seen);
    let alone = match active.as_slice() {
        [] => latest(seen),
        [only] => Some(*only),
        _ => None,
    };
    match alone {
        Some(alone) => resize(seen, alone, seen.limits.replicas.min(seen.largest_size(alone))).into_iter().collect(),
        None if is_saturated(seen) => seen.old_ones().filter_map(|old| resize(seen, old, 0)).collect(),
        None if seen.mode == Mode::Recreate => Vec::new(),
        None => share(seen, active),
    }
}

fn active<'s, 'a>(seen: &'s Situation<'a>) -> Vec<&'s Member<'a>> {
    seen.members.iter().filter(|member| member.wanted() > 0).collect()
}

fn latest<'s, 'a>(seen: &'s Situation<'a>) -> Option<&'s Member<'a>> {
    seen.new_one().or_else(|| seen.members.last())
}

/// Whether the new ReplicaSet serves the whole size already.
fn is_saturated(seen: &Situation<'_>) -> bool {
    let replicas = seen.limits.replicas;
    seen.new_one().is_some_and(|new| {
        new.wanted() == replicas && new.available() == replicas && recorded(new, DESIRED_REPLICAS) == Some(replicas)
    })
}

/// Largest first, and of equals the newest when growing, the oldest when shrinking; what rounding leaves over goes to
/// the first.
fn share(seen: &Situation<'_>, mut active: Vec<&Member<'_>>) -> Vec<Step> {
    let allowed = if seen.limits.replicas > 0 { seen.limits.ceiling() } else { 0 };
    let wanted: i32 = active.iter().map(|member| member.wanted()).sum();
    let change = (allowed - wanted).min(seen.room());
    if change > 0 {
        active.reverse();
    }
    active.sort_by_key(|member| std::cmp::Reverse(member.wanted()));
    let mut left = change;
    let mut sizes = Vec::new();
    for member in &active {
        let part = proportion(seen, member);
        let part = if change > 0 { part.clamp(0, left) } else { part.clamp(left, 0) };
        left -= part;
        sizes.push(member.wanted() + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    active
        .into_iter()
        .zip(sizes)
        .filter_map(|(member, size)| resize(seen, member, size.min(seen.largest_size(member))))
        .collect()
}

/// How many pods more or fewer keep the ReplicaSet's share of the whole, rounded to the nearest.
fn proportion(seen: &Situation<'_>, member: &Member<'_>) -> i32 {
    if seen.limits.replicas == 0 {
        return -member.wanted();
    }
    let status = seen.deployment.status.as_ref();
    let before = recorded(member, MAX_REPLICAS).or_else(|| status.and_then(|status| status.replicas));
    let before = i64::from(before.unwrap_or(0).max(1));
    let size = (2 * i64::from(member.wanted()) * i64::from(seen.limits.ceiling()) + before) / (2 * before);
    i32::try_from(size).unwrap_or(i32::MAX) - member.wanted()
}

/// None when both its size and what it records of the Deployment's are right.
fn resize(seen: &Situation<'_>, member: &Member<'_>, size: i32) -> Option<Step> {
    let is_recorded = recorded(member, DESIRED_REPLICAS) == Some(seen.limits.replicas)
        && recorded(member, MAX_REPLICAS) == Some(seen.limits.ceiling());
    (size != member.wanted() || !is_recorded).then(|| Step::scale(seen, member, size))
}

fn recorded(member: &Member<'_>, annotation: &str) -> Option<i32> {
    owners::annotation(&member.replica_set.metadata, annotation)?.parse().ok()
}
