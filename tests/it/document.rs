use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use end_to_end::document::NAME;
use end_to_end::images::APP;
use end_to_end::kubectl::Release;
use end_to_end::machine::Machine;
use end_to_end::paths::project;
use end_to_end::run::{Said, output_of, run};

#[test]
fn the_documents_four_targets_work_unchanged_with_a_new_kubectl() {
    the_four_targets_work(Release::New);
}

#[test]
fn the_documents_four_targets_work_unchanged_with_an_old_kubectl() {
    the_four_targets_work(Release::Old);
}

fn the_four_targets_work(release: Release) {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl_of(release);
    let without_namespace = make(&machine, release, "deploy");
    assert!(!without_namespace.success, "nothing is created behind the user's back");
    assert!(without_namespace.stderr.contains("namespaces \"production\" not found"), "{}", without_namespace.stderr);
    kubectl.run("create namespace production");

    succeeds(&make(&machine, release, "deploy"), &format!("deployment \"{NAME}\" successfully rolled out"));
    let status = succeeds(&make(&machine, release, "status"), "NOMINATED NODE");
    assert_eq!(status.matches("1/1     Running").count(), 3, "{status}");

    kubectl.run(&format!("set image deployment/{NAME} -n production app={APP}:v2"));
    kubectl.run(&format!("rollout status deployment/{NAME} -n production --timeout=120s"));
    succeeds(&make(&machine, release, "rollback"), "rolled back");
    kubectl.run(&format!("rollout status deployment/{NAME} -n production --timeout=120s"));
    let image = kubectl.run(&format!("get deployment {NAME} -n production -o jsonpath={{..image}}"));
    assert_eq!(image, format!("{APP}:latest"));

    follows_the_logs(&machine, release);
    machine.down();
}

fn make(machine: &Machine, release: Release, target: &str) -> Said {
    run(make_command(machine, release, machine.namespace().in_network("make")).arg(target), "")
}

fn make_command(machine: &Machine, release: Release, mut make: Command) -> Command {
    let kubectl = machine.kubectl_of(release);
    let programs = machine.directory().join(format!("{release:?}"));
    if std::fs::create_dir(&programs).is_ok() {
        symlink(kubectl.program(), programs.join("kubectl")).expect("a directory of ours");
    }
    let path = std::env::var("PATH").expect("a PATH");
    make.env("PATH", format!("{}:{path}", programs.display())).env("KUBECONFIG", kubectl.kubeconfig());
    make.arg("--directory").arg(project("demo/document"));
    make
}

fn succeeds(said: &Said, with: &str) -> String {
    assert!(said.success && said.stdout.contains(with), "{with:?} is missing:\n{}{}", said.stdout, said.stderr);
    said.stdout.clone()
}

fn follows_the_logs(machine: &Machine, release: Release) {
    let mut logs = make_command(machine, release, machine.namespace().in_network_unlimited("make"));
    let mut following = logs.arg("logs").stdout(Stdio::piped()).spawn().expect("make is installed");
    let mut said = BufReader::new(following.stdout.take().expect("it was piped"));
    let mut line = String::new();
    while !line.contains("listens on port 8080") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("a pipe can be read"), 0, "logs ended without the app's line");
    }
    output_of(Command::new("kill").args(["-TERM", &following.id().to_string()]));
    following.wait().expect("a child of ours");
}
