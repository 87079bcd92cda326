//! The API server, its store, and the controllers' loops.

pub mod apiserver;
pub mod audit;
pub mod controllers;
mod events;
mod in_flight;
pub mod pki;
pub mod serve;
pub mod store;
pub mod tokens;
