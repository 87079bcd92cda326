//! `segue proxy`: carries every connection to a Service. It is given its sockets and its configuration, runs under
//! its own user, and knows neither the API nor the store.

mod access_log;
#[cfg(any(test, fuzzing))]
pub mod any_bytes;
mod attempts;
mod balancer;
mod bodies;
mod caller;
pub(crate) mod certificates;
mod clients;
mod connection;
mod control;
mod counts;
mod daemon;
mod detect;
mod exchange;
mod grpc;
mod headers;
mod http;
mod lent;
mod lingering;
mod metered;
mod metrics;
mod neighbour;
mod paced;
mod passage;
mod prefixed;
mod proxy_protocol;
mod request_body;
mod retry_budget;
mod sticky;
mod upstream;
mod websocket;
mod workers;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

use crate::channel::{AsyncChannel, Channel, ChannelError};
pub(crate) use balancer::Balancer;
use control::Control;
use workers::Workers;

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the proxy takes no arguments, and was given {argument:?}")]
    Argument { argument: OsString },
    #[error("the proxy is started by the keeper, with a socket as standard input")]
    NoKeeper {
        #[source]
        source: io::Error,
    },
    #[error("can't start the proxy's runtime")]
    Runtime {
        #[source]
        source: io::Error,
    },
    #[error("can't serve {name}")]
    Take {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("can't hand the sockets over")]
    HandOver {
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Runs the proxy until a keeper ends it. Its standard input is the keeper's channel.
///
/// # Errors
/// When it was not started by a keeper, or can't start.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), ProxyError> {
    if let Some(argument) = arguments.next() {
        return Err(ProxyError::Argument { argument });
    }
    let keeper = keeper_on_standard_input().map_err(|source| ProxyError::NoKeeper { source })?;
    let started = runtime().and_then(|runtime| Ok((runtime, Workers::start()?)));
    let (runtime, workers) = started.map_err(|source| ProxyError::Runtime { source })?;
    runtime.block_on(async {
        let keeper = AsyncChannel::new(keeper).map_err(|source| ProxyError::Runtime { source })?;
        Control::new(keeper, workers).run().await;
        Ok(())
    })
}

fn keeper_on_standard_input() -> io::Result<Channel> {
    let standard_input = io::stdin();
    rustix::net::sockopt::socket_type(&standard_input)?;
    Channel::new(standard_input.as_fd().try_clone_to_owned()?)
}

/// For what the keeper says; connections have threads of their own, so that a large configuration delays none of them.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
