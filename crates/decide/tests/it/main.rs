//! Whole rollouts: decide, pretend it happened, decide again.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says so by panicking")]

mod properties;
mod stories;
