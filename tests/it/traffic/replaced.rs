use std::fs;

use end_to_end::document::Document;
use end_to_end::machine::{Machine, NEVER_SHORT};
use end_to_end::outside::assert_nothing_lost;
use end_to_end::paths::built;
use end_to_end::run::output_of;

#[test]
fn replacing_the_proxy_and_the_whole_program_fails_no_request() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let mut load = document.load();
    for _ in 0..3 {
        load.answered(240);
        output_of(&mut machine.segue("proxy upgrade"));
    }
    load.answered(240);
    let before = document.standing();

    let newer = machine.directory().join("segue");
    fs::copy(built("segue"), &newer).expect("there is room for it");
    machine.kill_engine();
    let said = machine.try_up_of(&newer, &NEVER_SHORT);
    assert!(said.success, "the newer segue did not come up:\n{}{}", said.stdout, said.stderr);
    load.answered(240);
    assert_eq!(before, document.standing(), "no pod was replaced or restarted");
    document.roll_to("v2");
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1", "v2"]);
    machine.down();
}
