//! The real kubectl, new and old.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::namespace::Namespace;
use crate::paths::tool;
use crate::run::{Said, run};

/// Which kubectl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 1.37
    New,
    /// 1.33
    Old,
}

/// One kubectl with the kubeconfig of one engine. Commands are written as in a shell without quoting.
#[derive(Clone, Debug)]
pub struct Kubectl<'machine> {
    machine: &'machine Namespace,
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl<'machine> Kubectl<'machine> {
    pub(crate) fn new(machine: &'machine Namespace, release: Release, kubeconfig: PathBuf) -> Kubectl<'machine> {
        let name = match release {
            Release::New => "kubectl-new",
            Release::Old => "kubectl-old",
        };
        Kubectl { machine, program: tool(name), kubeconfig }
    }

    /// Its standard output; it must succeed.
    pub fn run(&self, command: &str) -> String {
        let said = self.attempt(command);
        assert!(said.success, "kubectl {command} failed:\n{}{}", said.stdout, said.stderr);
        said.stdout
    }

    /// Its standard error; it must fail.
    pub fn fails(&self, command: &str) -> String {
        let said = self.attempt(command);
        assert!(!said.success, "kubectl {command} succeeded:\n{}", said.stdout);
        said.stderr
    }

    /// What it says to a command that may fail.
    pub fn attempt(&self, command: &str) -> Said {
        run(self.command().args(command.split(' ')), "")
    }

    /// The answer to a command with `-o json`.
    pub fn json(&self, command: &str) -> Value {
        let text = self.run(&format!("{command} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl {command} -o json: {error}\n{text}"))
    }

    /// Applies manifests from text; it must succeed.
    pub fn apply(&self, manifests: &str) -> String {
        let said = self.attempt_apply(manifests);
        assert!(said.success, "kubectl apply failed:\n{}{}\n{manifests}", said.stdout, said.stderr);
        said.stdout
    }

    /// What it says to manifests that may be refused.
    pub fn attempt_apply(&self, manifests: &str) -> Said {
        run(self.command().args(["apply", "-f", "-"]), manifests)
    }

    /// Waits until a JSONPath of an object has a value.
    pub fn wait_for(&self, object: &str, path: &str, value: &str) {
        self.run(&format!("wait {object} --for=jsonpath={{{path}}}={value} --timeout=60s"));
    }

    /// The program with its kubeconfig, in the network of its machine, for arguments of any kind.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.machine.in_network(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}
