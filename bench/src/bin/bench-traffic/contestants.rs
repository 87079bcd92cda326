//! Who is compared: Segue and the reverse proxies that a user would take instead, each with one worker on the first
//! core, in front of the same backends. The backends and the clients share the second core.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use end_to_end::machine::Machine;
use end_to_end::paths::{built, tool};
use end_to_end::processes::{self, Process};
use end_to_end::run::output_of;

/// For documentation (RFC 5737). Not loopback: an EndpointSlice must not name a loopback address.
const HOST: &str = "198.51.100.1";
const BACKEND_PORTS: [u16; 3] = [9001, 9002, 9003];
pub(crate) const PROXY_CORE: &str = "0";
pub(crate) const CLIENT_CORE: &str = "1";
/// Those that speak HTTP/2, and gRPC over it.
const GRPC_BACKEND_PORTS: [u16; 3] = [9101, 9102, 9103];
const BODY: &str = "hello from a backend";

/// What takes requests, and which processes spend time on them.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where it speaks HTTP/2, to backends of HTTP/1.1.
    pub(crate) http2: SocketAddr,
    /// Where it speaks HTTP/2, to backends of gRPC.
    pub(crate) grpc: SocketAddr,
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
    _children: Vec<Ended>,
}

impl Backends {
    pub(crate) fn start(machine: &Machine) -> Backends {
        output_of(machine.namespace().command("ip").args(["address", "add", &format!("{HOST}/32"), "dev", "lo"]));
        let servers = BACKEND_PORTS.map(|port| {
            format!("server {{ listen {HOST}:{port} backlog=4096; location / {{ return 200 \"{BODY}\"; }} }}")
        });
        let config = nginx_config(machine, "backends", &servers.join("\n"));
        let nginx = spawn(machine, CLIENT_CORE, "nginx", &["-c", &config, "-g", "daemon off;"]);
        let segue = built("segue");
        let apps = GRPC_BACKEND_PORTS.map(|port| {
            let settings = [format!("PORT={port}"), format!("METRICS_PORT={}", port + 100)];
            spawn(machine, CLIENT_CORE, &segue.to_string_lossy(), &["app", &settings[0], &settings[1]])
        });
        Backends { _children: apps.into_iter().chain([nginx]).collect() }
    }

    pub(crate) fn address() -> SocketAddr {
        at(BACKEND_PORTS[0])
    }
}

/// Everybody, started and answering.
pub(crate) fn start_all(machine: &Machine) -> Vec<Contestant> {
    let mut all = vec![ourselves(machine), nginx(machine), haproxy(machine), envoy(machine), caddy(machine)];
    for contestant in &mut all {
        wait_until_it_answers(machine, contestant.address);
        if contestant.processes.is_empty() {
            contestant.processes = of_program(machine, contestant.name);
        }
        assert!(!contestant.processes.is_empty(), "{} does not run", contestant.name);
    }
    all
}

/// Segue, its proxy on its own core.
pub(crate) fn ourselves(machine: &Machine) -> Contestant {
    let kubectl = machine.kubectl();
    kubectl.apply(&service("web", 1, BACKEND_PORTS));
    // Declared, so that clients of HTTP/2 are translated for the backends.
    kubectl.apply(&service("http", 1, BACKEND_PORTS));
    kubectl.apply(&service("grpc", 1, GRPC_BACKEND_PORTS));
    let keeper = processes::in_role(machine.namespace(), "keeper");
    let [keeper] = &keeper[..] else { panic!("one keeper runs, not {keeper:?}") };
    output_of(Command::new("taskset").args(["--cpu-list", "--pid", PROXY_CORE, &keeper.pid.to_string()]));
    // The keeper starts it again at once, on its own core.
    for proxy in processes::in_role(machine.namespace(), "proxy") {
        proxy.kill();
    }
    let [address, http2, grpc] = ["web-1", "http-1", "grpc-1"].map(|service| address_of(machine, service));
    wait_until_it_answers(machine, address);
    let processes = processes::in_role(machine.namespace(), "proxy");
    Contestant { name: "segue", address, http2, grpc, processes, _child: None }
}

pub(crate) fn address_of(machine: &Machine, service: &str) -> SocketAddr {
    let address = machine.kubectl().run(&format!("get service {service} -o jsonpath={{.spec.clusterIP}}"));
    SocketAddr::new(address.parse().expect("a Service has an address"), 80)
}

/// The 1,000th Service and its like, labelled `many`.
pub(crate) fn many(number: usize) -> String {
    service("many", number, BACKEND_PORTS)
}

/// A Service in front of backends, as `NAME-NUMBER`, with a port of this name, labelled with it.
fn service(name: &str, number: usize, backends: [u16; 3]) -> String {
    let slices = backends.map(|port| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{number}-{port}, \
             labels: {{kubernetes.io/service-name: {name}-{number}, bench: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: {name}, port: {port}}}]\nendpoints: [{{addresses: [{HOST}], conditions: {{ready: true}}}}]\n"
        )
    });
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}-{number}, labels: {{bench: {name}}}}}\nspec: {{ports: [{{name: {name}, port: 80}}]}}\n"
    );
    service + &slices.concat()
}

fn nginx(machine: &Machine) -> Contestant {
    let servers = |ports: [u16; 3]| ports.map(|port| format!("server {HOST}:{port}; ")).concat();
    let (servers, calls) = (servers(BACKEND_PORTS), servers(GRPC_BACKEND_PORTS));
    let proxy = format!(
        "upstream backends {{ least_conn; {servers} keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen {HOST}:8001 backlog=4096; listen {HOST}:8011 http2; location / {{ proxy_pass http://backends; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header X-Forwarded-For $remote_addr; }} }}\n\
         upstream calls {{ least_conn; {calls} keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen {HOST}:8021 http2; location / {{ grpc_pass grpc://calls; \
         grpc_set_header X-Forwarded-For $remote_addr; }} }}"
    );
    let config = nginx_config(machine, "proxy", &proxy);
    let child = spawn(machine, PROXY_CORE, "nginx", &["-c", &config, "-g", "daemon off;"]);
    Contestant {
        name: "nginx",
        address: at(8001),
        http2: at(8011),
        grpc: at(8021),
        processes: Vec::new(),
        _child: Some(child),
    }
}

fn haproxy(machine: &Machine) -> Contestant {
    let servers =
        |ports: [u16; 3], more: &str| ports.map(|port| format!("  server s{port} {HOST}:{port}{more}\n")).concat();
    let (servers, calls) = (servers(BACKEND_PORTS, ""), servers(GRPC_BACKEND_PORTS, " proto h2"));
    let config = write(
        machine,
        "haproxy.cfg",
        &format!(
            "global\n  nbthread 1\n  maxconn 9500\ndefaults\n  mode http\n  timeout client 120s\n  timeout server 120s\n  \
             timeout connect 5s\n  option forwardfor\nfrontend in\n  bind {HOST}:8002 backlog 4096\n  bind {HOST}:8012 proto h2\n  default_backend out\n\
             backend out\n  balance leastconn\n  http-reuse always\n{servers}\
             frontend calls\n  bind {HOST}:8022 proto h2\n  default_backend calls\n\
             backend calls\n  balance leastconn\n  http-reuse always\n{calls}"
        ),
    );
    let child = spawn(machine, PROXY_CORE, "haproxy", &["-db", "-f", &config]);
    Contestant {
        name: "haproxy",
        address: at(8002),
        http2: at(8012),
        grpc: at(8022),
        processes: Vec::new(),
        _child: Some(child),
    }
}

fn envoy(machine: &Machine) -> Contestant {
    let http2 = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
                 {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
                 explicit_http_config: {http2_protocol_options: {}}}}";
    let config = write(
        machine,
        "envoy.yaml",
        &format!(
            "static_resources:\n  listeners:\n{}{}  clusters:\n{}{}",
            envoy_listener(8003, "out"),
            envoy_listener(8023, "calls"),
            envoy_cluster("out", BACKEND_PORTS, ""),
            envoy_cluster("calls", GRPC_BACKEND_PORTS, &format!("    {http2}\n")),
        ),
    );
    let envoy = tool("envoy");
    let arguments =
        ["-c", &config, "--concurrency", "1", "--log-level", "error", "--base-id", "7", "--disable-hot-restart"];
    let child = spawn(machine, PROXY_CORE, &envoy.to_string_lossy(), &arguments);
    Contestant {
        name: "envoy",
        address: at(8003),
        http2: at(8003),
        grpc: at(8023),
        processes: Vec::new(),
        _child: Some(child),
    }
}

fn envoy_listener(port: u16, cluster: &str) -> String {
    format!(
        "  - address: {{socket_address: {{address: {HOST}, port_value: {port}}}}}\n    \
         filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        \
         typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: {cluster}\n          generate_request_id: false\n          http_filters: [{{name: envoy.filters.http.router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n          \
         route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: \"/\"}}, route: {{cluster: {cluster}}}}}]}}]}}\n"
    )
}

fn envoy_cluster(name: &str, ports: [u16; 3], more: &str) -> String {
    let endpoint =
        |port: u16| format!("{{endpoint: {{address: {{socket_address: {{address: {HOST}, port_value: {port}}}}}}}}}");
    format!(
        "  - name: {name}\n{more}    lb_policy: LEAST_REQUEST\n    \
         circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}\n    \
         load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}\n",
        ports.map(endpoint).join(", ")
    )
}

fn caddy(machine: &Machine) -> Contestant {
    let site = |port: u16, scheme: &str, backends: [u16; 3]| {
        let backends = backends.map(|backend| format!(" {scheme}{HOST}:{backend}")).concat();
        let versions = if scheme == "h2c://" { "versions h2c 2" } else { "" };
        format!(
            "http://{HOST}:{port} {{\n  reverse_proxy{backends} {{\n    lb_policy least_conn\n    \
             transport http {{\n      {versions}\n      keepalive_idle_conns_per_host 128\n    }}\n  }}\n}}\n"
        )
    };
    let config = write(
        machine,
        "Caddyfile",
        &format!(
            "{{\n  admin off\n  auto_https off\n  servers {{\n    protocols h1 h2 h2c\n  }}\n}}\n{}{}",
            site(8004, "", BACKEND_PORTS),
            site(8024, "h2c://", GRPC_BACKEND_PORTS)
        ),
    );
    let child = spawn(machine, PROXY_CORE, "caddy", &["run", "--config", &config, "--adapter", "caddyfile"]);
    Contestant {
        name: "caddy",
        address: at(8004),
        http2: at(8004),
        grpc: at(8024),
        processes: Vec::new(),
        _child: Some(child),
    }
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

pub(crate) fn wait_until_it_answers(machine: &Machine, address: SocketAddr) {
    let asks =
        format!("until busybox wget -q -O - http://{address}/ | grep -q '{BODY}'; do sleep 0.1; done 2>/dev/null");
    output_of(machine.namespace().command("bash").args(["-c", &asks]));
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(HOST.parse::<IpAddr>().expect("an address"), port)
}
