//! Three machines, a thousand requests a second entering on each: what is planned, and what is not.

use std::num::NonZeroU32;
use std::time::Instant;

use end_to_end::document::Document;
use end_to_end::machine::Machine;
use end_to_end::mesh::{Router, daemons, deployed, up};
use end_to_end::outside::Load;
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;
use tools::load::{Plan, Report};

use crate::{line, row};

const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

pub(crate) fn machines() {
    let machines = [Machine::without_engine(), Machine::without_engine(), Machine::without_engine()];
    let router = Router::between(&machines);
    let daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    let load = |number: usize| -> Load {
        let plan = Plan { requests_per_second: REQUESTS_PER_SECOND, ..documents[number].plan() };
        let mut load = machines[number].outside().send(&plan);
        load.answered(1000);
        load
    };
    let mut loads: Vec<Load> = (0..3).map(load).collect();
    let started = Instant::now();
    for document in &documents {
        document.roll_to("v2");
    }
    documents.iter().for_each(|document| document.set_image("v1"));
    documents.iter().for_each(Document::rolled_out);
    loads.iter_mut().for_each(|load| load.answered(1000));
    let last = loads.pop().expect("three").stop();
    output_of(&mut machines[2].segue("drain"));
    loads.iter_mut().for_each(|load| load.answered(3000));
    let took = started.elapsed();
    up(&machines[2], &daemons[2]);
    documents[2].rolled_out();
    let reports: Vec<Report> = loads.into_iter().map(Load::stop).chain([last]).collect();
    let [sent, failed] = [reports.iter().map(|it| it.sent).sum::<u64>(), reports.iter().map(Report::failures).sum()];
    row("3 machines: 6 rollouts, a drain: failed", &format!("{failed} of {sent} in {:.0} s", took.as_secs_f64()), "0");
    reports.iter().for_each(|report| line(&report.to_string()));

    documents[0].without_pods();
    unplanned("a link is cut", &load, || router.cut(0, 1));
    router.mend();
    documents[1].rolled_out();
    unplanned("a machine's processes are killed", &load, || {
        for role in ["up", "keeper", "proxy", "shim"] {
            processes::in_role(machines[1].namespace(), role).iter().for_each(Process::kill);
        }
    });
    machines[0].down();
    machines[2].down();
}

/// Everything enters where no pod is.
fn unplanned(what: &str, load: &impl Fn(usize) -> Load, happen: impl FnOnce()) {
    let mut load = load(0);
    happen();
    load.answered(5000);
    let report = load.stop();
    row(&format!("{what}: failed"), &format!("{} of {}", report.failures(), report.sent), "what was in flight");
    line(&report.to_string());
}
