//! Clients of the public API, and what they need to show what happened to the traffic.
//! What is here can be done by a user's own tool: it sees the engine over HTTP only.

pub mod app;
pub mod datagrams;
pub mod demo;
pub mod load;
pub mod streams;

mod follow;
mod grpc;
mod rollout;
