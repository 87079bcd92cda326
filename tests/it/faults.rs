//! What ends without being asked, and what users see of it.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use end_to_end::document::Document;
use end_to_end::images::{APP, SHELL};
use end_to_end::machine::{LISTEN, Machine};
use end_to_end::processes::{self, Process};
use end_to_end::registry::MIRROR;
use end_to_end::run::{output_of, say};

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
