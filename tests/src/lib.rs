//! What the end-to-end tests and the benchmarks stand on: a machine of its own for each, a registry, and clients.
//! It panics with a sentence when something is not as it must be; what a panic shows is what a test shows.

pub mod document;
pub mod images;
pub mod kubectl;
pub mod machine;
pub mod mesh;
pub mod namespace;
pub mod outside;
pub mod paths;
pub mod processes;
pub mod registry;
pub mod run;
pub mod systemd;
pub mod tailnet;
