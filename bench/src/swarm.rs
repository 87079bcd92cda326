//! The same of Docker in Swarm mode, on a machine of its own: an image of ours, from the same registry.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use end_to_end::images::APP;
use end_to_end::machine::Machine;
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;

use crate::{FEW, IDLE, cpu_seconds, row, spread};

const ROLLOUTS: usize = 3;
const PROGRAMS: [&str; 3] = ["dockerd", "containerd", "containerd-shim-runc-v2"];
/// Where its containers' cgroups are, so that they can be removed.
const CGROUP: &str = "/segue-bench-docker";

/// Docker on a machine, with which it ends.
struct Swarm<'machine> {
    machine: &'machine Machine,
    dockerd: Child,
}

/// Prints a figure each, if Docker is there.
pub(crate) fn compare() {
    if !Path::new("/usr/sbin/dockerd").exists() {
        row("Docker Swarm", "not measured: docker.io is not installed", "");
        return;
    }
    let machine = Machine::without_engine();
    let swarm = Swarm::on(&machine);
    let images = ["v1", "v2"].map(|version| APP.replace("registry.example.com", "127.0.0.1:5000") + ":" + version);
    for image in &images {
        swarm.docker(&["pull", image]);
    }
    row(
        "Swarm: service created → 3/3",
        &spread(vec![swarm.takes(&["service", "create", "--name", "app", "--replicas", "3", &images[0]])]),
        "",
    );
    let rollouts =
        (1..=ROLLOUTS).map(|number| swarm.takes(&["service", "update", "--image", &images[number % 2], "app"]));
    row("Swarm: rolling update of 3", &spread(rollouts.collect()), "");
    swarm.docker(&["service", "scale", &format!("app={FEW}")]);
    swarm.memory_and_idle_cpu();
}

impl<'machine> Swarm<'machine> {
    fn on(machine: &'machine Machine) -> Self {
        let directory = machine.directory().join("docker");
        std::fs::create_dir(&directory).expect("a directory of ours");
        // runc follows no link.
        let directory = directory.canonicalize().expect("a directory of ours");
        let log = File::create(directory.join("log")).expect("a directory of ours");
        let mut dockerd = machine.namespace().unlimited("dockerd");
        dockerd.arg("--data-root").arg(directory.join("data"));
        dockerd.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--cgroup-parent", CGROUP]);
        let dockerd = dockerd.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let swarm = Self { machine, dockerd: dockerd.spawn().expect("dockerd is there") };
        let asks = "until docker version; do sleep 0.1; done";
        output_of(machine.namespace().command("timeout").args(["60", "sh", "-c", asks]));
        swarm.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1"]);
        swarm
    }

    fn docker(&self, arguments: &[&str]) -> String {
        output_of(self.machine.namespace().command("docker").args(arguments))
    }

    fn takes(&self, arguments: &[&str]) -> Duration {
        let started = Instant::now();
        self.docker(arguments);
        started.elapsed()
    }

    fn memory_and_idle_cpu(&self) {
        let all = processes::of(self.machine.namespace());
        let is_of = |process: &&Process, program: &str| process.executable.file_name().is_some_and(|it| it == program);
        let found = PROGRAMS.map(|program| all.iter().filter(|it| is_of(it, program)).cloned().collect::<Vec<_>>());
        let before: f64 = found.iter().map(|processes| cpu_seconds(processes)).sum();
        let started = Instant::now();
        output_of(Command::new("sleep").arg(IDLE.as_secs().to_string()));
        let spent = found.iter().map(|processes| cpu_seconds(processes)).sum::<f64>() - before;
        let mib = |processes: &[Process]| processes.iter().map(Process::pss_kib).sum::<u64>() as f64 / 1024.0;
        let [dockerd, containerd, shims] = found.each_ref().map(|processes| mib(processes));
        let each = shims / found[2].len().max(1) as f64;
        let memory = dockerd + containerd;
        row("Swarm: memory idle with 10 tasks", &format!("{memory:.1} MiB PSS without shims; {each:.1} each"), "");
        let share = spent / started.elapsed().as_secs_f64() * 100.0;
        row("Swarm: CPU idle with 10 tasks", &format!("{share:.2} % of a core"), "");
    }
}

impl Drop for Swarm<'_> {
    fn drop(&mut self) {
        // What it started ends with the machine; only its cgroups would stay.
        let _ = self.machine.namespace().command("docker").args(["service", "rm", "app"]).output();
        let gone = "until [ -z \"$(docker ps --quiet)\" ]; do sleep 0.2; done; kill $(cat /run/docker.pid)";
        let _ = self.machine.namespace().command("timeout").args(["60", "sh", "-c", gone]).output();
        let _ = self.dockerd.wait();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(CGROUP.trim_start_matches('/')));
        }
    }
}
