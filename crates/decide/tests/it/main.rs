//! Whole rollouts: decide, pretend it happened, decide again.

mod properties;
mod stories;
