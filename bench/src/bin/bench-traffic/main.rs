//! Segue's proxy beside those that a user would take instead: the same backends, cores and clients, in one run.
//! Figures are printed as they are and as ratios; none is judged here.

mod changes;
mod contestants;
mod kernel;
mod measure;

use std::io::{self, Write};
use std::process::ExitCode;

use contestants::{Backends, Contestant, service, start_all};
use end_to_end::machine::Machine;
use end_to_end::run::output_of;
use measure::{Connections, Saturated, http2_per_second, memory_mib, memory_with_idle_mib, p99_micros, saturate, wrk};

/// Each figure is the median of so many, taken in turns.
const ROUNDS: usize = 3;

fn main() -> ExitCode {
    let machine = Machine::with_engine();
    let backends = Backends::start(&machine);
    let contestants = start_all(&machine);
    line(&format!("memory idle, MiB: {}", each(&contestants, |it| format!("{:.1}", memory_mib(&it.processes)))));
    let (_, direct) = wrk(&machine, Backends::address(), Connections::Kept, 64);
    line(&format!("direct, without a proxy: {direct:.0} requests/s over 64 kept connections"));
    let kept = rounds(&machine, &contestants, Connections::Kept, 32);
    let new = rounds(&machine, &contestants, Connections::NewForEachRequest, 32);
    let busy = rounds(&machine, &contestants, Connections::Kept, 64);
    let slowest = busy.iter().map(|it| it.requests_per_second).fold(f64::INFINITY, f64::min);
    let rate = (slowest * 0.7) as u32;
    let p99: Vec<f64> = contestants
        .iter()
        .map(|it| f64::from(median((0..ROUNDS).map(|_| p99_micros(&machine, it.address, rate)).collect())))
        .collect();
    let http2: Vec<f64> = contestants.iter().map(|it| http2_per_second(&machine, it.http2)).collect();
    table(
        "CPU µs per request, 32 kept connections",
        &contestants,
        &kept.iter().map(|it| it.cpu_micros).collect::<Vec<_>>(),
    );
    table(
        "CPU µs per request, a new connection each",
        &contestants,
        &new.iter().map(|it| it.cpu_micros).collect::<Vec<_>>(),
    );
    table(
        "requests/s, 64 kept connections",
        &contestants,
        &busy.iter().map(|it| it.requests_per_second).collect::<Vec<_>>(),
    );
    table(
        "requests/s, a new connection each",
        &contestants,
        &new.iter().map(|it| it.requests_per_second).collect::<Vec<_>>(),
    );
    table(&format!("p99 µs at {rate} requests/s"), &contestants, &p99);
    table("HTTP/2 requests/s, 8 connections × 16 streams", &contestants, &http2);
    let idle: Vec<f64> = contestants.iter().map(|it| memory_with_idle_mib(&machine, it)).collect();
    table("memory with 10,000 idle connections, MiB", &contestants, &idle);
    through_the_kernel(&machine);
    with_many_services(&machine, &contestants[0]);
    drop(contestants);
    drop(backends);
    // What was compared with ends with the machine, so only the engine goes down here.
    output_of(&mut machine.segue("down"));
    endpoint_changes();
    ExitCode::SUCCESS
}

fn through_the_kernel(machine: &Machine) {
    for (name, kind) in [("kept", Connections::Kept), ("new", Connections::NewForEachRequest)] {
        let (ours, bare) = kernel::beside_a_bare_rule(machine, kind, ROUNDS);
        line(&format!(
            "TCP through the kernel, {name} connections: {ours:.0} requests/s, a bare rule {bare:.0} ({:.2})",
            ours / bare
        ));
    }
}

/// Throughput through one Service, alone and among 1,000.
fn with_many_services(machine: &Machine, segue: &Contestant) {
    const MANY: usize = 999;
    let rates = || (0..ROUNDS).map(|_| saturate(machine, segue, Connections::Kept, 64).requests_per_second).collect();
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let alone = median(rates());
    let many: Vec<String> = (2..2 + MANY).map(|number| service("many", number)).collect();
    many.chunks(100).for_each(|some| drop(machine.kubectl().apply(&some.join("---\n"))));
    let among = median(rates());
    line(&format!("requests/s with 1,000 Services against 2: {among:.0} against {alone:.0} ({:.2})", among / alone));
}

fn endpoint_changes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (half, most) = runtime.block_on(changes::in_force_milliseconds());
    line(&format!(
        "change of an endpoint in force, 20 Services, 200 pods, 50 a second: p50 {half:.1} ms, p99 {most:.1} ms"
    ));
}

fn rounds(machine: &Machine, contestants: &[Contestant], kind: Connections, connections: u32) -> Vec<Saturated> {
    let mut all: Vec<Vec<Saturated>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (contestant, taken) in contestants.iter().zip(&mut all) {
            taken.push(saturate(machine, contestant, kind, connections));
        }
    }
    let middle = |taken: &Vec<Saturated>, of: fn(&Saturated) -> f64| {
        let mut figures: Vec<f64> = taken.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    all.iter()
        .map(|taken| Saturated {
            requests_per_second: middle(taken, |it| it.requests_per_second),
            cpu_micros: middle(taken, |it| it.cpu_micros),
        })
        .collect()
}

fn median(mut figures: Vec<u32>) -> u32 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn each(contestants: &[Contestant], figure: impl Fn(&Contestant) -> String) -> String {
    contestants.iter().map(|it| format!("{} {}", it.name, figure(it))).collect::<Vec<_>>().join(", ")
}

/// One row: each contestant's figure, and Segue's as a ratio of it.
fn table(name: &str, contestants: &[Contestant], figures: &[f64]) {
    let ours = figures[0];
    let cells = contestants
        .iter()
        .zip(figures)
        .map(|(contestant, figure)| format!("{:>8} {figure:>9.1} ({:.2})", contestant.name, ours / figure));
    line(&format!("{name:<44}{}", cells.collect::<Vec<_>>().join("  ")));
}

fn line(text: &str) {
    writeln!(io::stdout().lock(), "{text}").expect("somebody reads the figures");
}
