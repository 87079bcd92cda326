use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Instant;

use end_to_end::document::{Document, Standing};
use end_to_end::machine::Machine;
use end_to_end::outside::{Load, assert_nothing_lost};
use end_to_end::paths::built;
use end_to_end::run::say;

const UPDATES: usize = 5;
const REQUESTS_PER_SECOND: u64 = 240;

#[test]
fn killing_the_engine_while_a_draining_app_rolls_loses_nothing() {
    survives_kills(["v1", "v2"]);
}

#[test]
fn killing_the_engine_while_an_app_that_exits_at_once_rolls_loses_nothing() {
    survives_kills(["v1-exit", "v2-exit"]);
}

fn survives_kills(versions: [&str; 2]) {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, versions[0]);
    let mut load = document.load();
    let writer = Writer::start(&machine);
    load.answered(REQUESTS_PER_SECOND);
    let undisturbed = Instant::now();
    document.roll_to(versions[1]);
    let longest = (undisturbed.elapsed().as_secs() + 1) * REQUESTS_PER_SECOND;
    for update in 0..UPDATES {
        document.set_image(versions[update % 2]);
        kill_and_restart(&machine, &document, &mut load, RandomState::new().hash_one(update) % longest);
        document.rolled_out();
        document.assert_declared(versions[update % 2], 3);
    }
    let written = writer.stop();
    assert_nothing_lost(&load.stop(), &versions);
    assert_all_there(&machine, &written);
    machine.down();
}

/// The random moment is counted in requests, so that a slow machine has as many different moments.
fn kill_and_restart(machine: &Machine, document: &Document<'_>, load: &mut Load, requests: u64) {
    say(&format!("killing the engine {requests} requests after the update began"));
    load.answered(requests);
    let before = document.standing();
    machine.kill_engine();
    load.answered(REQUESTS_PER_SECOND / 2);
    machine.up();
    assert_not_restarted(&before, &document.standing());
}

fn assert_not_restarted(before: &Standing, after: &Standing) {
    for (uid, was) in before.iter().filter(|(_, pod)| !pod.container.is_empty()) {
        let Some(is) = after.get(uid) else { continue };
        assert_eq!((&was.container, was.restarts), (&is.container, is.restarts), "{} was restarted", was.name);
    }
}

fn assert_all_there(machine: &Machine, written: &BTreeSet<u64>) {
    let listed = machine.kubectl().json("get configmaps -n default");
    let items = listed["items"].as_array().expect("a list");
    let number =
        |item: &serde_json::Value| item["data"]["number"].as_str().and_then(|number| number.parse::<u64>().ok());
    let named = |name: &str| items.iter().find(|item| item["metadata"]["name"] == name).and_then(number);
    let lost: Vec<_> = written.iter().filter(|write| named(&format!("write-{write}")) != Some(**write)).collect();
    assert!(lost.is_empty(), "of {} acknowledged writes these are lost: {lost:?}", written.len());
    assert!(named("last") >= written.last().copied(), "an acknowledged patch is lost: {:?}", named("last"));
    assert!(written.len() > UPDATES * 10, "the writer hardly wrote: {written:?}");
}

/// Writes all the time, and knows which of its writes were acknowledged.
struct Writer(Child);

impl Writer {
    fn start(machine: &Machine) -> Writer {
        let mut client = machine.namespace().in_network_unlimited(built("client"));
        client.arg("write").env("KUBECONFIG", machine.kubectl().kubeconfig());
        Writer(client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program that was built"))
    }

    fn stop(mut self) -> BTreeSet<u64> {
        drop(self.0.stdin.take());
        let said = BufReader::new(self.0.stdout.take().expect("it was piped"));
        let written = said.lines().map(|line| line.expect("a pipe can be read").parse().expect("a number")).collect();
        assert!(self.0.wait().expect("a child of ours").success(), "the writer failed");
        written
    }
}
