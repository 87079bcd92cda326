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
use end_to_end::run::output_of;
use end_to_end::tailnet::{ADDRESS, DOMAIN, Daemon};
use serde_json::{Value, json};

/// Machines that hear of a change, and machines whose heartbeats are measured.
const NEWS: usize = 20;
const BEATS: usize = 50;
const EXPOSED: usize = 100;
const ROUNDS: usize = 3;
const SECONDS: &str = "3s";

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
    let local: Vec<_> = (0..ROUNDS).map(|_| asked(&machines[0])).collect();
    documents[0].without_pods();
    let remote: Vec<_> = (0..ROUNDS).map(|_| asked(&machines[0])).collect();
    let round_trip = seen(&machines[0])["machines"][0]["round_trip"].clone();
    let median = |of: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = of.iter().map(which).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let [here, there] = [&local, &remote].map(|of| (median(of, |it| it.0), median(of, |it| it.1)));
    row("one request at a time, p50: here", &format!("{:.2} ms", here.0), "");
    row("the same over another machine", &format!("{:.2} ms, {:.2} more", there.0, there.0 - here.0), "0.5 ms more");
    row("requests/s, 64 connections: here", &format!("{:.0}", here.1), "");
    row("the same over another machine", &format!("{:.0}, {:.2} of it", there.1, there.1 / here.1), "0.8 of it");
    row("round trip between engines", &round_trip.to_string(), "");
    machines.iter().for_each(Machine::down);
}

/// The median latency of one client in ms, and the rate of 64.
fn asked(machine: &Machine) -> (f64, f64) {
    let url = format!("http://{}/", machine.service_address(SERVICE));
    let wrk = |connections: &str| {
        let mut wrk = machine.namespace().command("wrk");
        let options = ["--threads", "1", "--connections", connections, "--duration", SECONDS, "--latency"];
        output_of(wrk.args(options).arg(&url))
    };
    let one = wrk("1");
    let half = one.lines().find_map(|line| line.trim().strip_prefix("50%")).expect("wrk gives the median").trim();
    let (number, unit) = half.split_at(half.find(|letter: char| letter.is_alphabetic()).expect("a unit"));
    let scale = if unit == "us" { 1e-3 } else { 1.0 };
    let many = wrk("64");
    let rate = many.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("wrk gives the rate");
    (number.parse::<f64>().expect("a number") * scale, rate.trim().parse().expect("a number"))
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
