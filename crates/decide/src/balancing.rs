//! Which endpoint gets this request? Never asks who the client is, and never learns what an endpoint serves.

use serde::{Deserialize, Serialize};

/// What the data plane may do with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndpointState {
    /// Gets no new work, ever again.
    Withdrawn,
    /// On a machine that does not answer: gets new work only when nothing else is left.
    Doubtful,
    /// Gets new work only while nothing is ready.
    Deprioritised,
    /// Ready on another machine: gets new work only while nothing is ready here.
    Elsewhere,
    /// Gets new work.
    Ready,
}

/// Picks the index of the endpoint that gets the next request or connection: of two chosen at random, the one with
/// less outstanding work, both of the best state that there is; withdrawn ones are never picked.
///
/// `outstanding` gives the work in flight at an index. None when there is nothing that may be picked.
#[must_use]
pub fn pick(states: &[EndpointState], outstanding: &dyn Fn(usize) -> u32, random: [u32; 2]) -> Option<usize> {
    let (tier, size) = best_tier(states)?;
    let first_rank = scaled(random[0], size);
    // The second choice is drawn from the others, so that two candidates are always compared with two.
    let second_rank = match size {
        1 => first_rank,
        more => (first_rank + 1 + scaled(random[1], more - 1)) % more,
    };
    let (first, second) = (nth(states, tier, first_rank)?, nth(states, tier, second_rank)?);
    if outstanding(second) < outstanding(first) { Some(second) } else { Some(first) }
}

/// Picks the index of the endpoint that a client always comes to while the endpoints stay the same: the one with the
/// highest weight of the best tier (rendezvous hashing). When endpoints change, only the clients of those that went,
/// and a share for those that came, go elsewhere; nothing has to be remembered for it.
///
/// `weight` gives the pseudo-random weight that an index has for this client.
#[must_use]
pub fn pick_for_client(states: &[EndpointState], weight: &dyn Fn(usize) -> u64) -> Option<usize> {
    best(states).max_by_key(|index| weight(*index))
}

/// The indexes of all that may be picked: those of the best state that there is.
pub fn best(states: &[EndpointState]) -> impl Iterator<Item = usize> {
    let tier = best_tier(states).map(|(tier, _)| tier);
    states.iter().enumerate().filter(move |(_, state)| Some(**state) == tier).map(|(index, _)| index)
}

fn best_tier(states: &[EndpointState]) -> Option<(EndpointState, usize)> {
    let tier = *states.iter().max().filter(|best| **best != EndpointState::Withdrawn)?;
    Some((tier, states.iter().filter(|state| **state == tier).count()))
}

/// Maps 32 random bits to `0..size` without a division.
fn scaled(random: u32, size: usize) -> usize {
    ((u64::from(random) * size as u64) >> 32) as usize
}

fn nth(states: &[EndpointState], tier: EndpointState, rank: usize) -> Option<usize> {
    states.iter().enumerate().filter(|(_, state)| **state == tier).nth(rank).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::EndpointState::{Deprioritised, Doubtful, Elsewhere, Ready, Withdrawn};
    use super::*;

    const LOW: u32 = 0;
    const HIGH: u32 = u32::MAX;

    fn check(states: &[EndpointState], outstanding: &[u32], random: [u32; 2], expected: Option<usize>) {
        let picked = pick(states, &|index| outstanding[index], random);
        assert_eq!(picked, expected, "{states:?} {outstanding:?} {random:?}");
    }

    #[test]
    fn ready_comes_before_deprioritised_and_withdrawn_never() {
        check(&[], &[], [LOW, LOW], None);
        check(&[Withdrawn], &[0], [LOW, LOW], None);
        check(&[Withdrawn, Withdrawn], &[0, 0], [HIGH, HIGH], None);
        check(&[Deprioritised], &[9], [HIGH, LOW], Some(0));
        check(&[Withdrawn, Deprioritised], &[0, 9], [LOW, LOW], Some(1));
        check(&[Deprioritised, Ready], &[0, 99], [LOW, LOW], Some(1));
        check(&[Ready, Deprioritised, Withdrawn], &[99, 0, 0], [HIGH, HIGH], Some(0));
    }

    #[test]
    fn other_machines_come_after_what_is_ready_here_and_silent_ones_last() {
        check(&[Elsewhere, Ready], &[0, 99], [LOW, LOW], Some(1));
        check(&[Deprioritised, Elsewhere], &[0, 99], [LOW, LOW], Some(1));
        check(&[Doubtful, Deprioritised], &[0, 99], [LOW, LOW], Some(1));
        check(&[Doubtful, Withdrawn], &[99, 0], [HIGH, HIGH], Some(0));
        check(&[Elsewhere, Doubtful, Elsewhere], &[9, 0, 1], [LOW, LOW], Some(2));
    }

    #[test]
    fn of_two_choices_the_one_with_less_outstanding_work_is_picked() {
        check(&[Ready, Ready], &[1, 0], [LOW, LOW], Some(1));
        check(&[Ready, Ready], &[0, 1], [HIGH, HIGH], Some(0));
        check(&[Ready, Ready, Ready], &[5, 4, 0], [LOW, LOW], Some(1));
        check(&[Ready, Ready, Ready], &[5, 9, 0], [LOW, HIGH], Some(2));
        check(&[Ready, Withdrawn, Ready], &[5, 0, 4], [LOW, LOW], Some(2));
    }

    #[test]
    fn equal_work_follows_the_first_random_number() {
        check(&[Ready, Ready], &[3, 3], [LOW, LOW], Some(0));
        check(&[Ready, Ready], &[3, 3], [HIGH, LOW], Some(1));
    }

    #[test]
    fn a_client_stays_with_its_endpoint_until_that_goes() {
        let weights = [5, 9, 7, 8];
        let pick = |states: &[EndpointState]| pick_for_client(states, &|index| weights[index]);
        assert_eq!(pick(&[Ready; 4]), Some(1));
        assert_eq!(pick(&[Withdrawn, Ready, Withdrawn, Ready]), Some(1), "others go");
        assert_eq!(pick(&[Ready, Withdrawn, Ready, Ready]), Some(3), "its own goes");
        assert_eq!(pick(&[Ready, Deprioritised, Ready, Withdrawn]), Some(2));
        assert_eq!(pick(&[Withdrawn, Deprioritised, Withdrawn, Deprioritised]), Some(1));
        assert_eq!(pick(&[Withdrawn; 4]), None);
    }

    #[test]
    fn every_ready_endpoint_is_picked_for_some_random_number() {
        let states = [Ready, Withdrawn, Ready, Deprioritised, Ready, Ready];
        let picked: std::collections::BTreeSet<usize> = (0..64)
            .flat_map(|step| (0..64).map(move |other| [step << 26, other << 26]))
            .filter_map(|random| pick(&states, &|_| 0, random))
            .collect();
        assert_eq!(picked.into_iter().collect::<Vec<_>>(), [0, 2, 4, 5]);
    }
}
