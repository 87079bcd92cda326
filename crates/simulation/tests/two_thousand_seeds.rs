//! Rollouts survive everything that can happen to them. A failing seed is replayed with
//! `SEED=n cargo test -p simulation`.

use std::thread;

use simulation::simulate;

const SEEDS: u64 = 2000;
const THREADS: u64 = 2;

#[test]
fn two_thousand_seeds() {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().expect("SEED is a number");
        return run(seed);
    }
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (0..SEEDS).filter(|seed| seed % THREADS == thread).for_each(run));
        }
    });
}

fn run(seed: u64) {
    if let Err(failure) = simulate(seed) {
        panic!("{failure}\nreplay it with SEED={seed}");
    }
}
