//! What ends without being asked, and what users see of it.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use end_to_end::document::{Document, Standing};
use end_to_end::images::{APP, SHELL};
use end_to_end::machine::{LISTEN, Machine};
use end_to_end::processes::{self, Process};
use end_to_end::registry::MIRROR;
use end_to_end::run::{Said, output_of, say};

/// Numbers that follow from a seed: what failed once can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        // The multiplier and increment of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit") % count
    }
}

fn wanted<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// `FAULTS_KILLS` and `FAULTS_SEED` choose how many and which.
#[test]
fn whatever_is_killed_in_the_middle_of_updates_nothing_acknowledged_is_lost() {
    let kills: usize = wanted("FAULTS_KILLS").unwrap_or(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let seed: u64 = wanted("FAULTS_SEED").unwrap_or(now.as_secs());
    say(&format!("FAULTS_SEED={seed}"));
    let mut dice = Dice(seed);
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let versions = ["v1", "v2"];
    for kill in 1..=kills {
        machine.kubectl().run(&format!("create configmap before-kill-{kill} --from-literal=kill={kill}"));
        document.set_image(versions[kill % 2]);
        let role = ["up", "keeper", "proxy", "shim"][dice.below(4)];
        let victims = processes::in_role(machine.namespace(), role);
        // While it is replaced there may be none.
        let victim = victims.get(dice.below(victims.len().max(1)));
        say(&format!("kill {kill} of {kills}: {role} {:?}", victim.map(|victim| victim.pid)));
        victim.into_iter().for_each(Process::kill);
        if processes::in_role(machine.namespace(), "up").is_empty() {
            machine.up();
        }
        document.rolled_out();
        let mut load = document.load();
        load.answered(240);
        let report = load.stop();
        assert_eq!(report.failures(), 0, "after {role} was killed and replaced:\n{report}");
    }
    document.assert_declared(versions[kills % 2], 3);
    for kill in 1..=kills {
        let kept = machine.kubectl().json(&format!("get configmap before-kill-{kill}"));
        assert_eq!(kept["data"]["kill"], kill.to_string());
    }
    machine.down();
}

#[test]
fn a_pod_that_forks_wildly_harms_nobody_else() {
    let machine = Machine::without_engine();
    let mut up = machine.segue("up");
    output_of(up.args(["--detach", "--listen", LISTEN, "--mirror", MIRROR, "--pod-pids-limit", "64"]));
    let kubectl = machine.kubectl();
    let forks = "for i in $(seq 200); do sleep 1000 & done; wait";
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bomb}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{{name: bomb, image: {SHELL}, args: [-c, '{forks}']}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: calm}}\nspec: {{containers: [{{name: app, image: '{APP}:v1', readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}]}}\n"
    ));
    kubectl.run("wait pod/calm --for=condition=Ready --timeout=60s");
    // A shell that can't fork gives up, and is started again.
    kubectl.wait_for("pod/bomb", ".status.containerStatuses[0].restartCount", "1");
    let said = kubectl.run("logs bomb --previous");
    assert!(said.contains("can't fork"), "{said}");
    kubectl.run("delete pod bomb calm");
    machine.down();
}

/// A pod that runs a command in a shell, with an empty directory at `/scratch`.
fn apply_greedy(machine: &Machine, medium: &str, command: &str) {
    machine.kubectl().apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: greedy}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: shell\n    image: {SHELL}\n    args: [-c, '{command}; sleep 600']\n    volumeMounts: [{{name: scratch, mountPath: /scratch}}]\n  \
         volumes: [{{name: scratch, emptyDir: {{medium: {medium:?}}}}}]\n"
    ));
}

fn up_evicting(machine: &Machine, threshold: &str) -> Said {
    let said = machine.try_up(&["--eviction-hard", threshold]);
    assert!(said.success, "segue up failed:\n{}{}", said.stdout, said.stderr);
    said
}

/// The greedy pod goes, the document's pods stay, and the node lets nobody else in for a while.
fn assert_relieved(machine: &Machine, document: &Document<'_>, before: &Standing, resource: &str, condition: &str) {
    let kubectl = machine.kubectl();
    // Where processors are emulated, memory fills slowly.
    let wait = "wait pod/greedy --for=jsonpath={.status.reason}=Evicted --timeout=60s";
    assert!((0..5).any(|_| kubectl.attempt(wait).success), "{}", kubectl.run("get pods -A"));
    let message = kubectl.json("get pod greedy")["status"]["message"].to_string();
    assert!(message.contains(&format!("The node was low on resource: {resource}. Threshold quantity: ")), "{message}");
    assert!(message.contains("Container shell was using "), "{message}");
    kubectl.run(&format!("wait nodes --all --for=condition={condition} --timeout=60s"));
    let taints = kubectl.json("get nodes")["items"][0]["spec"]["taints"].to_string();
    assert!(taints.contains("-pressure"), "{taints}");
    assert_eq!(*before, document.standing(), "no other pod was replaced or restarted");
}

#[test]
fn a_machine_that_is_short_from_the_start_says_so_and_starts_nothing() {
    let machine = Machine::without_engine();
    let said = up_evicting(&machine, "memory.available<1,nodefs.available<100%");
    assert!(said.stdout.contains("short of disk space (DiskPressure)"), "{}", said.stdout);
    let kubectl = machine.kubectl();
    kubectl.run(&format!("run waits --image={APP}:v1"));
    kubectl.run("wait pod/waits --for=condition=PodScheduled=False --timeout=60s");
    let why = kubectl.run("get pod waits -o jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}");
    assert!(why.contains("disk-pressure"), "{why}");
    machine.down();
}

#[test]
fn a_machine_short_of_memory_parts_with_the_pod_that_takes_more_than_it_asked_for() {
    let machine = Machine::without_engine();
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("the kernel says it");
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available: u64 = available.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).expect("a number");
    // What else runs on the machine may come and go meanwhile.
    let (spare_mib, taken_mib) = (1024, 1536);
    up_evicting(&machine, &format!("memory.available<{}Mi,nodefs.available<1", available / 1024 - spare_mib));
    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    let mut load = document.load();
    apply_greedy(&machine, "Memory", &format!("dd if=/dev/zero of=/scratch/file bs=1M count={taken_mib}"));
    assert_relieved(&machine, &document, &before, "memory", "MemoryPressure");
    load.answered(240);
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    machine.down();
}

#[test]
fn a_machine_short_of_disk_parts_with_the_pod_that_takes_more_than_it_asked_for_and_with_its_data() {
    let machine = Machine::without_engine();
    machine.mount_data("600m");
    up_evicting(&machine, "nodefs.available<300Mi");
    machine.fetch_kubeconfig();
    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    apply_greedy(&machine, "", "for file in /file /scratch/file; do dd if=/dev/zero of=$file bs=1M count=175; done");
    assert_relieved(&machine, &document, &before, "ephemeral-storage", "DiskPressure");
    machine.kubectl().wait_for("pod/greedy", ".status.phase", "Failed");
    let freed = "until [ $(df --output=used --block-size=1M $0 | tail -n 1) -lt 200 ]; do sleep 0.1; done";
    output_of(machine.namespace().command("timeout").args(["20", "sh", "-c", freed]).arg(machine.data_dir()));
    machine.down_and_unmount();
}
