//! What an engine that went down must have taken with it: everything but its data directory.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{POD_CIDR, SERVICE_CIDR};
use crate::namespace::Namespace;
use crate::processes;
use crate::run::output_of;

/// Everything that is on a machine and was not there before the engine, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind(Vec<String>);

impl LeftBehind {
    pub(super) fn on(machine: &Namespace, data_dir: &Path) -> LeftBehind {
        let mut left = Vec::new();
        let mut note =
            |what: &str, found: Vec<String>| left.extend(found.into_iter().map(|found| format!("{what}: {found}")));
        note("mount", mounts(machine, data_dir));
        note("process", segue_processes(machine));
        note("link", links(machine));
        note("rules", lines(machine, &["nft", "list", "tables"]));
        note("route", routes(machine));
        note(
            "policy",
            lines(machine, &["ip", "rule", "show"]).into_iter().filter(|rule| !is_usual_rule(rule)).collect(),
        );
        note("cgroup", existing(&cgroups(data_dir)));
        note("file in /run", lines(machine, &["find", "/run", "-mindepth", "1", "-not", "-type", "d"]));
        LeftBehind(left)
    }

    /// Fails with everything that was left.
    pub fn assert_nothing(&self) {
        assert!(self.0.is_empty(), "left behind:\n{}", self.0.join("\n"));
    }
}

fn lines(machine: &Namespace, program: &[&str]) -> Vec<String> {
    let said = output_of(machine.command(program[0]).args(&program[1..]));
    said.lines().map(str::to_owned).collect()
}

fn mounts(machine: &Namespace, data_dir: &Path) -> Vec<String> {
    let mounted = fs::read_to_string(machine.proc("mountinfo")).expect("the first process lives");
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    let of_engine = |line: &&str| line.contains(data_dir) || line.contains(" /run/segue/") || line.contains(" - nsfs ");
    mounted.lines().filter(of_engine).map(str::to_owned).collect()
}

fn segue_processes(machine: &Namespace) -> Vec<String> {
    let all = processes::of(machine).into_iter().map(|process| process.arguments.join(" "));
    all.filter(|process| !process.contains("docker-registry")).collect()
}

fn links(machine: &Namespace) -> Vec<String> {
    let all = lines(machine, &["ip", "-oneline", "link", "show"]);
    let usual = [": lo: ", ": outside@", ": tailnet@"];
    all.into_iter().filter(|link| !usual.iter().any(|usual| link.contains(usual))).collect()
}

fn routes(machine: &Namespace) -> Vec<String> {
    let prefix = |cidr: &str| cidr.rsplitn(3, '.').last().expect("a prefix").to_owned() + ".";
    let ranges = [prefix(POD_CIDR), prefix(SERVICE_CIDR)];
    let all = lines(machine, &["ip", "route", "show", "table", "all"]);
    all.into_iter().filter(|route| ranges.iter().any(|range| route.contains(range.as_str()))).collect()
}

fn is_usual_rule(rule: &str) -> bool {
    ["0:", "32766:", "32767:"].iter().any(|usual| rule.starts_with(usual))
}

fn existing(groups: &[PathBuf]) -> Vec<String> {
    groups.iter().filter(|group| group.exists()).map(|group| group.display().to_string()).collect()
}

/// Removes the cgroups of one engine at the end, for the sake of tests that failed before it went down.
pub(super) struct RemoveCgroups(Vec<PathBuf>);

impl RemoveCgroups {
    pub(super) fn of(data_dir: &Path) -> RemoveCgroups {
        RemoveCgroups(cgroups(data_dir))
    }
}

impl Drop for RemoveCgroups {
    fn drop(&mut self) {
        self.0.iter().for_each(|group| remove(group));
    }
}

/// Where the cgroups of the engine with this data directory are, if there are any.
fn cgroups(data_dir: &Path) -> Vec<PathBuf> {
    let parent = data_dir.parent().expect("a directory of ours").canonicalize().expect("a directory of ours");
    let canonical = parent.join(data_dir.file_name().expect("a name"));
    let mut group = "segue-".to_owned();
    for byte in &Sha256::digest(canonical.to_str().expect("a path in UTF-8"))[..4] {
        write!(group, "{byte:02x}").expect("a string grows");
    }
    let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups are mounted");
    let roots = hierarchies.filter_map(|entry| Some(entry.ok()?.path())).chain(["/sys/fs/cgroup".into()]);
    roots.map(|root| root.join(&group)).collect()
}

fn remove(group: &Path) {
    let children = fs::read_dir(group).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    children.filter(|child| child.is_dir()).for_each(|child| remove(&child));
    // A group that has something in it again is somebody else's.
    let _ = fs::remove_dir(group);
}
