//! A network namespace, alone or as part of a machine with processes and mounts of its own.
//! It ends, with everything in it, when it is dropped and also when the test itself is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::run::{LIMIT, limited};

/// Alive as long as its first process, which reads from us until we are gone, and reaps orphans meanwhile.
const FIRST_PROCESS: &str = "echo ready; while read -r _; do :; done";

/// A namespace and its first process.
#[derive(Debug)]
pub struct Namespace {
    child: Child,
    /// As seen from outside.
    first_process: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Machine,
    Network,
}

impl Namespace {
    /// Processes, mounts and a network of its own. cgroups are shared with the rest of the machine.
    #[must_use]
    pub fn machine() -> Namespace {
        // All of /run: a directory that another engine removes outside would take a mount on it away in here too.
        let setup = "mount -t tmpfs -o mode=0755 tmpfs /run && ip link set lo up";
        let unshare = ["--pid", "--fork", "--mount-proc", "--mount", "--net", "--kill-child"];
        Namespace::start(Kind::Machine, &unshare, setup)
    }

    /// Only a network of its own.
    #[must_use]
    pub fn network() -> Namespace {
        Namespace::start(Kind::Network, &["--net"], "ip link set lo up")
    }

    fn start(kind: Kind, unshare: &[&str], setup: &str) -> Namespace {
        let mut command = Command::new("unshare");
        command.args(unshare).args(["bash", "-c", &format!("{setup} && {FIRST_PROCESS}")]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare is part of util-linux");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        assert_eq!(line, "ready\n", "could not make a namespace: the tests need root");
        let first_process = match kind {
            Kind::Machine => only_child(child.id()),
            Kind::Network => child.id(),
        };
        Namespace { child, first_process, kind }
    }

    /// The first process, as seen from outside.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.first_process
    }

    /// `program` with everything of this namespace, ended after [`LIMIT`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(limited(LIMIT, "nsenter"), self.everything(), program)
    }

    /// `program` with everything of this namespace, with which it ends.
    #[must_use]
    pub fn unlimited(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(Command::new("nsenter"), self.everything(), program)
    }

    /// `program` with only the network of this namespace, ended after [`LIMIT`].
    #[must_use]
    pub fn in_network(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(limited(LIMIT, "nsenter"), &["--net"], program)
    }

    /// `program` with only the network of this namespace. A signal to the child reaches the program itself.
    #[must_use]
    pub fn in_network_unlimited(&self, program: impl AsRef<OsStr>) -> Command {
        self.enter(Command::new("nsenter"), &["--net"], program)
    }

    /// A listener in the network of this namespace, although we are not.
    #[must_use]
    pub fn listen(&self, address: &str) -> TcpListener {
        let network = File::open(self.proc("ns/net")).expect("the first process lives");
        let listening = || {
            // Only this thread moves, and it ends here.
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the tests run as root");
            TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"))
        };
        thread::scope(|scope| scope.spawn(listening).join().expect("it listens"))
    }

    fn everything(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Machine => &["--pid", "--mount", "--net"],
            Kind::Network => &["--net"],
        }
    }

    fn enter(&self, mut nsenter: Command, namespaces: &[&str], program: impl AsRef<OsStr>) -> Command {
        nsenter.arg(format!("--target={}", self.first_process)).args(namespaces).arg("--").arg(program);
        nsenter
    }

    /// A file of `/proc` of the first process.
    #[must_use]
    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.first_process))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing is left of it either way.
        let _ = self.child.wait();
    }
}

fn only_child(parent: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.expect("the kernel lists children");
    children.trim().parse().unwrap_or_else(|_| panic!("unshare has one child, not {children:?}"))
}
