//! What is measured of one contestant, by `wrk` and `h2load` and by what the kernel says of its processes.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use end_to_end::machine::Machine;
use end_to_end::processes::Process;
use end_to_end::run::output_of;

use super::contestants::{CLIENT_CORE, Contestant};

/// Whether a client keeps its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    Kept,
    NewForEachRequest,
}

/// One run of `wrk`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saturated {
    pub(crate) requests_per_second: f64,
    /// Time that the contestant's processes spent on a request.
    pub(crate) cpu_micros: f64,
}

/// Requests as fast as `connections` clients can send them.
pub(crate) fn saturate(machine: &Machine, contestant: &Contestant, kind: Connections, connections: u32) -> Saturated {
    let before = cpu_micros(&contestant.processes);
    let (requests, requests_per_second) = wrk(machine, contestant.address, kind, connections);
    let spent = cpu_micros(&contestant.processes) - before;
    Saturated { requests_per_second, cpu_micros: spent / requests }
}

const SECONDS: u32 = 4;

/// Requests answered in all, and a second.
pub(crate) fn wrk(machine: &Machine, address: SocketAddr, kind: Connections, connections: u32) -> (f64, f64) {
    let mut wrk = machine.namespace().command("taskset");
    wrk.args(["--cpu-list", CLIENT_CORE, "wrk", "--threads", "1", "--connections", &connections.to_string()]);
    wrk.args(["--duration", &format!("{SECONDS}s"), &format!("http://{address}/")]);
    if kind == Connections::NewForEachRequest {
        wrk.args(["--header", "Connection: close"]);
    }
    let said = output_of(&mut wrk);
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "requests failed:\n{said}");
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in ")).expect("wrk counts").0;
    let rate = said.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("wrk gives the rate");
    (requests.parse().expect("a number"), rate.trim().parse().expect("a number"))
}

/// The time within which 99 of 100 requests are answered at a fixed rate, in microseconds.
pub(crate) fn p99_micros(machine: &Machine, address: SocketAddr, requests_per_second: u32) -> u32 {
    const CLIENTS: u32 = 32;
    let log = machine.directory().join("requests.tsv");
    let _ = fs::remove_file(&log);
    let each = (requests_per_second / CLIENTS).max(1);
    let mut h2load = machine.namespace().command("taskset");
    h2load.args(["--cpu-list", CLIENT_CORE, "h2load", "--h1", "--threads", "1", "--clients", &CLIENTS.to_string()]);
    h2load.args(["--rps", &each.to_string(), "--requests", &(CLIENTS * each * SECONDS).to_string()]);
    h2load.arg("--log-file").arg(&log).arg(format!("http://{address}/"));
    output_of(&mut h2load);
    let lines = fs::read_to_string(&log).expect("h2load writes its log");
    let mut took: Vec<u32> = lines
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            assert_eq!(fields[1], "200", "a request failed: {line}");
            fields[2].parse().expect("microseconds")
        })
        .collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// HTTP/2 requests a second, over 8 connections with 16 streams each.
pub(crate) fn http2_per_second(machine: &Machine, address: SocketAddr) -> f64 {
    h2load(machine, &[&format!("http://{address}/")])
}

/// The same for unary calls of gRPC that send and get a message of 16 bytes.
pub(crate) fn grpc_per_second(machine: &Machine, address: SocketAddr) -> f64 {
    let message = machine.directory().join("message");
    fs::write(&message, b"\0\0\0\0\x10sixteen of bytes").expect("the machine's directory can be written");
    let headers = ["--header", "content-type: application/grpc", "--header", "te: trailers"];
    let call = ["--data", &message.to_string_lossy(), &format!("http://{address}/segue.App/Echo")];
    h2load(machine, &[&headers[..], &call[..]].concat())
}

fn h2load(machine: &Machine, arguments: &[&str]) -> f64 {
    let mut h2load = machine.namespace().command("taskset");
    h2load.args(["--cpu-list", CLIENT_CORE, "h2load", "--threads", "1", "--clients", "8"]);
    h2load.args(["--max-concurrent-streams", "16", "--duration", &SECONDS.to_string(), "--warm-up-time", "1"]);
    let said = output_of(h2load.args(arguments));
    assert!(said.contains(" 0 failed, 0 errored, 0 timeout"), "requests failed:\n{said}");
    assert!(said.contains(" 0 4xx, 0 5xx"), "requests failed:\n{said}");
    let line = said.lines().find_map(|line| line.strip_prefix("finished in ")).expect("h2load gives the rate");
    let rate = line.split(", ").nth(1).and_then(|rate| rate.strip_suffix(" req/s")).expect("a rate");
    rate.parse().expect("a number")
}

/// Memory of all processes, in MiB.
pub(crate) fn memory_mib(processes: &[Process]) -> f64 {
    processes.iter().map(Process::pss_kib).sum::<u64>() as f64 / 1024.0
}

/// Memory while 10,000 clients keep a connection on which they asked once.
#[expect(clippy::disallowed_methods, reason = "nothing tells when memory is at its highest")]
pub(crate) fn memory_with_idle_mib(machine: &Machine, contestant: &Contestant) -> f64 {
    const IDLE: u32 = 10_000;
    // wrk asks this before each request of each connection: the first ones come within two seconds, the others never.
    let script = machine.directory().join("idle.lua");
    let delay = format!(
        "asked = 0\nfunction delay()\n asked = asked + 1\n if asked <= {IDLE} then return asked % 2000 end\n return 600000\nend\n"
    );
    fs::write(&script, delay).expect("the machine's directory can be written");
    let mut wrk = machine.namespace().unlimited("taskset");
    wrk.args(["--cpu-list", CLIENT_CORE, "wrk", "--threads", "1", "--connections", &IDLE.to_string()]);
    wrk.args(["--duration", "8s", "--script"]).arg(&script).arg(format!("http://{}/", contestant.address));
    let mut clients = wrk.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("wrk was installed");
    let most = std::iter::from_fn(|| {
        thread::sleep(Duration::from_millis(250));
        let runs = clients.try_wait().expect("a child of ours").is_none();
        runs.then(|| memory_mib(&contestant.processes))
    });
    most.fold(0.0, f64::max)
}

fn cpu_micros(processes: &[Process]) -> f64 {
    processes.iter().map(Process::cpu_hundredths).sum::<u64>() as f64 * 10_000.0
}
