//! Another network, from which clients reach the machine over a link, as they would from another host.

use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tools::load::{Plan, Report};
use tools::{datagrams, streams};

use crate::namespace::Namespace;
use crate::paths::built;
use crate::run::output_of;

/// The machine's address as the outside sees it.
pub const MACHINE: &str = "192.0.2.1";
/// The outside as the machine sees it.
pub const CLIENT: &str = "192.0.2.2";

/// Requests a second that the tests ask for at least.
const LEAST_RATE: f64 = 200.0;
/// The longest soak takes less.
const LONGEST_LOAD: Duration = Duration::from_hours(12);

/// A network namespace of its own, with a route to the Services of one machine.
#[derive(Debug)]
pub struct Outside(Namespace);

impl Outside {
    pub(crate) fn beside(machine: &Namespace, service_cidr: &str) -> Outside {
        let outside = Namespace::network();
        let peer = outside.first_process().to_string();
        let ip = |namespace: &Namespace, arguments: &str| {
            output_of(namespace.in_network("ip").args(arguments.split(' ')));
        };
        ip(machine, &format!("link add outside type veth peer name machine netns {peer}"));
        ip(machine, &format!("address add {MACHINE}/24 dev outside"));
        ip(machine, "link set outside up");
        ip(&outside, &format!("address add {CLIENT}/24 dev machine"));
        ip(&outside, "link set machine up");
        ip(&outside, &format!("route add {service_cidr} via {MACHINE}"));
        Outside(outside)
    }

    /// Starts 240 requests a second to port 80 of `address`, in all ways that the load client knows.
    #[must_use]
    pub fn load(&self, address: Ipv4Addr) -> Load {
        self.send(&plan(address))
    }

    /// Starts a load. It ends by itself some time after the longest test.
    #[must_use]
    pub fn send(&self, plan: &Plan) -> Load {
        self.client("load", plan)
    }

    /// Starts clients with long connections.
    #[must_use]
    pub fn follow(&self, plan: &streams::Plan) -> Streams {
        self.client("streams", plan)
    }

    /// Starts clients that ask over UDP.
    #[must_use]
    pub fn ask(&self, plan: &datagrams::Plan) -> Datagrams {
        self.client("datagrams", plan)
    }

    fn client<T>(&self, role: &str, plan: &impl Serialize) -> Client<T> {
        let plan = serde_json::to_string(plan).expect("plans are plain data");
        let mut client = self.0.in_network_unlimited(built("client"));
        client.args([role, &plan]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.spawn().expect("a program that was built");
        let said = BufReader::new(child.stdout.take().expect("it was piped"));
        Client { child, said, count: 0, report: PhantomData }
    }

    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }
}

/// 240 requests a second to port 80 of `address`, until they are told to end.
#[must_use]
pub fn plan(address: Ipv4Addr) -> Plan {
    Plan { longest: LONGEST_LOAD, ..Plan::against((address, 80).into()) }
}

/// Clients under way, which count something and report at the end.
pub struct Client<T> {
    child: Child,
    said: BufReader<ChildStdout>,
    count: u64,
    report: PhantomData<T>,
}

/// A load; it counts requests that were answered or have failed.
pub type Load = Client<Report>;
/// Clients that ask over UDP; they count their questions.
pub type Datagrams = Client<datagrams::Report>;
/// Clients with long connections; they count those that were opened.
pub type Streams = Client<streams::Report>;

impl<T: DeserializeOwned> Client<T> {
    /// Waits for `more` requests to be answered or to fail.
    pub fn answered(&mut self, more: u64) {
        self.counted(self.count + more);
    }

    /// Waits until so many were counted since the start.
    pub fn counted(&mut self, until: u64) {
        while self.count < until {
            self.count = self.next_line().parse().expect("a count");
        }
    }

    /// What was counted, as far as was waited for.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Ends the clients.
    #[must_use]
    pub fn stop(mut self) -> T {
        drop(self.child.stdin.take());
        let report = loop {
            let line = self.next_line();
            if line.starts_with('{') {
                break serde_json::from_str(&line).expect("a report");
            }
        };
        assert!(self.child.wait().expect("a child of ours").success(), "the client failed");
        report
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        let length = self.said.read_line(&mut line).expect("a pipe can be read");
        assert_ne!(length, 0, "the client ended before its report");
        line.trim().to_owned()
    }
}

impl<T> Drop for Client<T> {
    fn drop(&mut self) {
        // Already ended, but for a test that fails; there it ends with its standard input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Fails unless all requests of a sufficient load were answered rightly, and by all of `versions` and no other.
pub fn assert_nothing_lost(report: &Report, versions: &[&str]) {
    assert_eq!(report.failures(), 0, "requests failed:\n{report}");
    assert_eq!(report.sent, report.ok, "requests unaccounted for:\n{report}");
    let answered: Vec<_> = report.by_version.keys().map(String::as_str).collect();
    assert_eq!(answered, versions, "not the versions that should have answered:\n{report}");
    let rate = report.sent as f64 / report.elapsed.as_secs_f64();
    assert!(rate >= LEAST_RATE, "only {rate:.0} requests a second were sent:\n{report}");
}
