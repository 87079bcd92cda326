//! Kubernetes objects, and our own, as data: parse, default, validate, select, patch.
//! Knows nothing of the store, the network or the clock.

pub mod names;

pub mod kind;
pub mod kinds;

pub mod body;
pub mod metadata;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selector;
pub mod size;
pub mod status;
pub mod validation;

pub mod discovery;
pub mod openapi;

pub mod counts;
pub mod hash;
pub mod pods;
pub mod quantity;
pub mod ranges;
pub mod traffic;

mod json;
mod table;
