use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use end_to_end::document::{Document, NAME as SERVICE};
use end_to_end::images::SHELL;
use end_to_end::machine::Machine;
use end_to_end::mesh::{
    Router, TAG, address, all_know_each_other, daemons, deployed, name, ready, standing, up, wait_for,
};
use end_to_end::outside::{self, Load};
use end_to_end::processes;
use end_to_end::run::{output_of, run, say};
use end_to_end::tailnet::ADDRESSES;
use serde_json::{Value, json};
use tools::load::{Methods, Plan, Report};

use crate::tailnet::LISTENER;

/// Longer than anything but a hang takes.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Uploads a second.
const UPLOADS: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
/// How long a packet takes from one machine to another where the network is slow.
const WAY: Duration = Duration::from_millis(20);
/// How long a link that flaps is down, and then up.
const FLAP: Duration = Duration::from_millis(300);
/// Each of the load's workers has one request in flight.
const MOST_IN_FLIGHT: u64 = 16;

fn machines<const COUNT: usize>() -> [Machine; COUNT] {
    std::array::from_fn(|_| Machine::without_engine())
}

/// Between the engines, as one of them has measured it.
fn round_trip(machine: &Value) -> Duration {
    serde_json::from_value(machine["round_trip"].clone()).unwrap_or_default()
}

fn assert_all_answered(report: &Report) {
    assert_eq!(report.failures(), 0, "requests failed:\n{report}");
    assert_eq!(report.sent, report.ok, "requests unaccounted for:\n{report}");
}

fn loads(documents: &[Document<'_>]) -> Vec<Load> {
    let mut loads: Vec<Load> = documents.iter().map(Document::load).collect();
    loads.iter_mut().for_each(|load| load.answered(240));
    loads
}

#[test]
fn a_service_that_is_ready_on_another_machine_is_ready_here() {
    let machines = machines::<2>();
    let _router = Router::between(&machines);
    let mut daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    let mut loads = loads(&documents);

    // No pod is left here, and the other machine's answer.
    documents[0].without_pods();
    loads[0].answered(1000);
    wait_for(&machines[1], "no pod there", |seen| ready(seen, 0) == 0);
    documents[1].roll_to("v2");
    loads[0].answered(500);
    // Engines that start again know nothing at first, and change nothing until they do.
    for (machine, daemon) in machines.iter().zip(&daemons) {
        machine.kill_engine();
        loads[0].answered(100);
        up(machine, daemon);
        loads[0].answered(300);
    }
    // All engines at once: then nobody can say where pods are ready but the one before.
    machines.iter().for_each(Machine::kill_engine);
    for (machine, daemon) in machines.iter().zip(&daemons) {
        up(machine, daemon);
        loads[0].answered(300);
    }
    wait_for(&machines[0], "the other is heard again", |seen| standing(seen, 1) == "ready");
    // Nor without Tailscale's daemon, which knows who is there.
    daemons[0].kill();
    machines[0].kill_engine();
    up(&machines[0], &daemons[0]);
    loads[0].answered(300);
    daemons[0].start_again();
    wait_for(&machines[0], "the other is heard again", |seen| standing(seen, 1) == "ready");

    // The other has the last pods now, and says so.
    let refused = run(&mut machines[1].segue("drain"), "");
    assert!(!refused.success && refused.stderr.contains(SERVICE), "{}{}", refused.stdout, refused.stderr);
    documents[0].scale(3);
    // One that was away so often is trusted again only after a while.
    wait_for(&machines[1], "pods there", |seen| ready(seen, 0) == 3 && standing(seen, 0) == "ready");
    loads[0].answered(500);
    let second = loads.pop().expect("two").stop();
    say(&output_of(&mut machines[1].segue("drain")));
    machines[1].left_behind().assert_nothing();
    wait_for(&machines[0], "it drains", |seen| standing(seen, 1) == "draining");
    loads[0].answered(500);
    let first = loads.pop().expect("one").stop();
    say(&format!("{first}{second}"));
    [first, second].iter().for_each(assert_all_answered);
    machines[0].down();
}

#[test]
fn whoever_has_no_tag_is_no_machine_of_the_mesh() {
    let machines = machines::<2>();
    let _router = Router::between(&machines);
    let mut daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    let shown = output_of(&mut machines[0].segue("mesh"));
    assert!(shown.contains(&name(1)) && shown.contains("ready"), "{shown}");
    let metrics = machines[0].kubectl().run("get --raw /metrics");
    for line in ["segue_tailnet_daemon_runs 1", "segue_mesh_machines{standing=\"ready\"} 1", "segue_mesh_only_here 0"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let mut load = documents[0].load();
    load.answered(100);

    // What an engine hears first is the key for its machine's proxy.
    let first_line = |port: u16| {
        let listen = format!(
            "import socket; s = socket.socket(); s.bind(('{}', {port})); s.settimeout(5); s.connect(('{}', 745)); \
             print(s.makefile().readline())",
            address(1),
            address(0)
        );
        run(machines[1].namespace().command("python3").args(["-c", &listen]), "").stdout
    };
    let heard: Value = serde_json::from_str(&first_line(1023)).expect("a message");
    let key = heard["key"].as_str().expect("the first is the key").to_owned();
    // It loses its tag: nobody listens to it, and it is told nothing.
    daemons[0].change(|tailnet| tailnet["peers"][0]["tags"] = json!([]));
    wait_for(&machines[0], "nobody is left", |seen| standing(seen, 1) == "unknown");
    wait_for(&machines[1], "nobody answers", |seen| standing(seen, 0) == "set-aside");
    assert_eq!(first_line(1022).trim(), "");
    // A proxy takes nothing from it either, whatever it announces.
    let announce = |key: &str| {
        let line = format!("SEGUE/1 {key} production/{SERVICE} 80 http1\\n");
        let to = format!("exec 3<>/dev/tcp/{}/746 && printf '{line}' >&3 && timeout 5 cat <&3", address(0));
        run(machines[1].namespace().command("bash").args(["-c", &to]), "").stdout
    };
    assert_eq!(announce(&key), "");
    daemons[0].change(|tailnet| tailnet["peers"][0]["tags"] = json!([TAG]));
    all_know_each_other(&machines);
    assert_eq!(announce(&key), "+");
    // Pods and users of the other machine have its address, and neither the key nor the ports that only root may use.
    assert_eq!((announce("guessed"), announce("")), ("-".to_owned(), "-".to_owned()));
    assert_eq!(first_line(20_000).trim(), "");
    // Nor do others that the machine forwards for, as it would for containers of another engine.
    let outside = machines[1].outside().namespace();
    output_of(outside.in_network("ip").args(["route", "add", ADDRESSES, "via", outside::MACHINE]));
    let masquerade = "add table ip other; add chain ip other out { type nat hook postrouting priority srcnat; }; \
                      add rule ip other out oifname tailnet masquerade";
    output_of(machines[1].namespace().command("nft").arg(masquerade));
    let connects = |port: u16| {
        let connect = format!(
            "import socket; s = socket.socket(); s.bind(('', {port})); s.settimeout(2); s.connect(('{}', 745))",
            address(0)
        );
        run(outside.in_network("python3").args(["-c", &connect]), "").success
    };
    assert_eq!((connects(20_001), connects(1021)), (true, false));
    output_of(machines[1].namespace().command("nft").arg("delete table ip other"));

    // An engine that starts again is trusted again, and what is passed on meanwhile goes on.
    machines[1].kill_engine();
    up(&machines[1], &daemons[1]);
    all_know_each_other(&machines);
    assert_all_answered(&load.stop());
    machines.iter().for_each(Machine::down);
}

/// Lets only this address reach the listener.
const ONLY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only"}, "spec": {
  "podSelector": {"matchLabels": {"app": "listener"}}, "ingress": [{"from": [{"ipBlock": {"cidr": "ADDRESS/32"}}]}]}}"#;

#[test]
fn a_name_on_the_tailnet_answers_though_all_pods_are_elsewhere_and_the_app_knows_who_calls() {
    let machines = machines::<2>();
    let _router = Router::between(&machines);
    let mut daemons = daemons(&machines);
    let laptop = json!({"name": "laptop", "addresses": [outside::CLIENT], "login": "bob@example.com"});
    daemons[0].change(|tailnet| tailnet["peers"].as_array_mut().expect("a list").push(laptop));
    machines.iter().zip(&daemons).for_each(|(machine, daemon)| up(machine, daemon));
    let [entry, host] = [0, 1].map(|number: usize| machines[number].kubectl());
    let listener = LISTENER
        .replace("SHELL", SHELL)
        .replace("name: listener}", "name: listener, annotations: {segue.dev/mesh: 'true'}}");
    let (_, service) = listener.split_once("---").expect("a pod and its Service");
    host.apply(&listener);
    host.run("wait pod/listener --for=condition=Ready --timeout=60s");
    entry.apply(service);
    entry.wait_for("service/listener", ".status.loadBalancer.ingress[0].hostname", &name(0));
    let outside = machines[0].outside().namespace();
    output_of(outside.in_network("ip").args(["route", "add", ADDRESSES, "via", outside::MACHINE]));
    let code = || {
        let mut curl = outside.in_network("curl");
        curl.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20"]);
        curl.args(["--connect-to", &format!("{}::{}:", name(0), address(0))]);
        curl.args(["--header", "Tailscale-User-Login: root@example.com", "--header", "X-Forwarded-For: 203.0.113.9"]);
        output_of(curl.arg(format!("http://{}/", name(0))))
    };
    assert_eq!(code(), "200");
    let said = host.run("logs listener").to_lowercase();
    assert!(said.contains("tailscale-user-login: bob@example.com"), "{said}");
    assert!(said.contains(&format!("x-forwarded-for: {}", outside::CLIENT)), "{said}");
    assert!(!said.contains("root@example.com") && !said.contains("203.0.113.9"), "{said}");

    // A pod's address is another one's on the other machine, so its machine stands for it.
    let client = format!("run client --image={SHELL} --restart=Never --command -- sleep 600");
    entry.run(&client);
    entry.run("wait pod/client --for=condition=Ready --timeout=60s");
    entry.run("exec client -- wget -q -O- http://listener/");
    let said = host.run("logs listener").to_lowercase();
    let last = said.lines().rfind(|line| line.starts_with("x-forwarded-for: "));
    assert_eq!(last, Some(&*format!("x-forwarded-for: {}", address(0))));
    entry.run("delete pod client --now");

    // Whoever has no address of the tailnet is known by the machine that passes the request on.
    host.apply(&ONLY.replace("ADDRESS", &address(7)));
    wait_until("the policy holds", || code() == "403");
    host.apply(&ONLY.replace("ADDRESS", &address(0)));
    wait_until("the policy lets the machine in", || code() == "200");
    machines.iter().for_each(Machine::down);
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what}");
        thread::park_timeout(PAUSE);
    }
}

#[test]
fn a_machine_whose_last_pod_goes_is_sent_nothing_more_before_it_does() {
    let machines = machines::<3>();
    let router = Router::between(&machines);
    let daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    documents[0].without_pods();
    // Long enough for much to be sent to a pod of which nobody has said yet that it goes.
    let _slow = router.delay(WAY);
    wait_for(&machines[0], "the way is long", |seen| {
        let machines = seen["machines"].as_array().expect("a list");
        machines.iter().all(|machine| round_trip(machine) >= 2 * WAY)
    });
    let plan = Plan { methods: Methods::Upload, requests_per_second: UPLOADS, ..documents[0].plan() };
    let mut load = machines[0].outside().send(&plan);
    load.answered(120);
    for goes in [1, 2, 1, 2] {
        documents[goes].without_pods();
        wait_for(&machines[0], "it has no pod", |seen| ready(seen, goes) == 0);
        load.answered(60);
        documents[goes].scale(1);
        wait_for(&machines[0], "it has one again", |seen| ready(seen, goes) == 1);
        load.answered(60);
    }
    let report = load.stop();
    say(&report.to_string());
    assert_all_answered(&report);
    machines.iter().for_each(Machine::down);
}

#[test]
fn three_machines_fail_no_request_over_whatever_is_planned() {
    let machines = machines::<3>();
    let _router = Router::between(&machines);
    let daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    let mut loads = loads(&documents);

    documents.iter().for_each(|document| document.roll_to("v2"));
    documents.iter().for_each(|document| document.set_image("v1"));
    documents.iter().for_each(Document::rolled_out);
    loads.iter_mut().for_each(|load| load.answered(240));

    // What comes in at the machine that is drained ends with it, so its clients go first.
    let last = loads.pop().expect("three").stop();
    output_of(&mut machines[2].segue("drain"));
    loads.iter_mut().for_each(|load| load.answered(500));
    up(&machines[2], &daemons[2]);
    documents[2].rolled_out();
    all_know_each_other(&machines);
    loads.iter_mut().for_each(|load| load.answered(240));

    let mut reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    reports.push(last);
    reports.iter().for_each(|report| say(&report.to_string()));
    reports.iter().for_each(assert_all_answered);
    machines.iter().for_each(Machine::down);
}

#[test]
fn what_happens_to_one_machine_costs_the_others_nothing_but_what_was_in_flight() {
    let machines = machines::<3>();
    let router = Router::between(&machines);
    let daemons = daemons(&machines);
    let documents = deployed(&machines, &daemons);
    // All of what comes in here goes to the others.
    documents[0].without_pods();
    let loaded = |what: &str, happens: &dyn Fn(&mut Load)| {
        let mut load = documents[0].load();
        load.answered(500);
        happens(&mut load);
        load.answered(500);
        let report = load.stop();
        say(&format!("{what}\n{report}"));
        report.failures()
    };
    // GETs are repeated elsewhere; of POSTs nobody knows how far they got.
    let cut = loaded("a link is cut", &|_| {
        router.cut(0, 1);
        wait_for(&machines[0], "it is set aside", |seen| standing(seen, 1) == "set-aside");
    });
    router.mend();
    wait_for(&machines[0], "it is back", |seen| standing(seen, 1) == "ready");
    let flaps = loaded("a link flaps", &|load| {
        for _ in 0..4 {
            router.cut(0, 2);
            thread::park_timeout(FLAP);
            router.mend();
            thread::park_timeout(FLAP);
        }
        load.answered(240);
    });
    wait_for(&machines[0], "it is back", |seen| standing(seen, 2) == "ready");
    let loses = loaded("a link loses packets", &|load| {
        router.lose(5);
        load.answered(500);
        router.mend();
    });
    let killed = loaded("a machine dies", &|_| {
        for role in ["up", "keeper", "proxy", "shim"] {
            processes::in_role(machines[1].namespace(), role).iter().for_each(processes::Process::kill);
        }
        wait_for(&machines[0], "it is set aside", |seen| standing(seen, 1) == "set-aside");
    });
    assert_eq!((flaps, loses), (0, 0), "what is only slow costs no request");
    assert!(cut.max(killed) <= MOST_IN_FLIGHT, "more failed than can have been in flight: {cut}, {killed}");
    machines[0].down();
    machines[2].down();
}
