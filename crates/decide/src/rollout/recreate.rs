//! The Recreate strategy: every old pod has ended before a new one is made.

use super::situation::{Member, Situation};
use super::step::Step;
use super::{new_replica_set, rolling};

pub(super) fn scale_down_old(seen: &Situation<'_>) -> Vec<Step> {
    seen.old_ones().filter(|old| old.wanted() > 0).map(|old| Step::scale(seen, old, 0)).collect()
}

pub(super) fn create_new(seen: &Situation<'_>) -> Vec<Step> {
    if old_pods_may_run(seen) { Vec::new() } else { new_replica_set::create(seen) }
}

pub(super) fn scale_up_new(seen: &Situation<'_>) -> Vec<Step> {
    if old_pods_may_run(seen) { Vec::new() } else { rolling::scale_up_new(seen) }
}

fn old_pods_may_run(seen: &Situation<'_>) -> bool {
    seen.old_ones().any(|old| old.may_run || !old.has_observed() || Member::wanted(old) > 0)
}
