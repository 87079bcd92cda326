//! What happens to the traffic of a pod that is going away? Steps 1 to 3 of the Drain contract; signalling the pod
//! is not decided here.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::Decision;
use crate::balancing::EndpointState;

/// What is known of a terminating pod's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainSnapshot {
    /// When its deletion began.
    pub deleted_at: Timestamp,
    /// How long its requests may take, already capped by an explicit grace period.
    pub budget: SignedDuration,
    /// How long connections whose end nobody can predict may stay, capped likewise. Longer than `budget`, it holds
    /// the pod for them alone.
    pub long_budget: SignedDuration,
    /// Whether its readiness probe still passes. Old news costs retried connections, no more.
    pub serving: Serving,
    /// The most that a configuration, which the data plane may be using now, lets it do with the pod.
    pub reach: Reach,
    /// The furthest step that was asked for before, also by an earlier engine. Steps are never taken back.
    pub asked: Option<DrainStep>,
    /// Services that use the pod and for which nobody else was acknowledged as ready.
    pub without_another: Vec<String>,
    /// Services that other machines of the mesh may still choose this one for, of which the pod is the last here.
    pub expected_elsewhere: Vec<String>,
    /// Work in flight, counted after `reach` was acknowledged; None until that count arrives.
    pub in_flight: Option<InFlight>,
}

/// Whether a pod answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Ready,
    NotReady,
}

/// What the data plane may be doing with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This engine has no acknowledgement yet.
    Unknown,
    /// No configuration in use names the pod.
    Absent,
    /// The configurations in use name it with, at most, this state.
    Named(EndpointState),
}

/// Work that the data plane counts for one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Requests whose response is not wholly received.
    pub requests: u32,
    /// Connections whose end nobody can predict: opaque TCP, upgraded HTTP.
    pub long: u32,
}

/// What to do with a terminating pod's traffic, in the order of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainStep {
    /// Give it new work only while nothing is ready.
    Deprioritise,
    /// Give it no new work.
    Withdraw,
    /// Tell those who still have long connections to it that these end.
    EndLong,
    /// It may be signalled.
    Drained(DrainedReason),
}

/// Why a pod may be signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainedReason {
    /// No Service gives it work.
    NotRouted,
    /// Nothing is in flight.
    Idle,
    /// The drain deadline passed.
    DeadlinePassed,
}

/// Why a pod is not drained yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// The data plane has not said that the step is in force.
    Acknowledgement,
    /// This Service has no other acknowledged ready endpoint.
    ReadyEndpoint { service: String },
    /// Other machines of the mesh have not said that they send nothing for this Service any more.
    OtherMachines { service: String },
    /// Work is in flight.
    InFlight(InFlight),
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledgement => write!(out, "the data plane has not acknowledged the change yet"),
            Self::ReadyEndpoint { service } => write!(out, "Service {service} has no other ready endpoint yet"),
            Self::OtherMachines { service } => {
                write!(out, "other machines have not acknowledged yet that Service {service} has no pod here")
            }
            Self::InFlight(InFlight { requests, long }) => {
                write!(out, "{requests} requests and {long} long connections are in flight")
            }
        }
    }
}

/// How long the ends of long connections are spread, so that not all clients come back at once.
const SPREAD: SignedDuration = SignedDuration::from_secs(3);

/// The one step that is due for a terminating pod. A step that is in force already is given again: applying it twice
/// changes nothing.
#[must_use]
pub fn next(drain: &DrainSnapshot, now: Timestamp) -> Decision<DrainStep, WaitingOn> {
    if now >= last_deadline(drain) {
        return done(DrainedReason::DeadlinePassed);
    }
    match drain.reach {
        Reach::Unknown => unknown(drain, now),
        Reach::Absent => absent(drain, now),
        Reach::Named(EndpointState::Withdrawn) => withdrawn(drain, now),
        Reach::Named(
            EndpointState::Ready | EndpointState::Elsewhere | EndpointState::Deprioritised | EndpointState::Doubtful,
        ) => used(drain, now),
    }
}

/// When the pod is signalled whatever is in flight.
#[must_use]
pub fn last_deadline(drain: &DrainSnapshot) -> Timestamp {
    after(drain.deleted_at, drain.budget.max(drain.long_budget))
}

fn unknown(drain: &DrainSnapshot, now: Timestamp) -> Decision<DrainStep, WaitingOn> {
    let step = withdraw_or_deprioritise(drain, now);
    let until = if step == DrainStep::Deprioritise { half_of_the_budget(drain) } else { last_deadline(drain) };
    wait(step, vec![WaitingOn::Acknowledgement], until)
}

fn absent(drain: &DrainSnapshot, now: Timestamp) -> Decision<DrainStep, WaitingOn> {
    match drain.in_flight {
        Some(InFlight { requests: 0, long: 0 }) if drain.asked < Some(DrainStep::Withdraw) => {
            done(DrainedReason::NotRouted)
        }
        Some(_) | None => withdrawn(drain, now),
    }
}

/// Requests and long connections each hold the pod until a deadline of their own.
fn withdrawn(drain: &DrainSnapshot, now: Timestamp) -> Decision<DrainStep, WaitingOn> {
    let Some(in_flight) = drain.in_flight else {
        return wait(DrainStep::Withdraw, vec![WaitingOn::Acknowledgement], last_deadline(drain));
    };
    if in_flight == InFlight::default() {
        return done(DrainedReason::Idle);
    }
    let requests = (in_flight.requests > 0).then(|| after(drain.deleted_at, drain.budget));
    let long = (in_flight.long > 0).then(|| after(drain.deleted_at, drain.long_budget));
    let Some(deadline) = [requests, long].into_iter().flatten().filter(|deadline| now < *deadline).min() else {
        return done(DrainedReason::DeadlinePassed);
    };
    let last_call = last_call(drain);
    let is_over = in_flight.long > 0 && now >= last_call || drain.asked >= Some(DrainStep::EndLong);
    let step = if is_over { DrainStep::EndLong } else { DrainStep::Withdraw };
    let until = if in_flight.long > 0 && !is_over { deadline.min(last_call) } else { deadline };
    wait(step, vec![WaitingOn::InFlight(in_flight)], until)
}

/// When those who have long connections are told: before their deadline, so that the last of them hears it too.
fn last_call(drain: &DrainSnapshot) -> Timestamp {
    after(drain.deleted_at, drain.long_budget - SPREAD.min(drain.long_budget / 4))
}

fn used(drain: &DrainSnapshot, now: Timestamp) -> Decision<DrainStep, WaitingOn> {
    match withdraw_or_deprioritise(drain, now) {
        DrainStep::Deprioritise => {
            let alone = drain.without_another.iter().cloned().map(|service| WaitingOn::ReadyEndpoint { service });
            let expected = drain.expected_elsewhere.iter().cloned().map(|service| WaitingOn::OtherMachines { service });
            wait(DrainStep::Deprioritise, alone.chain(expected).collect(), half_of_the_budget(drain))
        }
        step @ (DrainStep::Withdraw | DrainStep::EndLong | DrainStep::Drained(_)) => {
            wait(step, vec![WaitingOn::Acknowledgement], last_deadline(drain))
        }
    }
}

fn withdraw_or_deprioritise(drain: &DrainSnapshot, now: Timestamp) -> DrainStep {
    let replaced =
        drain.without_another.is_empty() && drain.expected_elsewhere.is_empty() && drain.reach != Reach::Unknown;
    let useless = drain.serving == Serving::NotReady;
    if replaced || useless || drain.asked >= Some(DrainStep::Withdraw) || now >= half_of_the_budget(drain) {
        DrainStep::Withdraw
    } else {
        DrainStep::Deprioritise
    }
}

fn half_of_the_budget(drain: &DrainSnapshot) -> Timestamp {
    after(drain.deleted_at, drain.budget / 2)
}

/// `start + duration`, or the end of time when that can't be written.
fn after(start: Timestamp, duration: SignedDuration) -> Timestamp {
    start.checked_add(duration).unwrap_or(Timestamp::MAX)
}

fn done(reason: DrainedReason) -> Decision<DrainStep, WaitingOn> {
    Decision { steps: vec![DrainStep::Drained(reason)], waiting_on: Vec::new(), look_again_at: None }
}

fn wait(step: DrainStep, waiting_on: Vec<WaitingOn>, until: Timestamp) -> Decision<DrainStep, WaitingOn> {
    Decision { steps: vec![step], waiting_on, look_again_at: Some(until) }
}

#[cfg(test)]
mod tests {
    use super::DrainStep::{Deprioritise, Drained, EndLong, Withdraw};
    use super::DrainedReason::{DeadlinePassed, Idle, NotRouted};
    use super::*;

    const NOTHING: Option<InFlight> = Some(InFlight { requests: 0, long: 0 });
    const BUSY: Option<InFlight> = Some(InFlight { requests: 2, long: 0 });
    const LONG: Option<InFlight> = Some(InFlight { requests: 0, long: 1 });
    const READY: Reach = Reach::Named(EndpointState::Ready);
    const DEPRIORITISED: Reach = Reach::Named(EndpointState::Deprioritised);
    const WITHDRAWN: Reach = Reach::Named(EndpointState::Withdrawn);

    fn pod(reach: Reach, in_flight: Option<InFlight>) -> DrainSnapshot {
        DrainSnapshot {
            deleted_at: at(0),
            budget: SignedDuration::from_secs(30),
            long_budget: SignedDuration::from_secs(30),
            serving: Serving::Ready,
            reach,
            asked: None,
            without_another: Vec::new(),
            expected_elsewhere: Vec::new(),
            in_flight,
        }
    }

    fn alone(reach: Reach, in_flight: Option<InFlight>) -> DrainSnapshot {
        DrainSnapshot { without_another: vec!["production/demo-app".to_owned()], ..pod(reach, in_flight) }
    }

    fn asked(step: DrainStep, snapshot: DrainSnapshot) -> DrainSnapshot {
        DrainSnapshot { asked: Some(step), ..snapshot }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn check(snapshot: &DrainSnapshot, second: i64, step: DrainStep, look_again_at: Option<i64>) {
        let decision = next(snapshot, at(second));
        assert_eq!(decision.steps, [step], "at {second} s: {snapshot:?}");
        assert_eq!(decision.look_again_at, look_again_at.map(at), "at {second} s: {snapshot:?}");
        assert_eq!(decision.waiting_on.is_empty(), matches!(step, Drained(_)), "says what is awaited, or is done");
    }

    #[test]
    fn replaced_pods_are_withdrawn_at_once() {
        check(&pod(READY, None), 0, Withdraw, Some(30));
        check(&pod(DEPRIORITISED, BUSY), 1, Withdraw, Some(30));
    }

    #[test]
    fn the_only_ready_pod_is_deprioritised_until_half_the_budget_is_gone() {
        check(&alone(READY, None), 0, Deprioritise, Some(15));
        check(&alone(DEPRIORITISED, NOTHING), 14, Deprioritise, Some(15));
        check(&alone(DEPRIORITISED, NOTHING), 15, Withdraw, Some(30));
    }

    #[test]
    fn the_last_pod_of_a_machine_stays_until_other_machines_send_nothing_more() {
        let expected =
            |reach| DrainSnapshot { expected_elsewhere: vec!["production/demo-app".to_owned()], ..pod(reach, NOTHING) };
        check(&expected(READY), 0, Deprioritise, Some(15));
        check(&expected(DEPRIORITISED), 14, Deprioritise, Some(15));
        check(&expected(DEPRIORITISED), 15, Withdraw, Some(30));
        check(&asked(Withdraw, expected(WITHDRAWN)), 1, Drained(Idle), None);
        check(&DrainSnapshot { serving: Serving::NotReady, ..expected(READY) }, 0, Withdraw, Some(30));
    }

    #[test]
    fn a_pod_that_does_not_answer_is_withdrawn_even_when_it_is_the_only_one() {
        check(&DrainSnapshot { serving: Serving::NotReady, ..alone(READY, None) }, 0, Withdraw, Some(30));
    }

    #[test]
    fn withdrawal_is_never_taken_back() {
        check(&asked(Withdraw, alone(DEPRIORITISED, NOTHING)), 1, Withdraw, Some(30));
        check(&asked(Withdraw, alone(Reach::Unknown, None)), 1, Withdraw, Some(30));
    }

    #[test]
    fn a_withdrawn_pod_is_drained_when_nothing_is_in_flight() {
        check(&asked(Withdraw, pod(WITHDRAWN, None)), 1, Withdraw, Some(30));
        check(&asked(Withdraw, pod(WITHDRAWN, BUSY)), 1, Withdraw, Some(30));
        check(&asked(Withdraw, pod(WITHDRAWN, NOTHING)), 1, Drained(Idle), None);
    }

    fn long(seconds: i64, in_flight: Option<InFlight>) -> DrainSnapshot {
        let long_budget = SignedDuration::from_secs(seconds);
        DrainSnapshot { long_budget, ..asked(Withdraw, pod(WITHDRAWN, in_flight)) }
    }

    #[test]
    fn long_connections_stay_until_shortly_before_their_own_deadline() {
        check(&long(30, LONG), 1, Withdraw, Some(27));
        check(&long(30, LONG), 27, EndLong, Some(30));
        check(&long(30, LONG), 30, Drained(DeadlinePassed), None);
        check(&long(8, LONG), 1, Withdraw, Some(6));
        check(&long(8, LONG), 6, EndLong, Some(8));
        check(&long(8, LONG), 8, Drained(DeadlinePassed), None);
        check(&long(100, LONG), 31, Withdraw, Some(97));
        check(&long(100, LONG), 97, EndLong, Some(100));
        check(&long(0, LONG), 0, Drained(DeadlinePassed), None);
    }

    #[test]
    fn requests_and_long_connections_have_each_their_deadline() {
        const BOTH: Option<InFlight> = Some(InFlight { requests: 1, long: 1 });
        check(&long(8, BOTH), 1, Withdraw, Some(6));
        check(&long(8, BOTH), 8, EndLong, Some(30));
        check(&long(8, BUSY), 9, Withdraw, Some(30));
        check(&long(100, BOTH), 1, Withdraw, Some(30));
        check(&long(100, BOTH), 30, Withdraw, Some(97));
        check(&long(100, BUSY), 30, Drained(DeadlinePassed), None);
        check(&asked(EndLong, long(100, BOTH)), 1, EndLong, Some(30));
    }

    #[test]
    fn the_deadline_ends_every_drain() {
        for reach in [Reach::Unknown, Reach::Absent, READY, DEPRIORITISED, WITHDRAWN] {
            check(&alone(reach, BUSY), 30, Drained(DeadlinePassed), None);
        }
    }

    #[test]
    fn pods_without_work_are_drained_at_once() {
        check(&pod(Reach::Absent, NOTHING), 0, Drained(NotRouted), None);
        check(&asked(Withdraw, pod(Reach::Absent, NOTHING)), 0, Drained(Idle), None);
    }

    #[test]
    fn a_pod_that_left_every_configuration_still_finishes_its_requests() {
        check(&pod(Reach::Absent, BUSY), 0, Withdraw, Some(30));
        check(&pod(Reach::Absent, None), 0, Withdraw, Some(30));
    }

    #[test]
    fn nothing_is_drained_before_the_first_acknowledgement() {
        check(&pod(Reach::Unknown, None), 0, Deprioritise, Some(15));
        check(&pod(Reach::Unknown, NOTHING), 16, Withdraw, Some(30));
    }

    #[test]
    fn a_budget_of_nothing_is_over_at_once() {
        let nothing = SignedDuration::ZERO;
        let over = DrainSnapshot { budget: nothing, long_budget: nothing, ..pod(READY, BUSY) };
        check(&over, 0, Drained(DeadlinePassed), None);
    }
}
