use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;

const UPDATES: usize = 5;

#[test]
fn rolling_updates_of_an_app_that_drains_fail_no_request() {
    rolls_back_and_forth(["v1", "v2"]);
}

#[test]
fn rolling_updates_of_an_app_that_exits_at_once_fail_no_request() {
    rolls_back_and_forth(["v1-exit", "v2-exit"]);
}

fn rolls_back_and_forth(versions: [&str; 2]) {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, versions[0]);
    let mut load = document.load();
    load.answered(240);
    for update in 1..=UPDATES {
        document.roll_to(versions[update % 2]);
        load.answered(240);
    }
    assert_nothing_lost(&load.stop(), &versions);
    machine.down();
}
