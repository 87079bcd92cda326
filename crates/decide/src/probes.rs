//! When is a container probed next, and what do the answers so far mean? Counting only: who asks and how it is asked
//! is the node's business.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Probe;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Failing it restarts the container.
    Liveness,
    /// Failing it takes the pod out of its Services.
    Readiness,
    /// Until it succeeds the others are not asked; failing it restarts the container.
    Startup,
}

/// What one probe answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// What the answers so far mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few answers for either.
    Unknown,
    Success,
    Failure,
}

/// The numbers of a probe, with Kubernetes' defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: SignedDuration,
    pub period: SignedDuration,
    pub timeout: SignedDuration,
    /// How many successes in a row count as a success.
    pub success_threshold: u32,
    /// How many failures in a row count as a failure.
    pub failure_threshold: u32,
}

/// The answers so far, as far as they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// What they mean.
    pub verdict: Verdict,
    last: Option<Outcome>,
    in_a_row: u32,
}

impl ProbeKind {
    /// As it begins the message of an `Unhealthy` event.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

impl Timing {
    /// Reads the numbers of a probe.
    #[must_use]
    pub fn of(probe: &Probe) -> Self {
        let seconds = |given: Option<i32>, default: i32, least: i32| {
            SignedDuration::from_secs(given.unwrap_or(default).max(least).into())
        };
        let threshold = |given: Option<i32>, default: u32| {
            given.and_then(|given| u32::try_from(given).ok()).filter(|given| *given > 0).unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
        }
    }

    /// How long to wait before the first answer is asked for, when the container has run for this long.
    #[must_use]
    pub fn first_wait(&self, running_for: SignedDuration) -> SignedDuration {
        // A start in the future is one that the wall clock has been set back from.
        (self.initial_delay - running_for.max(SignedDuration::ZERO)).max(SignedDuration::ZERO)
    }
}

/// How long to wait before a container is asked again at which nobody listens yet, when that happened so often. Less
/// than a period in all: then it counts. An app that is ready at once is so a moment after its start, not a period.
#[must_use]
pub fn knock_again_after(kind: ProbeKind, answers: Answers, refusals: u32) -> Option<SignedDuration> {
    const KNOCKS: u32 = 6;
    let starts = answers.last.is_none() && answers == Answers::none_yet(kind);
    let may_knock = match kind {
        ProbeKind::Startup | ProbeKind::Readiness => starts && refusals < KNOCKS,
        ProbeKind::Liveness => false,
    };
    may_knock.then(|| SignedDuration::from_millis(10 << refusals))
}

impl Answers {
    /// No answer yet: not ready, but alive.
    #[must_use]
    pub fn none_yet(kind: ProbeKind) -> Self {
        let verdict = match kind {
            ProbeKind::Liveness => Verdict::Success,
            ProbeKind::Readiness => Verdict::Failure,
            ProbeKind::Startup => Verdict::Unknown,
        };
        Self::starting_from(verdict)
    }

    /// No answer yet, but an earlier engine knew this much.
    #[must_use]
    pub fn starting_from(verdict: Verdict) -> Self {
        Self { verdict, last: None, in_a_row: 0 }
    }

    /// Adds an answer; the verdict changes only once the threshold is reached.
    #[must_use]
    pub fn and(self, outcome: Outcome, timing: &Timing) -> Self {
        let in_a_row = if self.last == Some(outcome) { self.in_a_row.saturating_add(1) } else { 1 };
        let (threshold, meant) = match outcome {
            Outcome::Success => (timing.success_threshold, Verdict::Success),
            Outcome::Failure => (timing.failure_threshold, Verdict::Failure),
        };
        let verdict = if in_a_row >= threshold { meant } else { self.verdict };
        Self { verdict, last: Some(outcome), in_a_row }
    }
}

/// Whether this probe is asked now, given what the startup probe (Success where there is none) has shown.
#[must_use]
pub fn is_asked(kind: ProbeKind, startup: Verdict) -> bool {
    match kind {
        ProbeKind::Startup => startup != Verdict::Success,
        ProbeKind::Liveness | ProbeKind::Readiness => startup == Verdict::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_starts_is_asked_again_soon_and_for_less_than_a_period() {
        let waits = |kind, answers| (0..).map_while(move |refusals| knock_again_after(kind, answers, refusals));
        for kind in [ProbeKind::Readiness, ProbeKind::Startup] {
            let new = Answers::none_yet(kind);
            let waits: Vec<_> = waits(kind, new).collect();
            assert_eq!(waits[..2], [SignedDuration::from_millis(10), SignedDuration::from_millis(20)]);
            let whole = waits.into_iter().fold(SignedDuration::ZERO, |sum, wait| sum + wait);
            assert!(whole < SignedDuration::from_secs(1), "{whole}");
            let asked = new.and(Outcome::Failure, &Timing::of(&Probe::default()));
            for known in [asked, Answers::starting_from(Verdict::Success)] {
                assert_eq!(knock_again_after(kind, known, 0), None, "{kind:?}");
            }
        }
        assert_eq!(waits(ProbeKind::Liveness, Answers::none_yet(ProbeKind::Liveness)).count(), 0);
    }

    fn timing(success_threshold: u32, failure_threshold: u32) -> Timing {
        Timing { success_threshold, failure_threshold, ..Timing::of(&Probe::default()) }
    }

    fn verdicts(kind: ProbeKind, timing: &Timing, answers: &str) -> String {
        let mut so_far = Answers::none_yet(kind);
        let mut shown = String::new();
        for answer in answers.chars() {
            so_far = so_far.and(if answer == '+' { Outcome::Success } else { Outcome::Failure }, timing);
            shown.push(match so_far.verdict {
                Verdict::Unknown => '?',
                Verdict::Success => '+',
                Verdict::Failure => '-',
            });
        }
        shown
    }

    #[test]
    fn verdict_changes_when_the_threshold_is_reached() {
        use ProbeKind::{Liveness, Readiness, Startup};
        let table = [
            (Readiness, timing(1, 3), "+---+", "+++-+"),
            (Readiness, timing(1, 3), "--+--+---", "--++++++-"),
            (Readiness, timing(2, 1), "+-++-", "---+-"),
            (Liveness, timing(1, 3), "--+---", "+++++-"),
            (Liveness, timing(1, 1), "-", "-"),
            (Startup, timing(1, 3), "--+", "??+"),
            (Startup, timing(1, 3), "---", "??-"),
        ];
        for (kind, timing, answers, expected) in table {
            assert_eq!(verdicts(kind, &timing, answers), expected, "{kind:?} {answers}");
        }
    }

    #[test]
    fn what_an_earlier_engine_knew_holds_until_answers_say_otherwise() {
        let timing = timing(1, 3);
        let known = Answers::starting_from(Verdict::Success);
        assert_eq!(known.and(Outcome::Failure, &timing).verdict, Verdict::Success);
    }

    #[test]
    fn numbers_left_out_are_those_of_kubernetes() {
        let timing = Timing::of(&Probe::default());
        assert_eq!(timing.initial_delay, SignedDuration::ZERO);
        assert_eq!(timing.period, SignedDuration::from_secs(10));
        assert_eq!(timing.timeout, SignedDuration::from_secs(1));
        assert_eq!((timing.success_threshold, timing.failure_threshold), (1, 3));
    }

    #[test]
    fn the_initial_delay_counts_from_the_start_of_the_container() {
        let probe = Probe { initial_delay_seconds: Some(15), ..Probe::default() };
        let timing = Timing::of(&probe);
        assert_eq!(timing.first_wait(SignedDuration::ZERO), SignedDuration::from_secs(15));
        assert_eq!(timing.first_wait(SignedDuration::from_secs(10)), SignedDuration::from_secs(5));
        assert_eq!(timing.first_wait(SignedDuration::from_secs(60)), SignedDuration::ZERO);
    }

    #[test]
    fn a_startup_probe_comes_before_the_others() {
        assert!(is_asked(ProbeKind::Startup, Verdict::Unknown));
        assert!(!is_asked(ProbeKind::Liveness, Verdict::Unknown));
        assert!(!is_asked(ProbeKind::Startup, Verdict::Success));
        assert!(is_asked(ProbeKind::Readiness, Verdict::Success));
    }
}
