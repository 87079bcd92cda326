//! A naive model of the API, a machine and its data plane, on which the decisions of `decide` run in virtual time
//! while seeded events happen to them. Never shipped.

mod controllers;
mod machine;
mod mesh;
mod rng;
mod schedule;
mod simulation;
mod world;

pub use controllers::{Applied, Controllers};
pub use machine::{Behaviour, Delays, Machine};
pub use mesh::{MeshFailure, simulate_mesh};
pub use rng::Rng;
pub use simulation::{Failure, simulate};
pub use world::{Refused, World};
