use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;
use std::time::Instant;

use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;
use end_to_end::run::say;
use tools::load::{Plan, Way};

#[test]
fn rolling_updates_of_an_app_that_drains_fail_no_request() {
    rolls_back_and_forth(["v1", "v2"]);
}

#[test]
fn rolling_updates_of_an_app_that_exits_at_once_fail_no_request() {
    rolls_back_and_forth(["v1-exit", "v2-exit"]);
}

fn rolls_back_and_forth(versions: [&str; 2]) {
    let amounts = Amounts::wanted();
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, versions[0]);
    let mut load = machine.outside().send(&amounts.plan(document.plan()));
    load.answered(240);
    for update in 1..=amounts.updates {
        let started = Instant::now();
        document.roll_to(versions[update % 2]);
        let took = started.elapsed().as_secs_f64();
        load.answered(amounts.requests_per_update);
        say(&format!("update {update} of {} took {took:.1} s; {} requests so far", amounts.updates, load.count()));
    }
    let report = load.stop();
    say(&report.to_string());
    assert_nothing_lost(&report, &versions);
    assert_eq!(report.unprocessed, 0, "nobody said goodbye, and some had to ask again:\n{report}");
    assert_eq!(report.by_way.len(), Way::ALL.len(), "{report}");
    machine.down();
}

/// How much of it: a tenth of a soak's updates at the usual rate, but where the environment says otherwise.
struct Amounts {
    updates: usize,
    /// At least, during an update and until the next.
    requests_per_update: u64,
    requests_per_second: Option<NonZeroU32>,
    workers: Option<NonZeroU16>,
}

impl Amounts {
    fn wanted() -> Amounts {
        Amounts {
            updates: set("SOAK_UPDATES").unwrap_or(10),
            requests_per_update: set("SOAK_REQUESTS_PER_UPDATE").unwrap_or(240),
            requests_per_second: set("SOAK_REQUESTS_PER_SECOND"),
            workers: set("SOAK_WORKERS"),
        }
    }

    fn plan(&self, usual: Plan) -> Plan {
        Plan {
            requests_per_second: self.requests_per_second.unwrap_or(usual.requests_per_second),
            workers: self.workers.unwrap_or(usual.workers),
            ..usual
        }
    }
}

fn set<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}
