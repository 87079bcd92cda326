use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use end_to_end::images::APP;
use end_to_end::machine::{LISTEN, Machine, SERVICE_CIDR};
use end_to_end::outside;
use end_to_end::registry::MIRROR;
use end_to_end::run::{Said, output_of, run};
use end_to_end::tailnet::{ADDRESS, ADDRESSES, Daemon, NAME};
use serde_json::{Value, json};

/// The port of the API, on the tailnet too.
fn port() -> &'static str {
    LISTEN.rsplit_once(':').expect("an address and a port").1
}

fn up(machine: &Machine) -> Daemon<'_> {
    let daemon = Daemon::start(machine);
    let mut command = machine.segue("up");
    command.args(["--detach", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR, "--tailnet-api"]);
    output_of(command.arg("--tailscale-socket").arg(daemon.socket()));
    let mut route = machine.outside().namespace().in_network("ip");
    output_of(route.args(["route", "add", ADDRESSES, "via", outside::MACHINE]));
    daemon
}

/// Whoever is at the address of the other network, to the tailnet.
fn caller(daemon: &mut Daemon<'_>, node: Value) {
    let mut node = node;
    node["addresses"] = json!([outside::CLIENT]);
    daemon.change(|tailnet| tailnet["peers"] = json!([node]));
}

/// kubectl from the other network, with the kubeconfig for the tailnet alone.
struct Remote<'m> {
    machine: &'m Machine,
    kubeconfig: std::path::PathBuf,
}

impl<'m> Remote<'m> {
    fn of(machine: &'m Machine, daemon: &Daemon<'_>) -> Self {
        let mut command = machine.segue("kubeconfig");
        command.args(["--tailnet", "--port", port(), "--tailscale-socket"]).arg(daemon.socket());
        let text = output_of(&mut command);
        assert!(text.contains(&format!("https://{NAME}:{}", port())) && !text.contains("key"), "{text}");
        let kubeconfig = machine.directory().join("tailnet.kubeconfig");
        // Nobody there answers for the tailnet's names.
        std::fs::write(&kubeconfig, text.replace(NAME, ADDRESS)).expect("a directory of the test");
        Self { machine, kubeconfig }
    }

    fn command(&self, asked: &str) -> Command {
        let mut command = self.machine.outside().namespace().in_network(self.machine.kubectl().program());
        command.env("KUBECONFIG", &self.kubeconfig).arg("--insecure-skip-tls-verify").args(asked.split(' '));
        command
    }

    fn ask(&self, asked: &str) -> Said {
        run(&mut self.command(asked), "")
    }

    fn apply(&self, manifest: &str) -> Said {
        run(&mut self.command("apply -f -"), manifest)
    }
}

#[test]
fn who_calls_from_the_tailnet_may_do_what_its_policy_and_roles_say() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    let remote = Remote::of(&machine, &daemon);
    let bob = || json!({"name": "laptop", "login": "bob@example.com"});
    caller(&mut daemon, bob());
    let who = remote.ask("auth whoami");
    assert!(who.stdout.contains("bob@example.com"), "{}{}", who.stdout, who.stderr);
    assert!(remote.ask("get pods").stderr.contains("User \"bob@example.com\" cannot list"));
    machine.kubectl().run("create rolebinding bob --clusterrole=view --user=bob@example.com");
    assert!(remote.ask("get pods").success);
    assert!(remote.ask("get pods -n kube-system").stderr.contains("forbidden"));
    machine.kubectl().run("delete rolebinding bob");

    // Nothing that a caller says of itself counts.
    machine.kubectl().run("create serviceaccount root");
    machine.kubectl().run("create clusterrolebinding root --clusterrole=cluster-admin --serviceaccount=default:root");
    let token = machine.kubectl().run("create token root");
    let url = format!("https://{ADDRESS}:{}/api/v1/namespaces/default/secrets", port());
    for header in [
        format!("Authorization: Bearer {}", token.trim()),
        "Impersonate-User: segue-admin".to_owned(),
        "Tailscale-User-Login: root@example.com".to_owned(),
        "X-Forwarded-For: 100.64.0.1".to_owned(),
        "X-Remote-User: segue-admin".to_owned(),
    ] {
        assert_eq!(code(machine.outside().namespace().in_network("curl"), &header, &url), "403", "{header}");
    }
    // Nor does a page that bob looks at speak for him, or a process on the machine for the machine.
    machine.kubectl().run("create rolebinding bob --clusterrole=edit --user=bob@example.com --user=ann@example.com");
    for (header, expected) in
        [("Accept: */*", "200"), ("Origin: https://evil.example.com", "401"), ("Sec-Fetch-Site: cross-site", "401")]
    {
        assert_eq!(code(machine.outside().namespace().in_network("curl"), header, &url), expected, "{header}");
    }
    assert_eq!(code(machine.namespace().in_network("curl"), "Accept: */*", &url), "401");
    machine.kubectl().run("delete rolebinding bob");

    // Groups come from the tailnet policy, and go with it on connections that are open.
    let kubernetes = |groups: Value| json!({"tailscale.com/cap/kubernetes": [{"impersonate": {"groups": groups}}]});
    let granted = |groups: Value| {
        let mut node = bob();
        node["capabilities"] = kubernetes(groups);
        node
    };
    machine.kubectl().run("create rolebinding devs --clusterrole=view --group=dev");
    caller(&mut daemon, granted(json!(["dev"])));
    let path = "/api/v1/namespaces/default/pods";
    let mut open = Open::connect(&machine);
    assert_eq!(open.ask(path), "200");
    caller(&mut daemon, granted(json!([])));
    open.ask_until(path, "403");
    caller(&mut daemon, granted(json!(["dev"])));
    open.ask_until(path, "200");

    // The address is somebody else's now, and then nobody's.
    caller(&mut daemon, json!({"name": "other", "login": "eve@example.com"}));
    open.ask_until(path, "403");
    assert!(remote.ask("auth whoami").stdout.contains("eve@example.com"));
    daemon.change(|tailnet| tailnet["peers"] = json!([]));
    open.ask_until(path, "401");
    // While the daemon is away, nobody is known.
    caller(&mut daemon, granted(json!(["dev"])));
    open.ask_until(path, "200");
    daemon.kill();
    open.ask_until(path, "401");
    daemon.start_again();
    open.ask_until(path, "200");
    machine.down();
}

/// What is answered to curl.
fn code(mut curl: Command, header: &str, url: &str) -> String {
    curl.args(["--silent", "--insecure", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    output_of(curl.args(["--header", header, url]))
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: APP}]}
"#;

#[test]
fn a_job_that_joins_with_a_tagged_key_can_deploy_and_nothing_more() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    let remote = Remote::of(&machine, &daemon);
    let manifest = DEPLOYMENT.replace("APP", APP);
    let job = |tag: &str, verbs: Value| json!({"name": "ci-7", "tags": [tag], "capabilities": {"tailscale.com/cap/segue": [{"verbs": verbs}]}});
    caller(&mut daemon, json!({"name": "ci-7", "tags": ["tag:other"]}));
    assert!(remote.apply(&manifest).stderr.contains("User \"ci-7.example.ts.net\" cannot"), "no grant, no access");

    caller(&mut daemon, job("tag:ci", json!(["deploy"])));
    let said = remote.apply(&manifest);
    assert!(said.success, "{}{}", said.stdout, said.stderr);
    let rolled = remote.ask("rollout status deployment/web --timeout=60s");
    assert!(rolled.success, "{}{}", rolled.stdout, rolled.stderr);
    for refused in [
        "delete namespace default",
        "get nodes",
        "create clusterrolebinding mine --clusterrole=cluster-admin --user=ci-7.example.ts.net",
        "exec deployment/web -- true",
        "delete pods --all",
        "get pods --as segue-admin",
    ] {
        let said = remote.ask(refused);
        assert!(said.stderr.contains("forbidden") || said.stderr.contains("Forbidden"), "{refused}: {}", said.stderr);
    }
    caller(&mut daemon, job("tag:ci", json!(["view"])));
    assert!(remote.ask("get deployments").success);
    assert!(remote.ask("delete deployment web").stderr.contains("forbidden"));
    caller(&mut daemon, job("tag:ops", json!(["operate"])));
    assert!(remote.ask("get nodes").success);
    machine.down();
}

/// One connection that is kept, over which requests are made.
struct Open {
    child: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

/// Asks for each path that it reads, and writes the answer's code.
const ASKING: &str = "
import http.client, ssl, sys
connection = http.client.HTTPSConnection(sys.argv[1], int(sys.argv[2]), context=ssl._create_unverified_context(), timeout=20)
connection.connect()
known = connection.sock
for path in sys.stdin:
    connection.request('GET', path.strip())
    answer = connection.getresponse()
    answer.read()
    print(answer.status if connection.sock is known else 'another connection', flush=True)
";

impl Open {
    fn connect(machine: &Machine) -> Self {
        let mut command = machine.outside().namespace().in_network("python3");
        command.args(["-c", ASKING, ADDRESS, port()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is a prerequisite");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, answers }
    }

    fn ask(&mut self, path: &str) -> String {
        writeln!(self.child.stdin.as_mut().expect("it was piped"), "{path}").expect("it reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line.trim().to_owned()
    }

    /// The bus tells of changes when it does.
    fn ask_until(&mut self, path: &str, expected: &str) {
        let answer = (0..200).map(|_| {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            self.ask(path)
        });
        let mut last = String::new();
        let found = answer.inspect(|code| last.clone_from(code)).any(|code| code == expected);
        assert!(found, "{path}: {last} instead of {expected}");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
