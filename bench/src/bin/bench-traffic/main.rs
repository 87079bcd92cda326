//! Segue's proxy beside those that a user would take instead: the same backends, cores and clients, in one run.
//! Figures are printed as they are and as ratios, and drawn; none is judged here. All parts are measured, or those that
//! the arguments name: `proxies`, `kernel`, `services`, `changes`.

mod changes;
mod contestants;
mod figures;
mod kernel;
mod measure;
mod picture;

use std::io::{self, Write};
use std::process::ExitCode;

use contestants::{Backends, Contestant, ourselves, start_all};
use end_to_end::machine::Machine;
use end_to_end::run::output_of;
use figures::{Better, Figure};
use measure::{
    Connections, Saturated, grpc_per_second, http2_per_second, memory_mib, memory_with_idle_mib, p99_micros, saturate,
    wrk,
};

/// Each figure is the median of so many, taken in turns.
const ROUNDS: usize = 3;
/// Where two are compared that are nearly alike, each is taken at its best: whatever else goes on only slows them.
const ROUNDS_OF_TWO: usize = 11;

const PICTURE: &str = "target/bench-traffic.svg";

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let machine = Machine::with_engine();
    let backends = Backends::start(&machine);
    if is_wanted("proxies") {
        let contestants = start_all(&machine);
        let figures = compare(&machine, &contestants);
        std::fs::write(PICTURE, picture::picture(&figures)).expect("`make` builds into target");
        line(&format!("the comparison as a picture: {PICTURE}"));
    }
    if is_wanted("kernel") {
        through_the_kernel(&machine);
    }
    if is_wanted("services") {
        with_many_services(&machine);
    }
    drop(backends);
    // What was compared with ends with the machine, so only the engine goes down here.
    output_of(&mut machine.segue("down"));
    if is_wanted("changes") {
        endpoint_changes();
    }
    ExitCode::SUCCESS
}

fn compare(machine: &Machine, contestants: &[Contestant]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: &str, better, values| {
        let figure = Figure::new(name, better, contestants, values);
        line(&figure.row());
        figures.push(figure);
    };
    let idle = contestants.iter().map(|it| memory_mib(&it.processes)).collect();
    let (_, direct) = wrk(machine, Backends::address(), Connections::Kept, 64);
    line(&format!("direct, without a proxy: {direct:.0} requests/s over 64 kept connections"));
    let kept = rounds(contestants, |it| saturate(machine, it, Connections::Kept, 32));
    let new = rounds(contestants, |it| saturate(machine, it, Connections::NewForEachRequest, 32));
    let busy = rounds(contestants, |it| saturate(machine, it, Connections::Kept, 64));
    let cpu = |taken: &[Vec<Saturated>]| taken.iter().map(|of| median(of.iter().map(|it| it.cpu_micros))).collect();
    let rate = |taken: &[Vec<Saturated>]| -> Vec<f64> {
        taken.iter().map(|of| median(of.iter().map(|it| it.requests_per_second))).collect()
    };
    add("CPU µs per request, 32 kept connections", Better::Less, cpu(&kept));
    add("CPU µs per request, a new connection each", Better::Less, cpu(&new));
    let busy = rate(&busy);
    let slowest = busy.iter().copied().fold(f64::INFINITY, f64::min);
    add("requests/s, 64 kept connections", Better::More, busy);
    add("requests/s, a new connection each", Better::More, rate(&new));
    let load = (slowest * 0.7) as u32;
    let p99 = rounds(contestants, |it| f64::from(p99_micros(machine, it.address, load)));
    add(&format!("p99 µs at {load} requests/s"), Better::Less, medians(p99));
    let http2 = rounds(contestants, |it| http2_per_second(machine, it.http2));
    add("HTTP/2 requests/s, 8 connections × 16 streams", Better::More, medians(http2));
    let grpc = rounds(contestants, |it| grpc_per_second(machine, it.grpc));
    add("gRPC calls/s, 8 connections × 16 streams", Better::More, medians(grpc));
    add("memory idle, MiB", Better::Less, idle);
    let busy_memory = contestants.iter().map(|it| memory_with_idle_mib(machine, it)).collect();
    add("memory with 10,000 idle connections, MiB", Better::Less, busy_memory);
    figures
}

fn through_the_kernel(machine: &Machine) {
    for (name, kind) in [("kept", Connections::Kept), ("new", Connections::NewForEachRequest)] {
        let (ours, bare) = kernel::beside_a_bare_rule(machine, kind, ROUNDS_OF_TWO);
        line(&format!(
            "TCP through the kernel, {name} connections: {ours:.0} requests/s, a bare rule {bare:.0} ({:.2})",
            ours / bare
        ));
    }
}

/// Throughput through one Service, alone, then among 1,000, then alone again: a machine's speed changes by itself too.
fn with_many_services(machine: &Machine) {
    const MANY: usize = 999;
    let segue = ourselves(machine);
    let measure = || (0..ROUNDS_OF_TWO).map(|_| saturate(machine, &segue, Connections::Kept, 64));
    let many: Vec<String> = (1..=MANY).map(contestants::many).collect();
    let before: Vec<Saturated> = measure().collect();
    many.chunks(100).for_each(|some| drop(machine.kubectl().apply(&some.join("---\n"))));
    contestants::wait_until_it_answers(machine, contestants::address_of(machine, &format!("many-{MANY}")));
    let among: Vec<Saturated> = measure().collect();
    machine.kubectl().run("delete services,endpointslices -l bench=many --wait=false");
    let alone: Vec<Saturated> = before.into_iter().chain(measure()).collect();
    let [fast, faster] = [&among, &alone].map(|of| best(of.iter().map(|it| it.requests_per_second)));
    let [cost, costs] = [&among, &alone].map(|of| median(of.iter().map(|it| it.cpu_micros)));
    line(&format!(
        "requests/s with 1,000 Services against 2: {fast:.0} against {faster:.0} ({:.2}); \
         CPU µs per request {cost:.1} against {costs:.1} ({:.2})",
        fast / faster,
        cost / costs
    ));
}

fn endpoint_changes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (half, most) = runtime.block_on(changes::in_force_milliseconds());
    line(&format!(
        "change of an endpoint in force, 20 Services, 200 pods, 50 a second: p50 {half:.1} ms, p99 {most:.1} ms"
    ));
}

/// Measures each contestant several times, in turns.
fn rounds<T>(contestants: &[Contestant], measure: impl Fn(&Contestant) -> T) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (contestant, taken) in contestants.iter().zip(&mut all) {
            taken.push(measure(contestant));
        }
    }
    all
}

fn medians(all: Vec<Vec<f64>>) -> Vec<f64> {
    all.into_iter().map(median).collect()
}

fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn best(figures: impl IntoIterator<Item = f64>) -> f64 {
    figures.into_iter().fold(0.0, f64::max)
}

fn line(text: &str) {
    writeln!(io::stdout().lock(), "{text}").expect("somebody reads the figures");
}
