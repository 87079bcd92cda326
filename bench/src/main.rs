//! Figures, measured on a machine of its own: start, pods, rollouts, memory, idle CPU. No figure is judged here.

use std::io::{self, Write};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use end_to_end::document::Document;
use end_to_end::images::APP;
use end_to_end::machine::Machine;
use end_to_end::paths::built;
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;

const STARTS: usize = 5;
const PODS: usize = 20;
const ROLLOUTS: usize = 5;
/// Long enough that the clock tick of 10 ms is a thousandth of it.
const IDLE: Duration = Duration::from_secs(10);
const ROLES: [&str; 4] = ["up", "keeper", "proxy", "shim"];

fn main() -> ExitCode {
    let machine = Machine::without_engine();
    row("start → node Ready", &spread((0..STARTS).map(|_| start(&machine)).collect()));
    machine.up();
    row("pod created → running", &spread(pods(&machine)));
    let document = Document::deployed(&machine, "v1");
    let rollouts = (1..=ROLLOUTS).map(|number| rollout(&document, ["v1", "v2"][number % 2]));
    row("rolling update of 3 pods", &spread(rollouts.collect()));
    document.settled();
    memory_and_idle_cpu(&machine);
    machine.down();
    ExitCode::SUCCESS
}

fn start(machine: &Machine) -> Duration {
    let took = machine.up();
    machine.down();
    took
}

/// One after the other, each from the request to the event that says Running.
fn pods(machine: &Machine) -> Vec<Duration> {
    // The first one pulls the image.
    run_pods(machine, 1);
    run_pods(machine, PODS)
}

fn run_pods(machine: &Machine, count: usize) -> Vec<Duration> {
    let mut client = machine.namespace().in_network(built("client"));
    client.args(["pods", &count.to_string(), &format!("{APP}:v1")]).env("KUBECONFIG", machine.kubectl().kubeconfig());
    let said = output_of(&mut client);
    let micros = said.lines().map(|line| line.parse().expect("microseconds"));
    let took = micros.map(Duration::from_micros).collect();
    machine.kubectl().run("wait pods --all --for=delete --timeout=60s");
    took
}

fn rollout(document: &Document<'_>, version: &str) -> Duration {
    let started = Instant::now();
    document.set_image(version);
    document.rolled_out();
    started.elapsed()
}

fn memory_and_idle_cpu(machine: &Machine) {
    let found = ROLES.map(|role| processes::in_role(machine.namespace(), role));
    let before: Vec<_> = found.iter().map(|processes| cpu_seconds(processes)).collect();
    let started = Instant::now();
    output_of(Command::new("sleep").arg(IDLE.as_secs().to_string()));
    for ((role, processes), before) in ROLES.into_iter().zip(&found).zip(before) {
        let share = (cpu_seconds(processes) - before) / started.elapsed().as_secs_f64();
        let pss: u64 = processes.iter().map(Process::pss_kib).sum();
        let each = pss as f64 / 1024.0 / processes.len().max(1) as f64;
        row(
            &format!("{role} ({})", processes.len()),
            &format!("{each:.1} MiB PSS each, {:.2} % of a core idle in all", share * 100.0),
        );
    }
}

fn cpu_seconds(processes: &[Process]) -> f64 {
    processes.iter().map(Process::cpu_hundredths).sum::<u64>() as f64 / 100.0
}

fn spread(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |per_cent: usize| took[(took.len() * per_cent).div_ceil(100).max(1) - 1].as_secs_f64() * 1000.0;
    format!("p50 {:.0} ms, p99 {:.0} ms ({} times)", at(50), at(99), took.len())
}

fn row(name: &str, figures: &str) {
    writeln!(io::stdout().lock(), "{name:<28}{figures}").expect("somebody reads the figures");
}
