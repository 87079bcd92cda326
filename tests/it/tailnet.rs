use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Command;

use end_to_end::document::{Document, NAME as DEPLOYMENT};
use end_to_end::images::SHELL;
use end_to_end::machine::{LISTEN, Machine, SERVICE_CIDR};
use end_to_end::outside;
use end_to_end::paths::project;
use end_to_end::registry::MIRROR;
use end_to_end::run::{output_of, run};
use end_to_end::tailnet::{ADDRESS, ADDRESSES, DOMAIN, Daemon, NAME};
use serde_json::{Value, json};

/// The address that the tailnet gives `svc:web`.
const WEB: &str = "100.100.0.1";

/// A machine on the tailnet whose engine runs; the other network's clients are on the tailnet too.
fn up(machine: &Machine) -> Daemon<'_> {
    let daemon = Daemon::start(machine);
    output_of(&mut start(machine, &daemon));
    let mut route = machine.outside().namespace().in_network("ip");
    output_of(route.args(["route", "add", ADDRESSES, "via", outside::MACHINE]));
    daemon
}

fn start(machine: &Machine, daemon: &Daemon<'_>) -> Command {
    let mut command = machine.segue("up");
    command.args(["--detach", "--access-log", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR]);
    command.arg("--tailscale-socket").arg(daemon.socket());
    command
}

fn expose(machine: &Machine, hostname: &str) {
    let annotations = format!("tailscale.com/expose=true tailscale.com/hostname={hostname} --overwrite");
    machine.kubectl().run(&format!("annotate service {DEPLOYMENT} -n production {annotations}"));
}

fn wait_for_reason(machine: &Machine, reason: &str) {
    wait_for_reason_of(machine, &format!("{DEPLOYMENT} -n production"), reason);
}

fn wait_for_reason_of(machine: &Machine, service: &str, reason: &str) {
    let condition = ".status.conditions[?(@.type==\"TailscaleProxyReady\")].reason";
    machine.kubectl().wait_for(&format!("service/{service}"), condition, reason);
}

/// What somebody else serves, with a field that nobody knows.
fn theirs() -> Value {
    json!({"TCP": {"22": {"TCPForward": "127.0.0.1:22", "Later": 1}}, "AllowFunnel": {}})
}

/// What is answered on the tailnet, where the machine's name is known.
fn answer(machine: &Machine, url: &str, more: &[&str]) -> String {
    let mut curl = machine.outside().namespace().in_network("curl");
    curl.args(["--connect-to", &format!("{NAME}::{ADDRESS}:")]);
    output_of(curl.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "20"]).args(more).arg(url))
}

#[test]
fn whatever_becomes_of_the_daemon_and_the_engine_the_service_is_found_again() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    daemon.change(|tailnet| {
        tailnet["node"]["tags"] = json!(["tag:segue"]);
        tailnet["approved"] = json!({"svc:web": [WEB], "svc:other": ["100.100.0.2"]});
    });
    daemon.serve(|config| *config = theirs());
    daemon.change(|tailnet| tailnet["overtaken"] = json!(5));
    let _document = Document::deployed(&machine, "v1");
    let at_web = || answer(&machine, &format!("http://{WEB}/"), &["--header", &format!("Host: web.{DOMAIN}")]);

    // Others write at the same time; what they write stays.
    expose(&machine, "web");
    wait_for_reason(&machine, "Exposed");
    let config = daemon.serve_config();
    assert!(config["TCP"].get("22").is_some() && config["TCP"].get("9999").is_some(), "{config:#}");
    assert!(at_web().contains("v1"));

    daemon.kill();
    wait_for_reason(&machine, "DaemonFailed");
    daemon.start_again();
    wait_for_reason(&machine, "Exposed");
    daemon.change(|tailnet| tailnet["state"] = json!("NeedsLogin"));
    wait_for_reason(&machine, "DaemonNotRunning");
    daemon.change(|tailnet| tailnet["state"] = json!("Running"));
    wait_for_reason(&machine, "Exposed");
    daemon.change(|tailnet| {
        tailnet["overtaken"] = json!(0);
        tailnet["domain"] = json!("renamed.ts.net");
    });
    daemon
        .wait_for("the new name", |config| config["Services"]["svc:web"]["Web"].get("web.renamed.ts.net:80").is_some());
    daemon.change(|tailnet| tailnet["domain"] = json!(DOMAIN));
    daemon.wait_for("the old name", |config| {
        config["Services"]["svc:web"]["Web"].get(format!("web.{DOMAIN}:80")).is_some()
    });

    // An engine dies at any moment of a change.
    for (round, hostname) in ["other", "web", "other", "web"].into_iter().enumerate() {
        expose(&machine, hostname);
        output_of(machine.namespace().command("sleep").arg(format!("0.{:02}", 4 * round + 8)));
        machine.kill_engine();
        output_of(&mut start(&machine, &daemon));
        daemon.wait_for("the offer", |_| daemon.advertised() == json!([format!("svc:{hostname}")]));
        let config =
            daemon.wait_for("one of ours", |config| config["Services"].as_object().is_some_and(|all| all.len() == 1));
        assert!(config["Services"].get(format!("svc:{hostname}")).is_some(), "{config:#}");
    }
    wait_for_reason(&machine, "Exposed");
    assert!(at_web().contains("v1"));

    // The user takes everything away: it is noticed, and ours is there again.
    daemon.serve(|config| *config = theirs());
    daemon.wait_for("ours again", |config| config["Services"].get("svc:web").is_some());
    machine.kubectl().run(&format!("delete service {DEPLOYMENT} -n production"));
    daemon.wait_for("nothing of ours", |config| *config == theirs());

    // Whoever goes takes its entries along, and nobody else's.
    machine.kubectl().run(&format!("apply -k {}", project("demo/overlay").display()));
    expose(&machine, "web");
    daemon.wait_for("ours once more", |config| config["Services"].get("svc:web").is_some());
    machine.down();
    assert_eq!((daemon.serve_config(), daemon.advertised()), (theirs(), json!([])));
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
    wait_for_reason(&machine, "NodeIsUntagged");
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
    output_of(&mut start(&machine, &daemon));
    document.roll_to("v1");
    assert_eq!(daemon.told().len(), told, "{:?}", daemon.told());
    assert!(answer(&machine, &format!("https://{own}/"), &["--resolve", &resolved]).contains("v1"));

    // What goes is gone, and what others have is as it was.
    // Of two that want one name the older has it, until it goes.
    let second = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}, "metadata": {
        "name": "second", "annotations": {"tailscale.com/expose": "true", "tailscale.com/hostname": "web"}}});
    let config = daemon.serve_config();
    machine.kubectl().apply(&second.to_string());
    wait_for_reason_of(&machine, "second", "NameTaken");
    assert_eq!(daemon.serve_config()["Services"], config["Services"]);
    machine.kubectl().run(&format!("annotate service {DEPLOYMENT} -n production tailscale.com/expose-"));
    wait_for_reason_of(&machine, "second", "Exposed");
    assert!(daemon.serve_config()["Services"].get("svc:web").is_some_and(|web| *web != config["Services"]["svc:web"]));
    machine.kubectl().run("delete service second");
    daemon.wait_for("nothing of ours", |config| *config == theirs());
    assert_eq!(daemon.advertised(), json!([]));
    machine.down();
}

/// Says what it was asked, and answers anything; now and then there is nobody for a moment.
pub(crate) const LISTENER: &str = r#"
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
    let said = answered(&format!("http://{NAME}/tailnet"));
    assert!(said.contains("tailscale-user-login: bob@example.com"), "{said}");
    assert!(said.contains(&format!("x-forwarded-for: {}", outside::CLIENT)), "{said}");
    for url in [format!("http://{NAME}:7000/raw"), format!("http://{service}/cluster")] {
        let said = answered(&url);
        assert!(said.contains(&format!("x-forwarded-for: {}", outside::CLIENT)), "{said}");
        assert!(!said.contains("tailscale-"), "{said}");
    }
    let [_, second, third, fourth] = service.octets();
    let front = format!("http://127.{second}.{third}.{fourth}/front");
    let mut stranger = machine.namespace().command("setpriv");
    stranger.args(["--reuid", "65534", "--clear-groups", "curl", "--silent", "--show-error", "--max-time", "5"]);
    let refused = run(stranger.arg(front), "");
    assert!(
        !refused.success && !kubectl.run("logs listener").contains("/front"),
        "{}{}",
        refused.stdout,
        refused.stderr
    );
    // However a request begins, it does not pass as the bytes of nobody.
    answered(&format!("http://{NAME}/{}", "x".repeat(20_000)));
    let log = std::fs::read_to_string(machine.data_dir().join("access.log")).expect("it is on");
    assert!(log.contains("xxxx"), "{log}");
    let line = log.lines().find(|line| line.contains("/tailnet")).expect("a line a request");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["user"], &line["client"]), (&json!("bob@example.com"), &json!(outside::CLIENT)));
    // A port that turns from bytes to HTTP, which the daemon refuses in one step.
    let turns =
        r#"patch service listener --type=json -p=[{"op":"replace","path":"/spec/ports/1/name","value":"http-more"}]"#;
    kubectl.run(turns);
    daemon.wait_for("HTTP at 7000", |config| config["TCP"]["7000"]["HTTP"] == true);
    assert!(answered(&format!("http://{NAME}:7000/more")).contains("tailscale-user-login: bob@example.com"));
    kubectl.run("delete service/listener pod/listener");
    daemon.wait_for("nothing of ours", Value::is_null);
    machine.down();
}

const SITE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: deep}
spec: {selector: {app: listener}, ports: [{name: http, port: 8081, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: site
  annotations: {tailscale.com/http-redirect: "true"}
spec:
  ingressClassName: tailscale
  tls: [{hosts: [web]}]
  rules:
  - http:
      paths: [{path: /deep, pathType: Prefix, backend: {service: {name: deep, port: {name: http}}}}]
  defaultBackend: {service: {name: listener, port: {number: 80}}}
"#;

#[test]
fn an_ingress_has_a_name_on_the_tailnet_and_leads_paths_to_services() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    daemon.change(|tailnet| {
        tailnet["node"]["tags"] = json!(["tag:segue"]);
        tailnet["approved"] = json!({"svc:web": [WEB]});
        tailnet["peers"] = json!([{"name": "laptop", "addresses": [outside::CLIENT], "login": "bob@example.com"}]);
    });
    let kubectl = machine.kubectl();
    kubectl
        .apply(&LISTENER.replace("SHELL", SHELL).replace("  type: LoadBalancer\n  loadBalancerClass: tailscale\n", ""));
    kubectl.apply(SITE);
    kubectl.run("wait pod/listener --for=condition=Ready --timeout=60s");
    let own = format!("web.{DOMAIN}");
    kubectl.wait_for("ingress/site", ".status.loadBalancer.ingress[0].hostname", &own);
    let shown = kubectl.run("get ingress site");
    assert!(shown.contains("tailscale") && shown.contains(&own), "{shown}");
    assert!(kubectl.run("get ingressclass tailscale").contains("tailscale.com/ts-ingress"));
    assert!(kubectl.run("describe ingress site").contains("Exposed"));

    let to_web = format!("{own}::{WEB}:");
    let more =
        ["--connect-to", &to_web, "--retry", "5", "--retry-all-errors", "--header", "Tailscale_User_Login: root"];
    let asked = |path: &str| {
        let before = kubectl.run("logs listener").len();
        assert_eq!(answer(&machine, &format!("https://{own}{path}"), &more), "ok");
        kubectl.run("logs listener")[before..].to_lowercase()
    };
    let said = asked("/deep/er?x=1");
    assert!(said.contains("get /deep/er?x=1 ") && said.contains("tailscale-user-login: bob@example.com"), "{said}");
    assert!(!said.contains("tailscale_user"), "{said}");
    assert!(asked("/other").contains("get /other "));
    let redirected = ["--connect-to", &to_web, "--write-out", "%{http_code} %{redirect_url}"];
    assert_eq!(answer(&machine, &format!("http://{own}/x?y"), &redirected), format!("301 https://{own}/x?y"));

    // On the Internet it is at the machine's name, where the tailnet allows it.
    kubectl.run("annotate ingress site tailscale.com/funnel=true");
    kubectl.wait_for("ingress/site", ".status.loadBalancer.ingress[0].hostname", NAME);
    assert_eq!(daemon.serve_config().get("AllowFunnel"), None);
    daemon.change(|tailnet| tailnet["may_funnel"] = json!(true));
    let funnelled = |config: &Value| config["AllowFunnel"] == json!({format!("{NAME}:443"): true});
    daemon.wait_for("the Internet", funnelled);
    let events = kubectl.run("events --for ingress/site");
    assert!(events.contains("FunnelNotAllowed"), "{events}");
    kubectl.run("delete ingress site");
    daemon.wait_for("nothing of ours", Value::is_null);
    machine.down();
}

const OUTWARD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: shell, image: SHELL, args: [-c, 'sleep 1000']}]
---
apiVersion: v1
kind: Service
metadata: {name: db, annotations: {tailscale.com/tailnet-fqdn: db.example.ts.net}}
spec: {type: ExternalName, externalName: placeholder}
---
apiVersion: v1
kind: Service
metadata: {name: printer, annotations: {tailscale.com/tailnet-ip: 100.64.0.77}}
spec: {type: ExternalName, externalName: placeholder}
"#;

#[test]
fn a_pod_finds_machines_of_the_tailnet_by_the_names_of_services() {
    let machine = Machine::without_engine();
    let mut daemon = up(&machine);
    let kubectl = machine.kubectl();
    kubectl.apply(&OUTWARD.replace("SHELL", SHELL));
    let reason = |name: &str, reason: &str| wait_for_reason_of(&machine, name, reason);
    reason("db", "TargetNotFound");
    reason("printer", "TargetFound");
    kubectl.run("create service externalname short --external-name=placeholder");
    kubectl.run("annotate service short tailscale.com/tailnet-fqdn=db");
    reason("short", "CannotExpose");
    assert!(kubectl.run("events --for service/short").contains("a machine's name in full"));
    kubectl.run("wait pod/asker --for=condition=Ready --timeout=60s");
    let addresses = |name: &str| {
        let full = format!("{name}.default.svc.cluster.local");
        // It fails for want of addresses of one kind.
        run(kubectl.command().args(["exec", "asker", "--", "busybox", "nslookup", &full]), "").stdout
    };
    let printer = addresses("printer");
    assert!(printer.contains("100.64.0.77"), "{printer}");

    let at = |address: &str| json!([{"name": "db", "addresses": [address], "login": "ann@example.com"}]);
    daemon.change(|tailnet| tailnet["peers"] = at(outside::CLIENT));
    reason("db", "TargetFound");
    let listener = machine.outside().namespace().listen(&format!("{}:9000", outside::CLIENT));
    let answering =
        std::thread::spawn(move || listener.accept().and_then(|(mut client, _)| client.write_all(b"from afar")));
    assert_eq!(kubectl.run("exec asker -- busybox nc db 9000"), "from afar");
    answering.join().expect("it does not panic").expect("it answers");

    // Another engine comes, and names don't go for a moment.
    machine.kill_engine();
    output_of(&mut start(&machine, &daemon));
    assert!(addresses("db").contains(outside::CLIENT));
    daemon.change(|tailnet| tailnet["peers"] = at("100.64.0.9"));
    daemon.wait_for("the new address", |_| addresses("db").contains("100.64.0.9"));
    daemon.change(|tailnet| tailnet["peers"] = json!([]));
    reason("db", "TargetNotFound");
    assert!(!addresses("db").contains("100.64"));
    machine.down();
}

#[test]
fn a_service_that_can_not_be_on_the_tailnet_says_why() {
    let machine = Machine::without_engine();
    let socket = machine.directory().join("tailscaled.sock");
    let mut command = machine.segue("up");
    command
        .args(["--detach", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR])
        .arg("--tailscale-socket")
        .arg(socket);
    output_of(&mut command);
    let kubectl = machine.kubectl();
    for name in ["first", "second", "misnamed"] {
        kubectl.run(&format!("create service clusterip {name} --tcp=8080"));
        kubectl.run(&format!("annotate service {name} tailscale.com/expose=true tailscale.com/hostname=web"));
    }
    kubectl.run("annotate service misnamed tailscale.com/hostname=Web --overwrite");
    kubectl.run("create service clusterip headless --clusterip=None");
    kubectl.run("annotate service headless tailscale.com/expose=true");
    let reason = |name: &str, reason: &str| wait_for_reason_of(&machine, name, reason);
    reason("first", "NoDaemon");
    reason("misnamed", "CannotExpose");
    reason("headless", "CannotExpose");
    let log = std::fs::read_to_string(machine.data_dir().join("engine.log")).expect("an engine writes one");
    assert_eq!(log.matches("daemon is not running here").count(), 1, "{log}");

    let mut daemon = Daemon::start(&machine);
    reason("first", "NodeIsUntagged");
    daemon.change(|tailnet| {
        tailnet["node"]["tags"] = json!(["tag:segue"]);
        tailnet["approved"] = json!({"svc:web": [WEB]});
    });
    reason("first", "Exposed");
    reason("second", "NameTaken");
    daemon.change(|tailnet| tailnet["version"] = json!("1.90.1"));
    reason("first", "DaemonTooOld");
    machine.down();
}
