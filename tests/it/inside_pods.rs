//! What users do inside pods: `kubectl exec`, `cp` and `port-forward`, with a new kubectl and an old one.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use end_to_end::images::SHELL;
use end_to_end::kubectl::{Kubectl, Release};
use end_to_end::machine::Machine;
use end_to_end::run::{Said, output_of, run};

/// Much more than all buffers on the way hold.
const LARGE: usize = 20_000_000;

#[test]
fn a_new_kubectl_runs_programs_in_containers() {
    runs_programs(Release::New);
}

#[test]
fn an_old_kubectl_runs_programs_in_containers() {
    runs_programs(Release::Old);
}

fn runs_programs(release: Release) {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl_of(release);
    start_shell(&kubectl);

    let said = exec(&kubectl, "shell", &["sh", "-c", "echo out; echo err >&2; exit 7"], "");
    assert_eq!((said.success, said.stdout.as_str()), (false, "out\n"), "{said:?}");
    assert_eq!(said.stderr, "err\ncommand terminated with exit code 7\n");

    let said = exec(&kubectl, "shell -i", &["sh", "-c", "cat; echo end"], "first\nsecond\n");
    assert_eq!((said.success, said.stdout.as_str()), (true, "first\nsecond\nend\n"), "{said:?}");
    let large = "0123456789".repeat(LARGE / 10);
    let said = exec(&kubectl, "shell -i", &["cat"], &large);
    assert!(said.success && said.stdout == large, "{} bytes came back: {}", said.stdout.len(), said.stderr);

    // Its output is held open by a process that goes on.
    let said = exec(&kubectl, "shell", &["sh", "-c", "sleep 1000 & echo started"], "");
    assert_eq!((said.success, said.stdout.as_str()), (true, "started\n"), "{said:?}");

    let missing = exec(&kubectl, "shell", &["/no/such/program"], "");
    assert!(!missing.success && missing.stderr.contains("no such file or directory"), "{missing:?}");
    let unknown = exec(&kubectl, "shell -c other", &["id"], "");
    assert!(!unknown.success && unknown.stderr.contains("container other is not valid"), "{unknown:?}");
    machine.down();
}

#[test]
fn a_terminal_is_one_and_has_the_size_of_the_users() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    start_shell(&kubectl);
    let size = "until stty size | grep -v ^0; do sleep 0.1; done";
    let inside = format!("tty; {size}; echo $TERM; id -u >/dev/tty; exit 3");
    let said = in_terminal(&kubectl, &format!("stty rows 33 cols 111; %s exec -it shell -- sh -c '{inside}'"));
    // `script` types an end of input, which is shown.
    let lines: Vec<&str> = said.stdout.trim_start_matches("^@").lines().map(str::trim).collect();
    assert_eq!(lines, ["/dev/pts/0", "33 111", "xterm", "0", "command terminated with exit code 3"], "{said:?}");
    assert!(!said.success, "the exit code is the program's");
    machine.down();
}

#[test]
fn files_are_copied_into_containers_and_out_of_them() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    start_shell(&kubectl);
    let (there, back) = (machine.directory().join("there"), machine.directory().join("back"));
    std::fs::write(&there, "0123456789".repeat(LARGE / 10)).expect("a directory of ours");
    kubectl.run(&format!("cp {} shell:/tmp/copy", there.display()));
    kubectl.run(&format!("cp shell:/tmp/copy {}", back.display()));
    assert!(std::fs::read(&there).expect("ours") == std::fs::read(&back).expect("copied"), "the copy differs");
    machine.down();
}

#[test]
fn a_new_kubectl_forwards_ports() {
    forwards_ports(Release::New);
}

#[test]
fn an_old_kubectl_forwards_ports() {
    forwards_ports(Release::Old);
}

/// To a Service too, of which kubectl picks a pod; and to what listens only inside the pod.
fn forwards_ports(release: Release) {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl_of(release);
    start_shell(&kubectl);
    kubectl.apply(SERVICE);
    let serves = "cd /tmp; echo inside >small; head -c 20000000 /dev/zero >large; httpd -p 127.0.0.1:8080 -h /tmp";
    assert!(exec(&kubectl, "shell", &["sh", "-c", serves], "").success);
    for (about, ports) in [("pod/shell", "9000:8080"), ("service/shell", "9001:80")] {
        let forwarded = Forwarded::start(&machine, &kubectl, about, ports);
        let get = |file: &str| {
            let url = format!("http://127.0.0.1:{}/{file}", &ports[..4]);
            output_of(machine.namespace().in_network("busybox").args(["wget", "-q", "-O", "-", &url]))
        };
        assert_eq!(get("small"), "inside\n");
        let lengths: Vec<usize> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| get("large").len())).collect();
            all.into_iter().map(|one| one.join().expect("it succeeded")).collect()
        });
        assert_eq!(lengths, [LARGE; 4], "connections at the same time");
        drop(forwarded);
    }
    let forwarded = Forwarded::start(&machine, &kubectl, "pod/shell", "9002:1");
    let refused =
        run(machine.namespace().in_network("busybox").args(["wget", "-q", "-O", "-", "http://127.0.0.1:9002"]), "");
    assert!(!refused.success, "{refused:?}");
    let said = forwarded.stop();
    assert!(said.contains("cannot connect to port 1 of the pod: Connection refused"), "{said}");
    machine.down();
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: shell}
spec: {selector: {app: shell}, ports: [{port: 80, targetPort: 8080}]}
";

/// A `kubectl port-forward` that runs.
struct Forwarded(Child);

impl Forwarded {
    fn start(machine: &Machine, kubectl: &Kubectl<'_>, about: &str, ports: &str) -> Forwarded {
        let mut command = machine.namespace().in_network_unlimited(kubectl.program());
        command.args(["port-forward", about, ports]).env("KUBECONFIG", kubectl.kubeconfig());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl was fetched");
        let mut first = String::new();
        let said = child.stdout.as_mut().expect("it was piped");
        BufReader::new(said).read_line(&mut first).expect("a pipe can be read");
        assert!(first.starts_with("Forwarding from 127.0.0.1:"), "{first}");
        Forwarded(child)
    }

    /// What it complained of.
    fn stop(mut self) -> String {
        self.0.kill().expect("a child of ours");
        let mut said = String::new();
        let errors = self.0.stderr.as_mut().expect("it was piped");
        errors.read_to_string(&mut said).expect("a pipe can be read");
        said
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // It may have been stopped before.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn what_does_not_run_is_said_to() {
    let machine = Machine::with_engine();
    let kubectl = machine.kubectl();
    kubectl.apply(&shell("waits", "registry.example.com/no-such-image:v1"));
    kubectl.wait_for("pod/waits", ".status.phase", "Pending");
    let waiting = exec(&kubectl, "waits", &["id"], "");
    assert!(!waiting.success && waiting.stderr.contains("container not found (\"shell\")"), "{waiting:?}");
    let missing = exec(&kubectl, "nobody", &["id"], "");
    assert!(!missing.success && missing.stderr.contains("pods \"nobody\" not found"), "{missing:?}");
    machine.down();
}

fn start_shell(kubectl: &Kubectl<'_>) {
    kubectl.apply(&shell("shell", SHELL));
    kubectl.run("wait pod/shell --for=condition=Ready --timeout=60s");
}

fn shell(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{{name: shell, image: '{image}', command: [sleep, '1000'], volumeMounts: [{{name: tmp, mountPath: /tmp}}]}}]\n  \
         volumes: [{{name: tmp, emptyDir: {{}}}}]\n"
    )
}

fn exec(kubectl: &Kubectl<'_>, about: &str, command: &[&str], input: &str) -> Said {
    run(kubectl.command().arg("exec").args(about.split(' ')).arg("--").args(command), input)
}

/// Runs a line of shell in a terminal; `%s` is kubectl.
fn in_terminal(kubectl: &Kubectl<'_>, line: &str) -> Said {
    let called = kubectl.command();
    let words = std::iter::once(called.get_program()).chain(called.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", Path::new(word).display())).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line.replace("%s", &words.join(" ")), "/dev/null"]);
    run(script.env("KUBECONFIG", kubectl.kubeconfig()).env("SHELL", "/bin/sh"), "")
}
