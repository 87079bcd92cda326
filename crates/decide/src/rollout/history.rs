//! Old ReplicaSets are kept for undoing, as many as revisionHistoryLimit says; the oldest beyond it are deleted.

use super::revision;
use super::situation::{Member, Mode, Situation};
use super::step::Step;
use crate::owners;
use crate::target::Target;

const DEFAULT_LIMIT: i32 = 10;

/// Deletes what nobody can need any more, and only when the rollout is done or paused.
pub(super) fn delete_beyond_limit(seen: &Situation<'_>) -> Vec<Step> {
    if !seen.is_complete() && seen.mode != Mode::Paused {
        return Vec::new();
    }
    let mut old: Vec<_> = seen.old_ones().filter(|old| !owners::is_going(&old.replica_set.metadata)).collect();
    old.sort_by_key(|old| revision::of(old));
    let limit = seen.spec.revision_history_limit.unwrap_or(DEFAULT_LIMIT).max(0);
    let beyond = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let deletable = old.into_iter().take(beyond).filter(|old| is_empty(old));
    deletable.map(|old| Step::DeleteReplicaSet { replica_set: Target::of(&old.replica_set.metadata) }).collect()
}

fn is_empty(old: &Member<'_>) -> bool {
    old.wanted() == 0 && old.active() == 0 && old.terminating == 0 && old.has_observed()
}
