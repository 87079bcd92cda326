//! Who is compared: Segue and the reverse proxies that a user would take instead, each with one worker on the first
//! core, in front of the same backends. The backends and the clients share the second core.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use end_to_end::machine::Machine;
use end_to_end::paths::tool;
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;

/// For documentation (RFC 5737). Not loopback: an EndpointSlice must not name a loopback address.
const HOST: &str = "198.51.100.1";
const BACKEND_PORTS: [u16; 3] = [9001, 9002, 9003];
pub(crate) const PROXY_CORE: &str = "0";
pub(crate) const CLIENT_CORE: &str = "1";
const BODY: &str = "hello from a backend";

/// What takes requests, and which processes spend time on them.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where it speaks HTTP/2, to backends of HTTP/1.1.
    pub(crate) http2: SocketAddr,
    pub(crate) processes: Vec<Process>,
    /// None for Segue's.
    _child: Option<Ended>,
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // This ends only what entered the machine; the program itself ends with the machine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The backends, which end with their machine.
pub(crate) struct Backends {
    _child: Ended,
}

impl Backends {
    pub(crate) fn start(machine: &Machine) -> Backends {
        output_of(machine.namespace().command("ip").args(["address", "add", &format!("{HOST}/32"), "dev", "lo"]));
        let servers = BACKEND_PORTS.map(|port| {
            format!("server {{ listen {HOST}:{port} backlog=4096; location / {{ return 200 \"{BODY}\"; }} }}")
        });
        let config = nginx_config(machine, "backends", &servers.join("\n"));
        Backends { _child: spawn(machine, CLIENT_CORE, "nginx", &["-c", &config, "-g", "daemon off;"]) }
    }

    pub(crate) fn address() -> SocketAddr {
        at(BACKEND_PORTS[0])
    }
}

/// Everybody, started and answering.
pub(crate) fn start_all(machine: &Machine) -> Vec<Contestant> {
    let mut all = vec![segue(machine), nginx(machine), haproxy(machine), envoy(machine), caddy(machine)];
    for contestant in &mut all {
        wait_until_it_answers(machine, contestant.address);
        if contestant.processes.is_empty() {
            contestant.processes = of_program(machine, contestant.name);
        }
        assert!(!contestant.processes.is_empty(), "{} does not run", contestant.name);
    }
    all
}

fn segue(machine: &Machine) -> Contestant {
    let kubectl = machine.kubectl();
    kubectl.apply(&service("web", 1));
    // Declared, so that clients of HTTP/2 are translated for the backends.
    kubectl.apply(&service("http", 1));
    let keeper = processes::in_role(machine.namespace(), "keeper");
    let [keeper] = &keeper[..] else { panic!("one keeper runs, not {keeper:?}") };
    output_of(Command::new("taskset").args(["--cpu-list", "--pid", PROXY_CORE, &keeper.pid.to_string()]));
    // The keeper starts it again at once, on its own core.
    for proxy in processes::in_role(machine.namespace(), "proxy") {
        proxy.kill();
    }
    let [address, http2] = ["web-1", "http-1"].map(|service| {
        let address = kubectl.run(&format!("get service {service} -o jsonpath={{.spec.clusterIP}}"));
        SocketAddr::new(address.parse().expect("a Service has an address"), 80)
    });
    wait_until_it_answers(machine, address);
    let processes = processes::in_role(machine.namespace(), "proxy");
    Contestant { name: "segue", address, http2, processes, _child: None }
}

/// A Service in front of the backends, as `NAME-NUMBER`, with a port of this name.
pub(crate) fn service(name: &str, number: usize) -> String {
    let slices = BACKEND_PORTS.map(|port| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{number}-{port}, \
             labels: {{kubernetes.io/service-name: {name}-{number}}}}}\naddressType: IPv4\n\
             ports: [{{name: {name}, port: {port}}}]\nendpoints: [{{addresses: [{HOST}], conditions: {{ready: true}}}}]\n"
        )
    });
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}-{number}}}\nspec: {{ports: [{{name: {name}, port: 80}}]}}\n"
    );
    service + &slices.concat()
}

fn nginx(machine: &Machine) -> Contestant {
    let servers: String = BACKEND_PORTS.iter().map(|port| format!("server {HOST}:{port}; ")).collect();
    let proxy = format!(
        "upstream backends {{ least_conn; {servers} keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen {HOST}:8001 backlog=4096; listen {HOST}:8011 http2; location / {{ proxy_pass http://backends; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header X-Forwarded-For $remote_addr; }} }}"
    );
    let config = nginx_config(machine, "proxy", &proxy);
    let child = spawn(machine, PROXY_CORE, "nginx", &["-c", &config, "-g", "daemon off;"]);
    Contestant { name: "nginx", address: at(8001), http2: at(8011), processes: Vec::new(), _child: Some(child) }
}

fn haproxy(machine: &Machine) -> Contestant {
    let servers: String = BACKEND_PORTS.iter().map(|port| format!("  server s{port} {HOST}:{port}\n")).collect();
    let config = write(
        machine,
        "haproxy.cfg",
        &format!(
            "global\n  nbthread 1\n  maxconn 9500\ndefaults\n  mode http\n  timeout client 120s\n  timeout server 120s\n  \
             timeout connect 5s\n  option forwardfor\nfrontend in\n  bind {HOST}:8002 backlog 4096\n  bind {HOST}:8012 proto h2\n  default_backend out\n\
             backend out\n  balance leastconn\n  http-reuse always\n{servers}"
        ),
    );
    let child = spawn(machine, PROXY_CORE, "haproxy", &["-db", "-f", &config]);
    Contestant { name: "haproxy", address: at(8002), http2: at(8012), processes: Vec::new(), _child: Some(child) }
}

fn envoy(machine: &Machine) -> Contestant {
    let endpoint =
        |port: &u16| format!("{{endpoint: {{address: {{socket_address: {{address: {HOST}, port_value: {port}}}}}}}}}");
    let endpoints: Vec<String> = BACKEND_PORTS.iter().map(endpoint).collect();
    let config = write(
        machine,
        "envoy.yaml",
        &format!(
            "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: {HOST}, port_value: 8003}}}}\n    \
             filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        \
             typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
             stat_prefix: in\n          generate_request_id: false\n          http_filters: [{{name: envoy.filters.http.router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n          \
             route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: out}}}}]}}]}}\n  \
             clusters:\n  - name: out\n    lb_policy: LEAST_REQUEST\n    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}\n    \
             load_assignment: {{cluster_name: out, endpoints: [{{lb_endpoints: [{}]}}]}}\n",
            endpoints.join(", ")
        ),
    );
    let envoy = tool("envoy");
    let arguments =
        ["-c", &config, "--concurrency", "1", "--log-level", "error", "--base-id", "7", "--disable-hot-restart"];
    let child = spawn(machine, PROXY_CORE, &envoy.to_string_lossy(), &arguments);
    Contestant { name: "envoy", address: at(8003), http2: at(8003), processes: Vec::new(), _child: Some(child) }
}

fn caddy(machine: &Machine) -> Contestant {
    let backends: String = BACKEND_PORTS.iter().map(|port| format!(" {HOST}:{port}")).collect();
    let config = write(
        machine,
        "Caddyfile",
        &format!(
            "{{\n  admin off\n  auto_https off\n  servers {{\n    protocols h1 h2 h2c\n  }}\n}}\nhttp://{HOST}:8004 {{\n  reverse_proxy{backends} {{\n    lb_policy least_conn\n  \
             transport http {{\n keepalive_idle_conns_per_host 128\n }}\n  }}\n}}\n"
        ),
    );
    let child = spawn(machine, PROXY_CORE, "caddy", &["run", "--config", &config, "--adapter", "caddyfile"]);
    Contestant { name: "caddy", address: at(8004), http2: at(8004), processes: Vec::new(), _child: Some(child) }
}

fn nginx_config(machine: &Machine, name: &str, servers: &str) -> String {
    let directory = machine.directory().display();
    write(
        machine,
        &format!("nginx-{name}.conf"),
        &format!(
            "user root;\nworker_processes 1;\npid {directory}/nginx-{name}.pid;\nerror_log {directory}/nginx-{name}.log;\n\
             events {{ worker_connections 30000; }}\nhttp {{ access_log off; keepalive_requests 100000000;\n{servers}\n}}\n"
        ),
    )
}

fn write(machine: &Machine, name: &str, content: &str) -> String {
    let path: PathBuf = machine.directory().join(name);
    fs::write(&path, content).expect("the machine's directory can be written");
    path.to_string_lossy().into_owned()
}

fn spawn(machine: &Machine, core: &str, program: &str, arguments: &[&str]) -> Ended {
    let mut command = machine.namespace().unlimited("taskset");
    command.args(["--cpu-list", core, program]).args(arguments).env("HOME", machine.directory());
    let log = fs::File::create(machine.directory().join(format!("{core}-{}.out", arguments.len())));
    let log = log.expect("the machine's directory can be written");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    Ended(child.unwrap_or_else(|error| panic!("{program}: {error}; `bench/prerequisites` installs it")))
}

/// The processes of a contestant: those of its program that run on its core.
fn of_program(machine: &Machine, program: &str) -> Vec<Process> {
    let mut found = processes::of(machine.namespace());
    found.retain(|process| {
        process.executable.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program))
            && allowed_cores(process) == PROXY_CORE
    });
    found
}

fn allowed_cores(process: &Process) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap_or_default().trim().to_owned()
}

fn wait_until_it_answers(machine: &Machine, address: SocketAddr) {
    let asks =
        format!("until busybox wget -q -O - http://{address}/ | grep -q '{BODY}'; do sleep 0.1; done 2>/dev/null");
    output_of(machine.namespace().command("bash").args(["-c", &asks]));
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(HOST.parse::<IpAddr>().expect("an address"), port)
}
