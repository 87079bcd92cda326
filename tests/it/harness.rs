//! The harness itself: it sees what it is there to see.

use std::process::Stdio;

use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;
use end_to_end::paths::built;
use end_to_end::processes;
use end_to_end::run::output_of;

fn make_a_mess(machine: &Machine, mess: &str) {
    output_of(machine.namespace().command("bash").args(["-c", mess]));
}

#[test]
fn everything_that_could_be_left_behind_is_seen() {
    let machine = Machine::without_engine();
    machine.left_behind().assert_nothing();
    let data = machine.data_dir();
    let data = data.display();
    let messes = [
        (format!("mkdir -p {data} && mount -t tmpfs tmpfs {data}"), format!("umount {data}")),
        ("setsid sleep 1000 &".to_owned(), "pkill sleep; while pgrep sleep; do :; done".to_owned()),
        ("ip link add sgaaaabbbbbbbb type veth".to_owned(), "ip link delete sgaaaabbbbbbbb".to_owned()),
        ("nft add table inet segue_00000000".to_owned(), "nft delete table inet segue_00000000".to_owned()),
        ("ip route add local 10.45.0.0/16 dev lo".to_owned(), "ip route delete local 10.45.0.0/16 dev lo".to_owned()),
        ("ip rule add from all lookup 7 priority 7".to_owned(), "ip rule delete priority 7".to_owned()),
        ("touch /run/engine.lock".to_owned(), "rm /run/engine.lock".to_owned()),
    ];
    for (mess, cleaning) in messes {
        make_a_mess(&machine, &mess);
        let seen = std::panic::catch_unwind(|| machine.left_behind().assert_nothing());
        assert!(seen.is_err(), "not seen: {mess}");
        make_a_mess(&machine, &cleaning);
    }
    machine.left_behind().assert_nothing();
}

#[test]
fn load_from_outside_reaches_the_machine_and_a_killed_app_is_noticed() {
    let machine = Machine::without_engine();
    make_a_mess(&machine, "ip address add 10.45.0.1/32 dev lo");
    let mut app = machine.namespace().unlimited(built("app"));
    let mut app = app.args(["PORT=80", "VERSION=v1"]).stdout(Stdio::piped()).spawn().expect("a program that was built");
    let mut said = std::io::BufReader::new(app.stdout.take().expect("it was piped"));
    std::io::BufRead::read_line(&mut said, &mut String::new()).expect("a pipe can be read");

    let address = "10.45.0.1".parse().expect("an address");
    let mut load = machine.outside().load(address);
    load.answered(480);
    assert_nothing_lost(&load.stop(), &["v1"]);

    let mut load = machine.outside().load(address);
    load.answered(60);
    let apps: Vec<_> = processes::of(machine.namespace())
        .into_iter()
        .filter(|process| process.arguments[0].ends_with("/app"))
        .collect();
    let [process] = &apps[..] else { panic!("one app, not {apps:?}") };
    process.kill();
    app.wait().expect("a child of ours");
    load.answered(240);
    assert!(load.stop().failures() > 0, "nobody answered any more");
}
