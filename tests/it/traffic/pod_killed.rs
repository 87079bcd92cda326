use std::time::Duration;

use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::processes;
use end_to_end::run::say;
use tools::load::{Failure, Methods, Plan, Report, Way};

const KILLS: u8 = 3;
/// Something is in flight on every pod at any time.
const DELAY: Duration = Duration::from_millis(50);
/// Kills are further apart: a container has to start in between.
const AT_ONCE: Duration = Duration::from_secs(1);

#[test]
fn a_killed_pod_fails_no_get_but_those_whose_answer_had_begun() {
    let report = report_of_kills(|plan| Plan {
        methods: Methods::Get,
        ways: vec![Way::KeptAlive, Way::NewConnection, Way::Http2],
        ..plan
    });
    let begun = report.failed.get(&Failure::Short).copied().unwrap_or_default();
    assert_eq!(report.failures(), begun, "others failed too:\n{report}");
}

#[test]
fn a_killed_pod_fails_no_post_but_those_it_had_in_flight() {
    let mut workers = 0;
    let mut report = report_of_kills(|plan| {
        workers = plan.workers.get();
        Plan { methods: Methods::Post, ..plan }
    });
    // One worker has one request in flight.
    assert!((1..=u64::from(KILLS) * u64::from(workers)).contains(&report.failures()), "{report}");
    for sample in &report.samples {
        assert!(sample.failure == Failure::Short || sample.detail.contains("was not repeated"), "{sample:?}");
    }
    // Workers enter what failed at the same time in any order.
    report.samples.sort_by_key(|sample| sample.after);
    let moments = report.samples.chunk_by(|one, next| next.after - one.after < AT_ONCE).count();
    assert!(moments <= KILLS.into(), "failures at {moments} moments:\n{report}");
}

/// Kills the application of one pod after the other with SIGKILL.
fn report_of_kills(change: impl FnOnce(Plan) -> Plan) -> Report {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let plan = change(Plan { delay: DELAY, ..document.plan() });
    let mut load = machine.outside().send(&plan);
    load.answered(240);
    for kill in 1..=KILLS {
        processes::oldest(machine.namespace(), "/app").kill();
        document.restarted(kill.into());
        load.answered(240);
    }
    let report = load.stop();
    machine.down();
    say(&format!("{} of {} requests failed in {KILLS} kills: {:?}", report.failures(), report.sent, report.failed));
    report
}
