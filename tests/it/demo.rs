//! The first command of the README.

use std::time::{Duration, Instant};

use end_to_end::machine::Machine;
use end_to_end::paths::built;
use end_to_end::run::run;

#[test]
fn the_demo_tells_its_story_in_two_minutes_and_leaves_nothing_behind() {
    let machine = Machine::without_engine();
    let started = Instant::now();
    let said = run(machine.namespace().command(built("segue")).arg("demo"), "");
    let took = started.elapsed();
    assert!(said.success, "segue demo failed:\n{}{}", said.stdout, said.stderr);
    let claims = said.stdout.matches("[yes]").count();
    assert!(claims >= 6 && !said.stdout.contains("[NO]"), "{}", said.stdout);
    assert!(took < Duration::from_secs(120), "{took:?}");
    machine.left_behind().assert_nothing();
}
