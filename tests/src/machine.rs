//! A machine of its own for one test: the real engine, a registry, kubectl, and another network it is reached from.
//! When a test fails it shows the engine's log, the pods and the events.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::kubectl::{Kubectl, Release};
use crate::namespace::Namespace;
use crate::outside::Outside;
use crate::paths::{built, project};
use crate::processes;
use crate::registry::{MIRROR, storage};
use crate::run::{Said, output_of, run};

mod left_behind;

pub use left_behind::LeftBehind;

use left_behind::RemoveCgroups;

pub const LISTEN: &str = "127.0.0.1:6443";
pub const POD_CIDR: &str = "10.44.0.0/16";
pub const SERVICE_CIDR: &str = "10.45.0.0/16";
pub const NEVER_SHORT: [&str; 2] = ["--eviction-hard", "memory.available<1,nodefs.available<1"];

const DATA_DIR: &str = "data";

/// Lines of the engine's log that a failed test shows.
const LOG_TAIL: usize = 150;

/// One machine, without an engine at first.
pub struct Machine {
    namespace: Namespace,
    outside: Outside,
    // Removed only after everything in the namespace has ended, and before the directory they are named after.
    _cgroups: RemoveCgroups,
    directory: TempDir,
}

impl Machine {
    /// A machine with a registry, reached from another network.
    #[must_use]
    pub fn without_engine() -> Machine {
        // Under target/, which is on a real disk: images are unpacked below it and mounted from it.
        let target = project("target/machines");
        fs::create_dir_all(&target).expect("target/ can be written");
        let directory = tempfile::tempdir_in(target).expect("target/ can be written");
        let namespace = Namespace::machine();
        storage().serve(&namespace, &directory.path().join("registry.log"));
        let outside = Outside::beside(&namespace, SERVICE_CIDR);
        let _cgroups = RemoveCgroups::of(&directory.path().join(DATA_DIR));
        Machine { namespace, outside, _cgroups, directory }
    }

    /// A machine whose engine runs and whose node is Ready.
    #[must_use]
    pub fn with_engine() -> Machine {
        let machine = Machine::without_engine();
        machine.up();
        machine
    }

    /// `segue up --detach`, which must succeed. Returns how long it took.
    pub fn up(&self) -> Duration {
        let started = Instant::now();
        let said = self.try_up(&[]);
        assert!(said.success, "segue up failed:\n{}{}", said.stdout, said.stderr);
        started.elapsed()
    }

    /// `segue up --detach` with `more` options and their values, which override its usual ones.
    #[must_use]
    pub fn try_up(&self, more: &[&str]) -> Said {
        let usual = if more.contains(&NEVER_SHORT[0]) { &[][..] } else { &NEVER_SHORT };
        self.try_up_of(&built("segue"), &[usual, more].concat())
    }

    /// The same with another build of segue, which may not know what this one's engines are told here.
    #[must_use]
    pub fn try_up_of(&self, program: &Path, more: &[&str]) -> Said {
        let mut arguments =
            vec!["--listen", LISTEN, "--pod-cidr", POD_CIDR, "--service-cidr", SERVICE_CIDR, "--mirror", MIRROR];
        for pair in more.chunks(2) {
            let [option, value] = pair else { panic!("options come with a value: {more:?}") };
            match arguments.iter().position(|argument| argument == option) {
                Some(usual) => arguments[usual + 1] = value,
                None => arguments.extend([option, value]),
            }
        }
        run(self.segue_of(program, "up").arg("--detach").args(arguments), "")
    }

    /// Ends everything that runs here at once, as a power cut does, and starts the machine again: what is in memory is
    /// gone, what is on disk is there.
    pub fn reboot(&mut self) {
        self.namespace = Namespace::machine();
        storage().serve(&self.namespace, &self.directory.path().join("registry.log"));
        self.outside = Outside::beside(&self.namespace, SERVICE_CIDR);
    }

    /// Gives the data directory a disk of its own, of this size as `mount` takes it; what else fills the machine's does not
    /// matter then.
    pub fn mount_data(&self, size: &str) {
        fs::create_dir_all(self.data_dir()).expect("a directory of ours");
        let mut mount = self.namespace.command("mount");
        output_of(mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "data"]).arg(self.data_dir()));
    }

    /// Gives kubectl, which sees no mounts of the machine, the kubeconfig that is on the disk of its own.
    pub fn fetch_kubeconfig(&self) {
        let kubeconfig = self.data_dir().join("kubeconfig");
        let content = output_of(self.namespace.command("cat").arg(&kubeconfig));
        fs::write(kubeconfig, content).expect("a directory of ours");
    }

    /// `segue down`, and then the data directory's own disk goes.
    pub fn down_and_unmount(&self) {
        output_of(&mut self.segue("down"));
        output_of(self.namespace.command("umount").arg(self.data_dir()));
        self.left_behind().assert_nothing();
    }

    /// `segue down`, which must succeed and leave nothing behind but the data directory.
    pub fn down(&self) {
        output_of(&mut self.segue("down"));
        self.left_behind().assert_nothing();
    }

    /// `segue COMMAND --data-dir …` on this machine, for more arguments.
    ///
    /// An engine finds the machine short of nothing, whatever it is that runs the tests.
    #[must_use]
    pub fn segue(&self, command: &str) -> Command {
        let mut segue = self.segue_of(&built("segue"), command);
        if command == "up" {
            segue.args(NEVER_SHORT);
        }
        segue
    }

    fn segue_of(&self, program: &Path, command: &str) -> Command {
        let mut segue = self.namespace.command(program);
        segue.args(command.split(' ')).arg("--data-dir").arg(self.data_dir());
        segue
    }

    /// Kills the engine, and nothing else, with SIGKILL.
    pub fn kill_engine(&self) {
        let engines = processes::in_role(&self.namespace, "up");
        let [engine] = &engines[..] else { panic!("one engine runs, not {engines:?}") };
        engine.kill();
    }

    /// The newest kubectl.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl<'_> {
        self.kubectl_of(Release::New)
    }

    #[must_use]
    pub fn kubectl_of(&self, release: Release) -> Kubectl<'_> {
        Kubectl::new(&self.namespace, release, self.data_dir().join("kubeconfig"))
    }

    /// The address of a Service in `production`.
    #[must_use]
    pub fn service_address(&self, name: &str) -> Ipv4Addr {
        let address = self.kubectl().run(&format!("get service {name} -n production -o jsonpath={{.spec.clusterIP}}"));
        address.parse().unwrap_or_else(|_| panic!("{name} has the address {address:?}"))
    }

    /// The network that this machine is reached from.
    #[must_use]
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join(DATA_DIR)
    }

    /// A directory for files of the test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What the engine, if it ever ran, has left on this machine.
    #[must_use]
    pub fn left_behind(&self) -> LeftBehind {
        LeftBehind::on(&self.namespace, &self.data_dir())
    }

    fn show(&self) {
        let mut shown = String::from("\n==== the machine of the test that failed ====\n");
        for log in logs_below(&self.data_dir()) {
            shown += &format!("---- {}, its last {LOG_TAIL} lines\n{}\n", log.display(), tail(&log));
        }
        let processes = processes::of(&self.namespace);
        let processes: Vec<_> = processes.into_iter().map(|process| process.arguments.join(" ")).collect();
        shown += &format!("---- processes\n{}\n", processes.join("\n"));
        if !processes::in_role(&self.namespace, "up").is_empty() {
            shown += &self.objects();
        }
        // The test fails all the same when nobody can be told.
        let _ = std::io::stderr().lock().write_all(shown.as_bytes());
    }

    fn objects(&self) -> String {
        let questions = [
            "get pods -A -o wide",
            "get deployments,replicasets,endpointslices -A",
            "get events -A --sort-by=.metadata.creationTimestamp",
        ];
        let answers = questions.map(|question| {
            let said = self.kubectl().attempt(&format!("{question} --request-timeout=5s"));
            format!("---- kubectl {question}\n{}{}", said.stdout, said.stderr)
        });
        answers.concat()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            // What cannot be shown must not hide why the test failed.
            let _ = catch_unwind(AssertUnwindSafe(|| self.show()));
        }
    }
}

fn logs_below(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir).into_iter().flatten();
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|file| file.extension().is_some_and(|extension| extension == "log")).collect()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
