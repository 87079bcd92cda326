//! What a pod's specification says, on its own or in a template: its defaults and its mistakes.

mod containers;
mod defaults;
mod env;
mod probes;
mod resources;
mod security;
mod validate;
mod volumes;

pub(super) use defaults::{default, default_requests};
pub(super) use validate::{check_drain_deadlines, validate, warnings};
