//! No request is lost: not while versions change, not while the engine is killed, not while pods come and go.

mod bad_versions;
mod counted;
mod engine_killed;
mod entries;
mod ingress;
mod inside;
mod kernel;
mod long_connections;
mod pod_killed;
mod policies;
mod replaced;
mod rolling;
mod scaling;
