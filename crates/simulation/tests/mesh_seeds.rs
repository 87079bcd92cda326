//! Machines know how the others are, whatever becomes of what they say. A failing seed is replayed with
//! `SEED=n cargo test -p simulation`.

use simulation::simulate_mesh;

const SEEDS: u64 = 200;

#[test]
fn two_hundred_meshes() {
    match std::env::var("SEED") {
        Ok(seed) => run(seed.parse().expect("SEED is a number")),
        Err(_) => (0..SEEDS).for_each(run),
    }
}

fn run(seed: u64) {
    if let Err(failure) = simulate_mesh(seed) {
        panic!("{failure:?}\nreplay it with SEED={seed}");
    }
}
