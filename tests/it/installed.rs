//! The engine as a service of systemd.

use end_to_end::document::Document;
use end_to_end::machine::{LISTEN, Machine, NEVER_SHORT, POD_CIDR, SERVICE_CIDR};
use end_to_end::processes;
use end_to_end::registry::MIRROR;
use end_to_end::run::{Said, output_of, run};
use end_to_end::systemd::Systemd;

fn segue(machine: &Machine, systemd: &Systemd, command: &str, more: &[&str]) -> Said {
    let program = end_to_end::paths::built("segue");
    let mut segue = systemd.command(program.to_str().expect("a path in UTF-8"));
    run(segue.arg(command).arg("--data-dir").arg(machine.data_dir()).args(more), "")
}

#[test]
fn an_installed_engine_is_restarted_without_a_loss_and_comes_back_with_the_machine() {
    let machine = Machine::without_engine();
    let systemd = Systemd::boot(&machine);
    let options = ["--listen", LISTEN, "--pod-cidr", POD_CIDR, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR];
    let said = segue(&machine, &systemd, "install", &[&options[..], &NEVER_SHORT].concat());
    assert!(said.success && said.stdout.contains("its node is ready"), "{}{}", said.stdout, said.stderr);
    let unit = output_of(systemd.command("bash").args(["-c", "cd /etc/systemd/system; ls segue*.service"]));
    let unit = unit.trim();

    let document = Document::deployed(&machine, "v1");
    let before = document.standing();
    let mut load = document.load();
    load.answered(240);
    output_of(systemd.command("systemctl").args(["restart", unit]));
    load.answered(240);
    let [engine] = &processes::in_role(machine.namespace(), "up")[..] else { panic!("one engine runs") };
    engine.kill();
    let is_back = "until systemctl is-active --quiet $0; do sleep 0.1; done";
    output_of(systemd.command("timeout").args(["60", "bash", "-c", is_back, unit]));
    load.answered(240);
    assert_eq!(before, document.standing(), "no pod was replaced or restarted");
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");

    systemd.power_off();
    let systemd = Systemd::boot(&machine);
    document.rolled_out();
    let after = document.standing();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "the same Pod objects");
    let pods = machine.kubectl().json("get pods -n production");
    for pod in pods["items"].as_array().expect("a list") {
        let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!((&last["reason"], &last["exitCode"]), (&"Completed".into(), &0.into()), "it was not drained: {pod}");
    }

    // Out of service for as long as it is meant to be.
    let said = segue(&machine, &systemd, "drain", &["--force"]);
    assert!(said.success, "{}{}", said.stdout, said.stderr);
    assert_eq!(processes::in_role(machine.namespace(), "up").len(), 0);
    let is_over = "until ! systemctl is-active --quiet $0; do sleep 0.1; done; ! systemctl is-failed --quiet $0";
    output_of(systemd.command("timeout").args(["60", "bash", "-c", is_over, unit]));
    output_of(systemd.command("systemctl").args(["start", unit]));
    document.rolled_out();
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        document.standing().keys().collect::<Vec<_>>(),
        "the same Pod objects"
    );

    let said = segue(&machine, &systemd, "uninstall", &[]);
    assert!(said.success && said.stdout.contains("Its pods go on"), "{}{}", said.stdout, said.stderr);
    assert_eq!(processes::in_role(machine.namespace(), "shim").len(), 3);
    let said = segue(&machine, &systemd, "down", &[]);
    assert!(said.success, "{}{}", said.stdout, said.stderr);
    assert_eq!(processes::in_role(machine.namespace(), "shim").len(), 0);
}
