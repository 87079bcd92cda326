//! The real thing: each test has a machine of its own. `make test` builds and fetches what they need.

mod access;
mod containers;
mod demo;
mod document;
mod faults;
mod harness;
mod images;
mod inside_pods;
mod installed;
mod kubectl;
mod lifecycle;
mod mesh;
mod pod_states;
mod preflight;
mod sharing;
mod tailnet;
mod tailnet_api;
mod traffic;
mod volumes;
