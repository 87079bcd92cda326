//! The data plane as real processes: what a client sees while pods, proxies, keepers and engines are replaced.

#![expect(clippy::unwrap_used, reason = "a test that can't be set up fails")]

mod api;
mod app;
mod changing;
mod counts;
mod dns;
mod draining;
mod http;
mod http2;
mod ingress;
mod limits;
mod load;
mod long;
mod mesh;
mod opaque;
mod plane;
mod policies;
mod replacement;
mod retries;
mod routing;
mod rules;
mod sticky;
mod tunnels;
