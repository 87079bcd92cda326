//! Engines of a mesh without anything else: each with a stand-in for Tailscale's daemon, all in this process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decide::mesh::{Port, Standing};
use end_to_end::mesh::{TAG, address, host};
use end_to_end::paths::built;
use end_to_end::tailnet::DOMAIN;
use network::config::Secret;
use network::mesh::{self, Here, Machines, Settings};
use network::tailnet::{LocalApi, Shared};
use serde_json::{Value, json};

use crate::{milliseconds, row};

const PORT: u16 = 745;
const CHANGES: u32 = 20;
const IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// One machine, as routing would see it.
struct Engine {
    machines: Shared<Arc<Machines>>,
    here: Shared<Here>,
    _daemon: Ends,
}

/// A process that ends with us.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
pub(crate) async fn measure(count: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let engines: Vec<Engine> = (0..count).map(|number| start(directory.path(), number, count)).collect();
    while !engines.iter().all(|engine| hears_all(engine, count)) {
        tokio::time::sleep(PAUSE).await;
    }
    let mut took: Vec<Duration> = Vec::new();
    for ready in 1..=CHANGES {
        let mut following: Vec<_> = engines[1..].iter().map(|engine| engine.machines.subscribe()).collect();
        let started = Instant::now();
        let ports = vec![Port { port: 80, ready }];
        engines[0].here.tell(Here { services: [("production/web".to_owned(), ports)].into(), ..Here::default() });
        for machines in &mut following {
            let knows = |machines: &Option<Arc<Machines>>| machines.as_ref().is_some_and(|it| knows(it, ready));
            machines.wait_for(knows).await.expect("the engine runs");
        }
        took.push(started.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    took.sort();
    let (p50, last) = (milliseconds(took[took.len() / 2]), milliseconds(took[took.len() - 1]));
    row(
        &format!("a change of readiness is known to {count}"),
        &format!("p50 {p50:.1}, highest {last:.1} ms"),
        "100 ms",
    );
    let before = cpu();
    tokio::time::sleep(IDLE).await;
    let share = (cpu() - before).as_secs_f64() / IDLE.as_secs_f64() / count as f64;
    row(&format!("heartbeats of {count}, a core's share each"), &format!("{:.2} %", share * 100.0), "0.5 %");
}

fn start(directory: &Path, number: usize, count: usize) -> Engine {
    let node = |number: usize| json!({"name": host(number), "addresses": [address(number)], "tags": [TAG]});
    let peers: Vec<Value> = (0..count).filter(|other| *other != number).map(node).collect();
    let tailnet = json!({"domain": DOMAIN, "node": node(number), "peers": peers});
    let socket = directory.join(format!("{number}.sock"));
    let mut daemon = Command::new(built("tailscaled"));
    daemon.arg(&socket).arg(directory.join(format!("{number}.state"))).arg(tailnet.to_string()).stdin(Stdio::piped());
    let daemon = Ends(daemon.spawn().expect("a program that was built"));
    let engine = Engine { machines: Shared::default(), here: Shared::default(), _daemon: daemon };
    let (running, handle) = mesh::new(Settings {
        daemon: LocalApi::at(&socket),
        tag: TAG.to_owned(),
        port: PORT,
        start: 1,
        version: String::new(),
        key: Secret("key".to_owned()),
        memory: directory.join(format!("{number}.json")),
        machines: engine.machines.clone(),
        here: engine.here.clone(),
    });
    drop(tokio::spawn(async move {
        running.await;
        drop(handle);
    }));
    engine
}

fn hears_all(engine: &Engine, count: usize) -> bool {
    let known = engine.machines.known().unwrap_or_default();
    known.known.len() == count - 1 && known.known.iter().all(|machine| machine.standing == Standing::Ready)
}

fn knows(machines: &Machines, ready: u32) -> bool {
    let first = format!("{}.{DOMAIN}", host(0));
    let said = machines.known.iter().find(|machine| machine.name == first).and_then(|machine| machine.said.as_ref());
    said.and_then(|said| said.services.get("production/web")?.first()).is_some_and(|port| port.ready == ready)
}

/// What this process has used, to the clock tick of 10 ms (`proc_pid_stat(5)`).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}
