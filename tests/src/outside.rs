//! Another network, from which clients reach the machine over a link, as they would from another host.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdout, Stdio};

use tools::load::Report;

use crate::namespace::Namespace;
use crate::paths::built;
use crate::run::output_of;

/// The machine's address as the outside sees it.
pub const MACHINE: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.2";

/// Requests a second that the tests ask for at least.
const LEAST_RATE: f64 = 200.0;

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

    /// Starts 240 requests a second to port 80 of `address`, half of them over new connections.
    #[must_use]
    pub fn load(&self, address: Ipv4Addr) -> Load {
        let mut client = self.0.in_network_unlimited(built("client"));
        client.args(["load", &format!("{address}:80")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.spawn().expect("a program that was built");
        let said = BufReader::new(child.stdout.take().expect("it was piped"));
        Load { child, said, answered: 0 }
    }

    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }
}

/// A load under way. It ends by itself some time after the longest test.
pub struct Load {
    child: Child,
    said: BufReader<ChildStdout>,
    answered: u64,
}

impl Load {
    /// Waits for `more` requests to be answered or to fail.
    pub fn answered(&mut self, more: u64) {
        let until = self.answered + more;
        while self.answered < until {
            self.answered = self.next_line().parse().expect("a count");
        }
    }

    /// Ends the load.
    #[must_use]
    pub fn stop(mut self) -> Report {
        drop(self.child.stdin.take());
        let report = loop {
            let line = self.next_line();
            if line.starts_with('{') {
                break serde_json::from_str(&line).expect("a report");
            }
        };
        assert!(self.child.wait().expect("a child of ours").success(), "the load client failed");
        report
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        let length = self.said.read_line(&mut line).expect("a pipe can be read");
        assert_ne!(length, 0, "the load client ended before its report");
        line.trim().to_owned()
    }
}

impl Drop for Load {
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
