//! Several machines on one tailnet: each with a network of its own, a router between them that can cut them off from each
//! other, and a stand-in for Tailscale's daemon on each that knows the others.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::document::{Document, NAME as SERVICE};
use crate::machine::{LISTEN, Machine, SERVICE_CIDR};
use crate::namespace::Namespace;
use crate::paths::project;
use crate::registry::MIRROR;
use crate::run::output_of;
use crate::tailnet::{ADDRESSES, DOMAIN, Daemon};

/// What machines of the mesh have.
pub const TAG: &str = "tag:segue";

/// Longer than anything but a hang takes.
const LIMIT: Duration = Duration::from_secs(60);
/// The routing table that leads to the relay.
const DELAYED: u8 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// The network between machines, and how many there are.
#[derive(Debug)]
pub struct Router(Namespace, usize);

/// The network is slow until this is dropped.
#[derive(Debug)]
pub struct Slow(Child);

/// The name of the machine of this number on the tailnet, without the domain.
#[must_use]
pub fn host(number: usize) -> String {
    format!("m{number}")
}

/// The same with the domain.
#[must_use]
pub fn name(number: usize) -> String {
    format!("{}.{DOMAIN}", host(number))
}

/// The address of the machine of this number.
#[must_use]
pub fn address(number: usize) -> String {
    format!("100.64.0.{}", number + 1)
}

impl Router {
    /// Between these machines, whose numbers are their places.
    #[must_use]
    pub fn between(machines: &[Machine]) -> Self {
        let router = Namespace::network();
        for setting in ["ip_forward=1", "conf.all.rp_filter=0", "conf.default.rp_filter=0"] {
            run(&router, format!("sysctl -q -w net.ipv4.{setting}"));
        }
        let peer = router.first_process();
        for (number, machine) in machines.iter().enumerate() {
            let (link, own) = (host(number), address(number));
            run(machine.namespace(), format!("ip link add tailnet type veth peer name {link} netns {peer}"));
            run(machine.namespace(), format!("ip address add {own}/32 dev tailnet"));
            run(machine.namespace(), "ip link set tailnet up".to_owned());
            run(&router, format!("ip link set {link} up"));
            run(&router, format!("sysctl -q -w net.ipv4.conf.{link}.proxy_arp=1"));
            run(&router, format!("ip route add {own}/32 dev {link}"));
            run(machine.namespace(), format!("ip route add {ADDRESSES} dev tailnet src {own}"));
        }
        let router = Self(router, machines.len());
        router.nft("add table inet cuts; add chain inet cuts forward { type filter hook forward priority 0; }");
        router
    }

    /// Nothing passes between two machines any more.
    pub fn cut(&self, one: usize, other: usize) {
        let [one, other] = [address(one), address(other)];
        let rule = |from: &str, to: &str| format!("add rule inet cuts forward ip saddr {from} ip daddr {to} drop");
        self.nft(&format!("{}; {}", rule(&one, &other), rule(&other, &one)));
    }

    /// So many of a hundred packets between any two machines are lost.
    pub fn lose(&self, of_a_hundred: u8) {
        self.nft(&format!("add rule inet cuts forward numgen random mod 100 < {of_a_hundred} drop"));
    }

    /// Every packet takes longer by so much.
    #[must_use]
    pub fn delay(&self, by: Duration) -> Slow {
        let mut relay = self.0.in_network_unlimited("python3");
        relay.arg(project("tests/src/delay.py")).args(["delay", &by.as_millis().to_string()]);
        let mut relay = relay.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
        let mut line = String::new();
        let stdout = relay.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        assert_eq!(line, "ready\n");
        run(&self.0, "ip link set delay up".to_owned());
        run(&self.0, format!("ip route add {ADDRESSES} dev delay table {DELAYED}"));
        for link in (0..self.1).map(host) {
            run(&self.0, format!("ip rule add iif {link} lookup {DELAYED}"));
        }
        Slow(relay)
    }

    /// Everything passes.
    pub fn mend(&self) {
        self.nft("flush chain inet cuts forward");
    }

    fn nft(&self, rules: &str) {
        output_of(self.0.in_network("nft").arg(rules));
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Its device goes with it, and so do the routes.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn run(namespace: &Namespace, command: String) {
    let mut words = command.split(' ');
    let mut command = namespace.in_network(words.next().expect("a command"));
    output_of(command.args(words));
}

/// A daemon for each machine that knows all others.
#[must_use]
pub fn daemons(machines: &[Machine]) -> Vec<Daemon<'_>> {
    let node = |number: usize| json!({"name": host(number), "addresses": [address(number)], "tags": [TAG]});
    let tailnet = |number: usize| {
        let peers: Vec<Value> = (0..machines.len()).filter(|other| *other != number).map(node).collect();
        json!({"domain": DOMAIN, "has_certificates": true, "node": node(number), "peers": peers})
    };
    machines.iter().enumerate().map(|(number, machine)| Daemon::start_in(machine, tailnet(number))).collect()
}

/// `segue up --mesh`, which must succeed.
pub fn up(machine: &Machine, daemon: &Daemon<'_>) {
    let mut command = machine.segue("up");
    command.args(["--detach", "--listen", LISTEN, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR]);
    output_of(command.arg("--tailscale-socket").arg(daemon.socket()).arg("--mesh"));
}

/// How a machine sees the mesh.
#[must_use]
pub fn seen(machine: &Machine) -> Value {
    let said = output_of(machine.segue("mesh").args(["--output", "json"]));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Waits until a machine sees the mesh so.
pub fn wait_for(machine: &Machine, what: &str, is_so: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let seen = seen(machine);
        if is_so(&seen) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{what}: {seen:#}");
        thread::park_timeout(PAUSE);
    }
}

/// How a machine that sees the mesh so thinks of another one.
#[must_use]
pub fn standing(seen: &Value, number: usize) -> &str {
    let machines = seen["machines"].as_array().expect("a list");
    let machine = machines.iter().find(|machine| machine["name"] == name(number));
    machine.and_then(|machine| machine["standing"].as_str()).unwrap_or("unknown")
}

/// Ready pods of the document's Service on another machine.
#[must_use]
pub fn ready(seen: &Value, number: usize) -> u64 {
    let machines = seen["machines"].as_array().expect("a list");
    let machine = machines.iter().find(|machine| machine["name"] == name(number)).expect("it is in the mesh");
    machine["said"]["services"][format!("production/{SERVICE}")][0]["ready"].as_u64().unwrap_or_default()
}

/// The document's app on every machine, with one Service for all, once each has heard of all pods of the others.
#[must_use]
pub fn deployed<'m>(machines: &'m [Machine], daemons: &[Daemon<'m>]) -> Vec<Document<'m>> {
    let deployed = machines.iter().zip(daemons).map(|(machine, daemon)| {
        up(machine, daemon);
        let document = Document::deployed(machine, "v1");
        machine.kubectl().run(&format!("annotate service {SERVICE} -n production segue.dev/mesh=true"));
        document
    });
    let deployed = deployed.collect();
    all_know_each_other(machines);
    deployed
}

/// Waits until each of the machines has heard of all pods of the others.
pub fn all_know_each_other(machines: &[Machine]) {
    for (number, machine) in machines.iter().enumerate() {
        let others = || (0..machines.len()).filter(move |other| *other != number);
        wait_for(machine, "all machines", |seen| {
            others().all(|other| standing(seen, other) == "ready" && ready(seen, other) == 3)
        });
    }
}
