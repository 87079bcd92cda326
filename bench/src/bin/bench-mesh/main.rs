//! What machines cost that cover for each other: a hop from one to another, news among many, what is exposed on the tailnet.
//! Figures are printed beside what they aim at; none is judged here. `bench-mesh PART` measures one: `hop`, `three`, `news`,
//! `exposed`.

mod engines;
mod three;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use end_to_end::document::NAME as SERVICE;
use end_to_end::machine::{LISTEN, Machine, SERVICE_CIDR};
use end_to_end::mesh::{Router, TAG, daemons, deployed, seen};
use end_to_end::namespace::Namespace;
use end_to_end::processes;
use end_to_end::run::output_of;
use end_to_end::tailnet::{ADDRESS, DOMAIN, Daemon};
use serde_json::{Value, json};

/// Machines that hear of a change, and machines whose heartbeats are measured.
const NEWS: usize = 20;
const BEATS: usize = 50;
const EXPOSED: usize = 100;
const ROUNDS: usize = 3;
const SECONDS: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &arguments[..] {
        // In a network of its own, where the others' addresses are.
        ["engines", count] => engines::measure(count.parse().expect("a number")),
        named => {
            let is_wanted = |part: &str| named.is_empty() || named.contains(&part);
            if is_wanted("hop") {
                hop();
            }
            if is_wanted("three") {
                three::machines();
            }
            if is_wanted("news") {
                [NEWS, BEATS].into_iter().for_each(among);
            }
            if is_wanted("exposed") {
                exposed();
            }
        }
    }
    ExitCode::SUCCESS
}

/// The same request to a pod of the machine, and to one of another machine over it.
fn hop() {
    let machines = [Machine::without_engine(), Machine::without_engine()];
    let _router = Router::between(&machines);
    let daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    let here = Asked::median((0..ROUNDS).map(|_| asked(&machines)).collect());
    documents[0].without_pods();
    let there = Asked::median((0..ROUNDS).map(|_| asked(&machines)).collect());
    let round_trip = seen(&machines[0])["machines"][0]["round_trip"].clone();
    let more = there.p50 - here.p50;
    row("one request at a time, p50: here", &format!("{:.2} ms", here.p50), "");
    row("the same over another machine", &format!("{:.2} ms, {more:.2} more", there.p50), "0.5 ms more");
    row("requests/s, 64 connections: here", &format!("{:.0}", here.rate), "");
    row(
        "the same over another machine",
        &format!("{:.0}, {:.2} of it", there.rate, there.rate / here.rate),
        "0.8 of it",
    );
    row("of which the proxy takes, each: here", &format!("{:.1} us", here.cpu[0]), "");
    row("the two proxies over another machine", &format!("{:.1} and {:.1} us", there.cpu[0], there.cpu[1]), "");
    row("round trip between engines", &round_trip.to_string(), "");
    machines.iter().for_each(Machine::down);
}

/// What a Service does for its clients.
struct Asked {
    /// Latency of one client, in ms.
    p50: f64,
    /// Requests a second of 64.
    rate: f64,
    /// What each machine's proxy uses for one of them, in microseconds.
    cpu: [f64; 2],
}

impl Asked {
    fn median(all: Vec<Self>) -> Self {
        let median = |which: &dyn Fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(which).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let cpu = [0, 1].map(|machine| median(&|it| it.cpu[machine]));
        Self { p50: median(&|it| it.p50), rate: median(&|it| it.rate), cpu }
    }
}

/// Asks the first machine.
fn asked(machines: &[Machine; 2]) -> Asked {
    let machine = &machines[0];
    let cpu = || {
        machines.each_ref().map(|machine| {
            let proxies = processes::in_role(machine.namespace(), "proxy");
            proxies.iter().map(processes::Process::cpu_hundredths).sum::<u64>() as f64 * 1e4
        })
    };
    let url = format!("http://{}/", machine.service_address(SERVICE));
    let wrk = |connections: &str| {
        let mut wrk = machine.namespace().command("wrk");
        let options =
            ["--threads", "1", "--connections", connections, "--duration", &format!("{SECONDS}s"), "--latency"];
        output_of(wrk.args(options).arg(&url))
    };
    let one = wrk("1");
    let half = one.lines().find_map(|line| line.trim().strip_prefix("50%")).expect("wrk gives the median").trim();
    let (number, unit) = half.split_at(half.find(|letter: char| letter.is_alphabetic()).expect("a unit"));
    let scale = if unit == "us" { 1e-3 } else { 1.0 };
    let before = cpu();
    let many = wrk("64");
    let after = cpu();
    let rate = many.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("wrk gives the rate");
    let rate: f64 = rate.trim().parse().expect("a number");
    let answered = rate * SECONDS as f64;
    let cpu = [0, 1].map(|machine| (after[machine] - before[machine]) / answered);
    Asked { p50: number.parse::<f64>().expect("a number") * scale, rate, cpu }
}

/// Engines alone, so many of them, in a network of their own.
fn among(count: usize) {
    let network = Namespace::network();
    let program = std::env::current_exe().expect("a program knows itself");
    let said = output_of(network.in_network(program).args(["engines", &count.to_string()]));
    said.lines().for_each(line);
}

/// Somebody empties the serve configuration of a machine with many exposed Services.
fn exposed() {
    let machine = Machine::without_engine();
    let names: Vec<String> = (1..=EXPOSED).map(|number| format!("s{number}")).collect();
    let approved: serde_json::Map<_, _> = names
        .iter()
        .zip(1..)
        .map(|(name, number): (_, u8)| (format!("svc:{name}"), json!([format!("100.100.0.{number}")])))
        .collect();
    let tailnet = json!({
        "domain": DOMAIN, "has_certificates": true, "approved": approved,
        "node": {"name": "box", "addresses": [ADDRESS], "tags": [TAG]},
    });
    let daemon = Daemon::start_in(&machine, tailnet);
    let mut command = machine.segue("up");
    command.args(["--detach", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR]);
    output_of(command.arg("--tailscale-socket").arg(daemon.socket()));
    let manifests: String = names
        .iter()
        .map(|name| {
            let annotations = json!({"tailscale.com/expose": "true", "tailscale.com/hostname": name});
            let metadata = json!({"name": name, "annotations": annotations});
            let spec = json!({"selector": {"app": "none"}, "ports": [{"port": 80}]});
            format!("{}\n---\n", json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
        })
        .collect();
    machine.kubectl().apply(&manifests);
    let is_there = |config: &Value| config["Services"].as_object().is_some_and(|services| services.len() == EXPOSED);
    daemon.wait_for("all Services", is_there);
    let writes =
        || daemon.told().iter().filter(|asked| asked["path"].as_str().is_some_and(|it| it.contains("serve"))).count();
    let before = writes();
    let started = Instant::now();
    daemon.serve(|config| *config = json!({}));
    daemon.wait_for("all Services again", is_there);
    let took = started.elapsed();
    // One of them is ours here.
    let written = writes() - before - 1;
    row(
        &format!("{EXPOSED} exposed Services, set again"),
        &format!("{} ms, {written} write", took.as_millis()),
        "1 s, 1 write",
    );
    machine.down();
}

fn row(name: &str, figure: &str, aims: &str) {
    line(&format!("{name:44} {figure:28} {aims}"));
}

fn line(text: &str) {
    // A reader that went away does not stop the work.
    let _ = writeln!(io::stdout(), "{text}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
