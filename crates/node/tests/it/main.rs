//! The node against the real kernel. Every test that makes containers runs in namespaces of its own, as root; without
//! the privileges it fails.
#![expect(clippy::unwrap_used, reason = "in a test, what can't be unwrapped is the failure")]

mod containers;
mod pod;
