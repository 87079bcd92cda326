//! What a user meets first: every error is clear, and comes before anything is changed.

use std::fs;

use end_to_end::machine::{LISTEN, Machine, POD_CIDR};
use end_to_end::run::{Said, output_of, run};

/// Fails unless `segue up` refused with all `words`, and nothing was changed.
fn refused(machine: &Machine, said: &Said, words: &[&str]) {
    assert!(!said.success, "segue up succeeded:\n{}", said.stdout);
    for word in words {
        assert!(said.stderr.contains(word), "{word:?} is missing in:\n{}", said.stderr);
    }
    machine.left_behind().assert_nothing();
    assert!(!machine.data_dir().exists(), "the data directory was made");
}

#[test]
fn without_root_it_says_so() {
    let machine = Machine::without_engine();
    let segue = machine.segue("up");
    // Executable by nobody from wherever the project is.
    let program = machine.directory().join("segue");
    let original =
        segue.get_args().find(|argument| argument.as_encoded_bytes().ends_with(b"/segue")).expect("the program");
    fs::copy(original, &program).expect("a directory of ours");
    let mut unprivileged = machine.namespace().command("setpriv");
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(["up", "--detach"]);
    unprivileged.arg("--data-dir").arg(machine.data_dir());
    refused(&machine, &run(&mut unprivileged, ""), &["root"]);
}

#[test]
fn without_nft_it_says_what_to_install() {
    let machine = Machine::without_engine();
    let mut segue = machine.segue("up");
    segue.arg("--detach");
    let shell = |script: &str| output_of(machine.namespace().command("sh").args(["-c", script]));
    let nft = shell("readlink --canonicalize $(command -v nft)");
    shell(&format!("mount --bind /dev/null {nft}"));
    let said = run(&mut segue, "");
    shell(&format!("umount {nft}"));
    refused(&machine, &said, &["nft", "nftables"]);
}

#[test]
fn a_taken_port_is_named() {
    let machine = Machine::without_engine();
    let said = machine.try_up(&["--listen", "127.0.0.1:5000"]);
    refused(&machine, &said, &["127.0.0.1:5000"]);
}

#[test]
fn a_second_engine_on_the_directory_is_refused_and_the_first_goes_on() {
    let machine = Machine::with_engine();
    let said = machine.try_up(&["--listen", "127.0.0.1:6444"]);
    assert!(!said.success, "a second engine started");
    let directory = machine.data_dir();
    assert!(said.stderr.contains(directory.to_str().expect("a path in UTF-8")), "{}", said.stderr);
    assert!(machine.kubectl().run("get nodes").contains(" Ready "));
    machine.down();
}

#[test]
fn a_range_that_clashes_is_named_with_what_it_clashes_with() {
    let machine = Machine::without_engine();
    let cases = [
        ("--service-cidr", "192.0.2.0/24", &["192.0.2.0/24", "outside"][..]),
        ("--pod-cidr", "192.0.0.0/16", &["192.0.0.0/16", "192.0.2.0/24"][..]),
        ("--pod-cidr", "100.64.0.0/16", &["100.64.0.0/16", "100.64.0.0/10"][..]),
        ("--service-cidr", POD_CIDR, &[POD_CIDR][..]),
    ];
    for (option, range, words) in cases {
        refused(&machine, &machine.try_up(&[option, range]), words);
    }
    let nonsense = machine.try_up(&["--pod-cidr", "10.44.0.0/33"]);
    refused(&machine, &nonsense, &["10.44.0.0/33"]);
}

#[test]
fn a_refused_engine_comes_up_once_the_reason_is_gone() {
    let machine = Machine::without_engine();
    let taken = machine.namespace().listen(LISTEN);
    refused(&machine, &machine.try_up(&[]), &[LISTEN]);
    drop(taken);
    machine.up();
    machine.down();
}
