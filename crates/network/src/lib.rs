//! Connections: proxy, balancing, draining, DNS, service rules. Knows nothing of containers, images or the store;
//! of the API it knows Services, EndpointSlices and Pods, in `routing` alone.

pub mod config;
pub mod frames;
pub mod keeper;
pub mod link;
pub mod mesh;
pub mod metrics;
pub mod preflight;
pub mod proxy;
pub mod routing;
pub mod rules;
pub mod tailnet;

mod channel;
mod dns;
mod events;
mod kernel;
mod watch;

/// What `make fuzz` gives bytes to.
#[cfg(any(test, fuzzing))]
pub mod fuzzing {
    pub use crate::dns::any_bytes::*;
    pub use crate::proxy::any_bytes::*;
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
