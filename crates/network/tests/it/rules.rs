//! Rules and preflight against a real kernel, each test in a network namespace of its own.

use std::process::Command;

use crate::plane::executable;

/// Runs a script with `segue` as the program, in a new network namespace. Gives what it wrote.
fn in_a_namespace(script: &str) -> String {
    let output = Command::new("unshare")
        .args(["--net", "sh", "-euc", &format!("exec 2>&1\nip link set lo up\n{script}")])
        .env("segue", executable())
        .output()
        .unwrap();
    let written = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{written}");
    written
}

#[test]
fn rules_are_put_in_force_twice_changed_and_taken_away() {
    let written = in_a_namespace(
        "
        $segue apply-rules 10.44.0.0/16 10.45.0.0/16
        $segue apply-rules 10.44.0.0/16 10.45.0.0/16
        nft list table inet segue_test | grep -c -e masquerade -e 'established,related' -e 'fib saddr' -e '745-746'
        ip route show table local 10.45.0.0/16
        $segue apply-rules 10.44.0.0/16 10.46.0.0/16
        echo changed $(ip route show table local 10.45.0.0/16) $(ip route show table local 10.46.0.0/16)
        $segue remove-rules
        $segue remove-rules
        echo left $(nft list tables) $(ip route show table local 10.46.0.0/16)
        ",
    );
    let lines: Vec<_> = written.lines().map(str::trim).collect();
    let expected =
        ["5", "local 10.45.0.0/16 dev lo scope host", "changed local 10.46.0.0/16 dev lo scope host", "left"];
    assert_eq!(lines, expected);
}

#[test]
fn a_range_that_is_in_use_is_refused_before_anything_is_changed() {
    let written = in_a_namespace(
        "
        ip link add other type dummy 2>/dev/null || ip link add other type veth peer name peer
        ip link set other up
        ip route add 10.44.3.0/24 dev other
        $segue preflight 10.44.0.0/16 10.45.0.0/16 || true
        $segue preflight 10.46.0.0/16 10.45.0.0/16 && echo fine
        $segue apply-rules 10.46.0.0/16 10.45.0.0/16
        $segue preflight 10.46.0.0/16 10.45.0.0/16 && echo still fine
        ",
    );
    let lines: Vec<_> = written.lines().collect();
    assert!(lines[0].contains("--pod-cidr") && lines[0].contains("10.44.3.0/24"), "{written}");
    assert_eq!(lines[1..], ["fine", "still fine"], "what this instance made is no clash");
}
