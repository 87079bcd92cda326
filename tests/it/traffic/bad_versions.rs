use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;

#[test]
fn a_version_that_crashes_takes_no_request_and_replaces_nobody() {
    replaces_nobody("crashes");
}

#[test]
fn a_version_that_is_never_ready_takes_no_request_and_replaces_nobody() {
    replaces_nobody("never-ready");
}

#[test]
fn a_version_that_cannot_be_pulled_takes_no_request_and_replaces_nobody() {
    replaces_nobody("no-such-tag");
}

fn replaces_nobody(bad: &str) {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    let mut load = document.load();
    load.answered(240);

    document.set_image(bad);
    let said = document.rollout_failure();
    assert!(said.contains("exceeded its progress deadline"), "rollout status said: {said}");
    let during = document.standing();
    for (uid, pod) in &before {
        assert_eq!(during.get(uid), Some(pod), "the bad version touched {}", pod.name);
    }
    assert_eq!(during.len(), 4, "maxSurge allows one more: {during:#?}");

    document.undo();
    assert_eq!(document.standing(), before, "undo restores, and replaces no good pod");
    load.answered(240);
    assert_nothing_lost(&load.stop(), &["v1"]);
    machine.down();
}
