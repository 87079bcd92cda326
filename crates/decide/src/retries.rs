//! May a request that got no answer be sent again? A repeat must never do twice what was meant once, nor turn a
//! failing app into a storm.

use std::fmt;

/// Times that one request is sent again.
pub const MOST_REPEATS: u32 = 3;

/// What is known of a request that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    pub broke: Broke,
    pub repeating: Repeating,
    pub body: Body,
    /// How often it was sent again already.
    pub repeats: u32,
    pub budget: Budget,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broke {
    /// Nothing of it was processed: it was never written, or the pod said that it refused it.
    Unprocessed,
    /// It was sent, and the connection ended before the first byte of an answer.
    BeforeTheAnswer,
}

/// What doing it twice would mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeating {
    /// The same as doing it once: an idempotent method (RFC 9110, 9.2.2), or an `Idempotency-Key`.
    Harmless,
    Harmful,
}

/// Whether what was sent of its body can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Kept,
    Gone,
}

/// Whether the Service may have one more repeat for the requests it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    Left,
    Spent,
}

/// Why it is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRepeat {
    TooOften,
    BodyGone,
    Harmful,
    BudgetSpent,
}

/// Whether to send it to another pod.
///
/// # Errors
/// The reason not to.
pub fn may_be_repeated(request: &Unanswered) -> Result<(), NoRepeat> {
    if request.repeats >= MOST_REPEATS {
        return Err(NoRepeat::TooOften);
    }
    if request.body == Body::Gone {
        return Err(NoRepeat::BodyGone);
    }
    match request.broke {
        Broke::Unprocessed => Ok(()),
        Broke::BeforeTheAnswer if request.repeating == Repeating::Harmful => Err(NoRepeat::Harmful),
        Broke::BeforeTheAnswer if request.budget == Budget::Spent => Err(NoRepeat::BudgetSpent),
        Broke::BeforeTheAnswer => Ok(()),
    }
}

impl fmt::Display for NoRepeat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::TooOften => "it was sent several times",
            Self::BodyGone => "its body was too long to be kept for a second time",
            Self::Harmful => "doing it twice could do harm",
            Self::BudgetSpent => "too many requests are being repeated already",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_GET: Unanswered = Unanswered {
        broke: Broke::BeforeTheAnswer,
        repeating: Repeating::Harmless,
        body: Body::Kept,
        repeats: 0,
        budget: Budget::Left,
    };

    fn check(request: Unanswered, expected: Result<(), NoRepeat>) {
        assert_eq!(may_be_repeated(&request), expected, "{request:?}");
    }

    #[test]
    fn what_was_not_processed_is_repeated_whatever_it_is() {
        let refused =
            Unanswered { broke: Broke::Unprocessed, repeating: Repeating::Harmful, budget: Budget::Spent, ..LOST_GET };
        check(refused, Ok(()));
        check(Unanswered { repeats: MOST_REPEATS - 1, ..refused }, Ok(()));
        check(Unanswered { repeats: MOST_REPEATS, ..refused }, Err(NoRepeat::TooOften));
        check(Unanswered { body: Body::Gone, ..refused }, Err(NoRepeat::BodyGone));
    }

    #[test]
    fn what_may_have_been_processed_is_repeated_only_if_that_does_no_harm() {
        check(LOST_GET, Ok(()));
        check(Unanswered { repeating: Repeating::Harmful, ..LOST_GET }, Err(NoRepeat::Harmful));
        check(Unanswered { budget: Budget::Spent, ..LOST_GET }, Err(NoRepeat::BudgetSpent));
        check(Unanswered { body: Body::Gone, ..LOST_GET }, Err(NoRepeat::BodyGone));
        check(Unanswered { repeats: MOST_REPEATS, ..LOST_GET }, Err(NoRepeat::TooOften));
    }
}
