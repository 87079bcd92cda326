//! What the kernel does for pods' connections: forwards them if their sender is who it says, hides pods behind this
//! machine's address on the way out, and takes service addresses for its own. One nftables table and one route, both
//! named after the instance.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use objects::ranges::Range;

use crate::kernel;

#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("can't run {program}; is it installed?")]
    Run {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` failed: {complaint}")]
    Refused { command: String, complaint: String },
    #[error("`{command}` wrote what is no JSON")]
    Unreadable {
        command: String,
        #[source]
        source: serde_json::Error,
    },
}

/// The rules of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub instance: String,
    /// What the names of the host's ends of the pods' links begin with.
    pub links: String,
    pub pods: Range,
    pub services: Range,
    /// Where engines of other machines listen; their proxies do at the port after it.
    pub mesh_port: u16,
}

/// The ranges that an instance's rules stand for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    pub pods: Vec<Range>,
    pub services: Vec<Range>,
}

impl Rules {
    /// Puts the rules in force, in one transaction, whatever was in force for this instance before.
    ///
    /// # Errors
    /// When `nft` or `ip` is missing or refuses.
    pub fn apply(&self) -> Result<(), RulesError> {
        for old in in_force(&self.instance)?.services.into_iter().filter(|old| *old != self.services) {
            remove_route(old)?;
        }
        nft(&self.script())?;
        let services = self.services.to_string();
        run("ip", &["route", "replace", "local", &services, "dev", "lo"], "").map(drop)
    }

    fn script(&self) -> String {
        let Self { links, pods, services, mesh_port, .. } = self;
        let mesh_proxy = mesh_port.saturating_add(1);
        let table = self.table();
        // Named once before it is deleted: a table that is not there can't be deleted.
        format!(
            "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set pods {{ type ipv4_addr; flags interval; elements = {{ {pods} }}; }}
    set services {{ type ipv4_addr; flags interval; elements = {{ {services} }}; }}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        meta nfproto ipv4 iifname \"{links}*\" fib saddr . iif oif missing drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        tcp dport {mesh_port}-{mesh_proxy} tcp sport < 1024 ct state new drop
        ip saddr @pods accept
        ip daddr @pods ct state established,related accept
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @pods ip daddr != @pods meta l4proto {{ tcp, udp }} masquerade to :1024-65535
        ip saddr @pods ip daddr != @pods masquerade
    }}
}}
"
        )
    }

    fn table(&self) -> String {
        table(&self.instance)
    }
}

/// Takes an instance's rules away. Nothing to do where there are none.
///
/// # Errors
/// When `nft` or `ip` is missing or refuses.
pub fn remove(instance: &str) -> Result<(), RulesError> {
    for range in in_force(instance)?.services {
        remove_route(range)?;
    }
    let tables = kernel::tables(instance).into_iter().chain([table(instance)]);
    let script: String = tables.map(|table| format!("table inet {table} {{}}\ndelete table inet {table}\n")).collect();
    nft(&script)
}

/// What is in force for an instance; empty when nothing is.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn in_force(instance: &str) -> Result<InForce, RulesError> {
    let table = table(instance);
    let output = output("nft", &["--json", "list", "table", "inet", &table], "")?;
    if !output.status.success() {
        return Ok(InForce::default());
    }
    let listed = parse("nft --json list table", &output.stdout)?;
    Ok(InForce { pods: elements(&listed, "pods"), services: elements(&listed, "services") })
}

pub(crate) fn table(instance: &str) -> String {
    format!("segue_{instance}")
}

fn elements(listed: &Value, set: &str) -> Vec<Range> {
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let sets = objects.filter_map(|object| object.get("set")).filter(|it| it["name"] == set);
    let elements = sets.filter_map(|set| set["elem"].as_array()).flatten();
    elements.filter_map(|element| prefix(&element["prefix"])).collect()
}

fn prefix(prefix: &Value) -> Option<Range> {
    let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
    Some(Range::around(prefix["addr"].as_str()?.parse().ok()?, length))
}

fn remove_route(range: Range) -> Result<(), RulesError> {
    let range = range.to_string();
    let output = output("ip", &["route", "del", "local", &range, "dev", "lo"], "")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || complaint.contains("No such process") {
        return Ok(());
    }
    Err(RulesError::Refused { command: format!("ip route del local {range} dev lo"), complaint: one_line(&complaint) })
}

/// Puts a script in force in one transaction.
pub(crate) fn nft(script: &str) -> Result<(), RulesError> {
    run("nft", &["-f", "-"], script).map(drop)
}

/// Runs a program that has to succeed, and gives what it wrote.
pub(crate) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, RulesError> {
    let output = output(program, arguments, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let command = format!("{program} {}", arguments.join(" "));
    Err(RulesError::Refused { command, complaint: one_line(&String::from_utf8_lossy(&output.stderr)) })
}

pub(crate) fn parse(command: &str, written: &[u8]) -> Result<Value, RulesError> {
    serde_json::from_slice(written).map_err(|source| RulesError::Unreadable { command: command.to_owned(), source })
}

fn output(program: &'static str, arguments: &[&str], input: &str) -> Result<Output, RulesError> {
    let run = || {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    run().map_err(|source| RulesError::Run { program, source })
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
