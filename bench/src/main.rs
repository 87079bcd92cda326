//! Figures, measured on a machine of its own: start, pods, rollouts, memory, idle CPU, the API. No figure is judged here;
//! beside each stands what it must be and what it aims at. `bench NAME` measures one part alone, `bench swarm` only what
//! stands beside Segue.

mod swarm;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use end_to_end::document::Document;
use end_to_end::images::APP;
use end_to_end::machine::Machine;
use end_to_end::paths::{built, project};
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;

const STARTS: usize = 10;
const APPLIES: usize = 10;
const PODS: usize = 100;
const ROLLOUTS: usize = 10;
const CROWD: usize = 100;
const FEW: usize = 10;
const SECONDS: &str = "5";
const SERVICES: &str = "1000";
const SWITCHES: &str = "100";
const SWITCHED: &str = "10.45.77.77";
/// Long enough that the clock tick of 10 ms is a three-thousandth of it.
const IDLE: Duration = Duration::from_secs(30);
const ROLES: [&str; 4] = ["up", "keeper", "proxy", "shim"];

type Part = (&'static str, fn(&Machine));

/// In this order, with an engine.
const PARTS: [Part; 6] = [
    ("pods", of_pods),
    ("rollouts", rollouts),
    ("idle", memory_and_idle_cpu),
    ("crowd", crowd),
    ("api", api),
    ("endpoints", endpoints),
];

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let is_wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let parts: Vec<_> = PARTS.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    let machine = Machine::without_engine();
    if is_wanted("starts") {
        starts(&machine);
    }
    if !parts.is_empty() {
        machine.up();
        parts.into_iter().for_each(|(_, measure)| measure(&machine));
        machine.down();
    }
    if is_wanted("binary") {
        binary();
    }
    if is_wanted("swarm") {
        swarm::compare();
    }
    ExitCode::SUCCESS
}

fn starts(machine: &Machine) {
    let took = (0..STARTS).map(|_| {
        let took = machine.up();
        output_of(&mut machine.segue("down --purge"));
        took
    });
    row("empty directory → node Ready", &spread(took.collect()), "1 s, 0.3 s");
}

/// One after the other, each from the request to the event that says Running.
fn of_pods(machine: &Machine) {
    // The first one pulls the image.
    client_pods(machine, 1);
    row("pod created → running", &spread(client_pods(machine, PODS)), "p99 0.5 s, 0.15 s");
}

fn client_pods(machine: &Machine, count: usize) -> Vec<Duration> {
    let took = durations(&client(machine, &["pods", &count.to_string(), &format!("{APP}:v1")]));
    machine.kubectl().run("wait pods --all --for=delete --timeout=60s");
    took
}

fn rollouts(machine: &Machine) {
    let kubectl = machine.kubectl();
    let document = Document::deployed(machine, "v1");
    let took = (1..=ROLLOUTS).map(|number| {
        let started = Instant::now();
        document.set_image(["v1", "v2"][number % 2]);
        document.rolled_out();
        started.elapsed()
    });
    row("rolling update of 3 pods", &spread(took.collect()), "2 s, 1 s");
    kubectl.run("delete namespace production");
    let took = (0..APPLIES).map(|_| {
        let started = Instant::now();
        deploy(machine, 3);
        let took = started.elapsed();
        delete(machine);
        took
    });
    row("apply → 3/3 ready", &spread(took.collect()), "1 s, 0.4 s");
}

fn deploy(machine: &Machine, replicas: usize) {
    machine.kubectl().apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: figures}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: figures}}}}\n  \
         template:\n    metadata: {{labels: {{app: figures}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      \
         - name: app\n        image: '{APP}:v1'\n        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
    ));
    machine.kubectl().run("rollout status deployment/figures --timeout=120s");
}

fn delete(machine: &Machine) {
    machine.kubectl().run("delete deployment figures");
    machine.kubectl().run("wait pods --selector=app=figures --for=delete --timeout=120s");
}

fn memory_and_idle_cpu(machine: &Machine) {
    deploy(machine, FEW);
    let found = ROLES.map(|role| processes::in_role(machine.namespace(), role));
    let before: Vec<_> = found.iter().map(|processes| cpu_seconds(processes)).collect();
    let started = Instant::now();
    output_of(Command::new("sleep").arg(IDLE.as_secs().to_string()));
    let (mut idle, mut memory) = (0.0, 0.0);
    for ((role, processes), before) in ROLES.into_iter().zip(&found).zip(before) {
        let share = (cpu_seconds(processes) - before) / started.elapsed().as_secs_f64() * 100.0;
        let pss = processes.iter().map(Process::pss_kib).sum::<u64>() as f64 / 1024.0;
        let each = pss / processes.len().max(1) as f64;
        idle += share;
        if role != "shim" {
            memory += pss;
        }
        let aims = if role == "shim" { "3 MB, 1 MB" } else { "" };
        row(&format!("  {role} ({})", processes.len()), &format!("{each:.1} MiB PSS each, {share:.2} % idle"), aims);
    }
    row("memory idle with 10 pods", &format!("{memory:.1} MiB PSS without shims"), "100 MB, 50 MB");
    row("CPU idle with 10 pods", &format!("{idle:.2} % of a core"), "2 %, 0.5 %");
    delete(machine);
}

fn cpu_seconds(processes: &[Process]) -> f64 {
    processes.iter().map(Process::cpu_hundredths).sum::<u64>() as f64 / 100.0
}

fn crowd(machine: &Machine) {
    let started = Instant::now();
    deploy(machine, CROWD);
    row("100 pods, all Ready", &format!("{:.1} s", started.elapsed().as_secs_f64()), "30 s, 10 s");
    delete(machine);
}

fn api(machine: &Machine) {
    let rate = |what: &str| format!("{}/s", client(machine, &[what, "32", SECONDS]).trim());
    row("API: gets, 32 clients", &rate("gets"), "3,000/s, 10,000/s");
    row("API: durable writes, 32 clients", &rate("writes"), "700/s, 2,000/s");
}

fn endpoints(machine: &Machine) {
    let kubectl = machine.kubectl();
    let pods = ["v1", "v2"].map(|version| {
        kubectl.run(&format!("run {version} --image={APP}:{version} --image-pull-policy=IfNotPresent"));
        kubectl.run(&format!("wait pod/{version} --for=condition=Ready --timeout=60s"));
        kubectl.json(&format!("get pod {version}"))["status"]["podIP"].as_str().expect("an address").to_owned()
    });
    client(machine, &["services", SERVICES]);
    let took = durations(&client(machine, &["switches", SWITCHES, SWITCHED, &pods[0], &pods[1]]));
    row("endpoint in force, 1,000 Services", &spread(took), "50 ms, 10 ms");
}

fn binary() {
    let size = |path: &Path| std::fs::metadata(path).map(|file| format!("{:.1} MB", file.len() as f64 / 1e6));
    row("binary, dynamic", &size(&built("segue")).expect("it was built"), "");
    let fixed = size(&project("target/static/segue")).unwrap_or_else(|_| "none: `make static` builds it".to_owned());
    row("binary, static", &fixed, "50 MB, 25 MB");
}

fn client(machine: &Machine, arguments: &[&str]) -> String {
    let mut client = machine.namespace().in_network(built("client"));
    output_of(client.args(arguments).env("KUBECONFIG", machine.kubectl().kubeconfig()))
}

fn durations(micros: &str) -> Vec<Duration> {
    micros.lines().map(|line| Duration::from_micros(line.parse().expect("microseconds"))).collect()
}

fn spread(mut took: Vec<Duration>) -> String {
    took.sort();
    let at = |per_cent: usize| took[(took.len() * per_cent).div_ceil(100).max(1) - 1].as_secs_f64() * 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms ({} times)", at(50), at(99), took.len())
}

fn row(name: &str, figures: &str, must_and_aim: &str) {
    writeln!(io::stdout().lock(), "{name:<34}{figures:<46}{must_and_aim}").expect("somebody reads the figures");
}
