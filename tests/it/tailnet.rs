use std::net::Ipv4Addr;

use end_to_end::document::{Document, NAME as DEPLOYMENT};
use end_to_end::images::SHELL;
use end_to_end::machine::{LISTEN, Machine, SERVICE_CIDR};
use end_to_end::outside;
use end_to_end::registry::MIRROR;
use end_to_end::run::{output_of, run};
use end_to_end::tailnet::{ADDRESS, ADDRESSES, DOMAIN, Daemon, NAME};
use serde_json::{Value, json};

/// The address that the tailnet gives `svc:web`.
const WEB: &str = "100.100.0.1";

/// A machine on the tailnet whose engine runs; the other network's clients are on the tailnet too.
fn up(machine: &Machine) -> Daemon<'_> {
    let daemon = Daemon::start(machine);
    let options = ["--detach", "--access-log", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR];
    output_of(machine.segue("up").args(options).arg("--tailscale-socket").arg(daemon.socket()));
    let mut route = machine.outside().namespace().in_network("ip");
    output_of(route.args(["route", "add", ADDRESSES, "via", outside::MACHINE]));
    daemon
}

fn expose(machine: &Machine, hostname: &str) {
    let annotations = format!("tailscale.com/expose=true tailscale.com/hostname={hostname} --overwrite");
    machine.kubectl().run(&format!("annotate service {DEPLOYMENT} -n production {annotations}"));
}

/// What somebody else serves, with a field that nobody knows.
fn theirs() -> Value {
    json!({"TCP": {"22": {"TCPForward": "127.0.0.1:22", "Later": 1}}, "AllowFunnel": {}})
}

fn reason(machine: &Machine) -> String {
    let service = machine.kubectl().json(&format!("get service {DEPLOYMENT} -n production"));
    service["status"]["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

fn answer(machine: &Machine, url: &str, more: &[&str]) -> String {
    let mut curl = machine.outside().namespace().in_network("curl");
    output_of(curl.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "20"]).args(more).arg(url))
}

#[test]
fn a_service_has_a_name_on_the_tailnet_and_nobody_elses_entries_change() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    daemon.serve(|config| *config = theirs());
    let document = Document::deployed(&machine, "v1");

    // Without a tag it is at the machine's own name.
    expose(&machine, "web");
    let config = daemon.wait_for("ports of the machine", |config| config["TCP"].get("443").is_some());
    assert_eq!(config["TCP"]["22"], theirs()["TCP"]["22"]);
    assert_eq!(config.get("Services"), None);
    machine.kubectl().wait_for(&format!("service/{DEPLOYMENT} -n production"), ".status.conditions[0].status", "True");
    assert_eq!(reason(&machine), "NodeIsUntagged");
    assert!(machine.kubectl().run("get events -n production").contains("tailscale up --advertise-tags"));
    let resolved = format!("{NAME}:443:{ADDRESS}");
    assert!(answer(&machine, &format!("https://{NAME}/"), &["--resolve", &resolved]).contains("v1"));

    // With a tag, and once it is approved, it has its own.
    daemon.change(|tailnet| tailnet["node"]["tags"] = json!(["tag:segue"]));
    daemon.wait_for("an offer", |_| daemon.advertised() == json!(["svc:web"]));
    daemon.change(|tailnet| tailnet["approved"] = json!({"svc:web": [WEB]}));
    let config = daemon.wait_for("no ports of the machine", |config| config["TCP"].get("443").is_none());
    let (own, resolved) = (format!("web.{DOMAIN}"), format!("web.{DOMAIN}:443:{WEB}"));
    assert!(config["Services"]["svc:web"]["Web"].get(format!("{own}:443")).is_some(), "{config:#}");
    assert!(answer(&machine, &format!("https://{own}/"), &["--resolve", &resolved]).contains("v1"));

    // Deployments and engines come and go; the daemon is told nothing.
    let told = daemon.told().len();
    document.roll_to("v2");
    machine.kill_engine();
    let socket = daemon.socket();
    assert!(machine.try_up(&["--tailscale-socket", socket.to_str().expect("our own path")]).success);
    document.roll_to("v1");
    assert_eq!(daemon.told().len(), told, "{:?}", daemon.told());
    assert!(answer(&machine, &format!("https://{own}/"), &["--resolve", &resolved]).contains("v1"));

    // What goes is gone, and what others have is as it was.
    machine.kubectl().run(&format!("annotate service {DEPLOYMENT} -n production tailscale.com/expose-"));
    daemon.wait_for("nothing of ours", |config| *config == theirs());
    assert_eq!(daemon.advertised(), json!([]));
    machine.down();
}

/// Says what it was asked, and answers anything; now and then there is nobody for a moment.
const LISTENER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: listener, labels: {app: listener}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: SHELL
    args: [-c, 'while true; do printf "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok" | nc -l -p 8080; echo; done']
---
apiVersion: v1
kind: Service
metadata: {name: listener}
spec:
  type: LoadBalancer
  loadBalancerClass: tailscale
  selector: {app: listener}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: raw, port: 7000, targetPort: 8080}]
"#;

#[test]
fn an_app_learns_who_calls_from_the_tailnet_alone() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    daemon.change(|tailnet| {
        tailnet["peers"] = json!([{"name": "laptop", "addresses": [outside::CLIENT], "login": "bob@example.com"}]);
    });
    let kubectl = machine.kubectl();
    kubectl.apply(&LISTENER.replace("SHELL", SHELL));
    kubectl.run("wait pod/listener --for=condition=Ready --timeout=60s");
    kubectl.wait_for("service/listener", ".status.loadBalancer.ingress[0].hostname", NAME);
    let shown = kubectl.run("get service listener");
    assert!(shown.contains(NAME), "{shown}");

    let forged = [
        "--retry",
        "5",
        "--retry-all-errors",
        "--header",
        "Tailscale-User-Login: root@example.com",
        "--header",
        "X-Forwarded-For: 203.0.113.9",
    ];
    let service = kubectl.run("get service listener -o jsonpath={.spec.clusterIP}");
    let service: Ipv4Addr = service.parse().expect("an address");
    let answered = |url: &str| {
        let before = kubectl.run("logs listener").len();
        assert_eq!(answer(&machine, url, &forged), "ok");
        let said = kubectl.run("logs listener")[before..].to_lowercase();
        assert!(!said.contains("root@example.com") && !said.contains("203.0.113.9"), "{said}");
        said
    };
    let said = answered(&format!("http://{ADDRESS}/tailnet"));
    assert!(said.contains("tailscale-user-login: bob@example.com"), "{said}");
    assert!(said.contains(&format!("x-forwarded-for: {}", outside::CLIENT)), "{said}");
    for url in [format!("http://{ADDRESS}:7000/raw"), format!("http://{service}/cluster")] {
        let said = answered(&url);
        assert!(said.contains(&format!("x-forwarded-for: {}", outside::CLIENT)), "{said}");
        assert!(!said.contains("tailscale-"), "{said}");
    }
    let [_, second, third, fourth] = service.octets();
    let front = format!("http://127.{second}.{third}.{fourth}/front");
    let mut stranger = machine.namespace().command("setpriv");
    stranger.args(["--reuid", "65534", "--clear-groups", "curl", "--silent", "--show-error", "--max-time", "5"]);
    let refused = run(stranger.arg(front), "");
    assert!(!refused.success && refused.stderr.contains("reset"), "{}{}", refused.stdout, refused.stderr);
    let log = std::fs::read_to_string(machine.data_dir().join("access.log")).expect("it is on");
    let line = log.lines().find(|line| line.contains("/tailnet")).expect("a line a request");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["user"], &line["client"]), (&json!("bob@example.com"), &json!(outside::CLIENT)));
    kubectl.run("delete service/listener pod/listener");
    daemon.wait_for("nothing of ours", Value::is_null);
    machine.down();
}
