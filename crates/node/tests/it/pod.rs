//! A pod for a test: namespaces around the test, a root filesystem made of this crate's `workload` example, a shim.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use node::cgroups::{Cgroup, Hierarchies, Limits, remove_instance};
use node::container::{CapabilityChange, Confinement, ContainerConfig, Overlay, RootAccess, User};
use node::shim::Sharing;
use node::shim::client::{ShimClient, ShimConfig};
use node::shim::protocol::{ContainerState, Event, Exit, Status};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;

const INSIDE: &str = "SEGUE_TEST_INSIDE";
/// Far more than anything here takes; a test that waits this long has found something.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in its own PID, mount and network namespaces: the first time by running this program again there.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(test());
    }
    let thread = std::thread::current();
    let name = thread.name().expect("the test runner names threads after tests");
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--mount", "--net", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, std::process::id().to_string())
        .output()
        .expect("unshare, of util-linux, is needed");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "inside the namespaces: {}\n{}", text[0], text[1]);
    assert!(text[0].contains("1 passed"), "the test did not run inside: {}", text[0]);
}

pub(crate) struct TestPod {
    directory: TempDir,
    pub(crate) shim: ShimClient,
    pub(crate) events: Receiver<Event>,
    cgroup: Cgroup,
}

impl TestPod {
    /// A pod of this name, which must differ between tests.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, |_| ()).await
    }

    /// A pod whose shim ignores SIGHUP.
    pub(crate) async fn new_under_nohup(name: &str) -> Self {
        Self::with(name, |config| {
            let shim = std::mem::replace(&mut config.executable, "/usr/bin/nohup".into());
            config.leading_args = vec![shim.into()];
        })
        .await
    }

    async fn with(name: &str, change: impl FnOnce(&mut ShimConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_image(&directory.path().join("image"));
        let instance = std::env::var(INSIDE).unwrap();
        let cgroup = Cgroup::parse(&format!("/segue-test-{instance}-{name}/pod")).unwrap();
        let mut config = config(directory.path(), name, &cgroup);
        change(&mut config);
        let shim = ShimClient::spawn(&config).await.unwrap();
        let events = shim.events();
        Self { directory, shim, events, cgroup }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn container(&self, id: &str, args: &[&str]) -> ContainerConfig {
        let mut whole = vec!["/app".to_owned()];
        whole.extend(args.iter().map(|arg| (*arg).to_owned()));
        ContainerConfig {
            id: id.to_owned(),
            name: id.to_owned(),
            attempt: 0,
            rootfs: Overlay {
                lower: vec![self.path("image")],
                upper: self.path(&format!("{id}-upper")),
                work: self.path(&format!("{id}-work")),
            },
            args: whole,
            env: Vec::new(),
            cwd: PathBuf::new(),
            user: User::default(),
            mounts: Vec::new(),
            limits: Limits::default(),
            oom_score_adj: None,
            root: RootAccess::ReadWrite,
            capabilities: CapabilityChange::default(),
            confinement: Confinement::default(),
            stop_signal: None,
            log_path: self.path(&format!("logs/{id}/0.log")),
        }
    }

    /// Creates and starts a container.
    pub(crate) async fn run(&self, config: ContainerConfig) {
        let id = config.id.clone();
        let created = self.shim.create(config).await;
        assert!(created.is_ok(), "{created:?}\n{}", self.shim_log());
        self.shim.start(&id).await.unwrap();
    }

    fn shim_log(&self) -> String {
        fs::read_to_string(self.path("shim.log")).unwrap()
    }

    /// Creates and starts a container and waits until it has said its first line.
    pub(crate) async fn run_until_it_speaks(&self, config: ContainerConfig) {
        let log = config.log_path.clone();
        self.run(config).await;
        wait_for_text(&log, "\n").await;
    }

    /// Runs a container to its end.
    pub(crate) async fn run_to_end(&mut self, config: ContainerConfig) -> Exit {
        let id = config.id.clone();
        self.run(config).await;
        self.exit(&id).await
    }

    /// Waits until a container has ended.
    pub(crate) async fn exit(&mut self, id: &str) -> Exit {
        let wait = async {
            loop {
                let ContainerState { id: of, status, .. } = self.events.recv().await.unwrap().container;
                if let (true, Status::Exited(exit)) = (of == id, status) {
                    return exit;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container did not end")
    }

    /// The lines of a container's log: stream, tag and text.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(&format!("logs/{id}/0.log"))).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// What a program says that is run to its end in a container of its own.
    pub(crate) async fn output_of(&mut self, config: ContainerConfig) -> String {
        let id = config.id.clone();
        self.run_to_end(config).await;
        let lines = self.log(&id);
        lines.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    fn instance(&self) -> String {
        self.cgroup.as_str().split('/').nth(1).unwrap().trim_start_matches("segue-").to_owned()
    }

    pub(crate) fn shim_config(&self, name: &str) -> ShimConfig {
        config(self.directory.path(), name, &self.cgroup)
    }

    /// Shuts the shim down and checks that nothing is left.
    pub(crate) async fn end(self) {
        self.shim.shutdown().await.unwrap();
        tokio::time::timeout(PATIENCE, self.shim.gone()).await.expect("the shim did not end");
        self.assert_nothing_left();
    }

    pub(crate) fn assert_nothing_left(&self) {
        let hierarchies = Hierarchies::find().unwrap();
        assert_eq!(hierarchies.directory("memory", &self.cgroup).map(|path| path.exists()), Some(false));
        remove_instance(&self.instance(), &hierarchies).unwrap();
    }
}

impl Drop for TestPod {
    /// A test that failed must not leave cgroups on the machine either.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the shim's log:\n{}", self.shim_log());
            let hierarchies = Hierarchies::find().unwrap();
            let _ = self.cgroup.kill(&hierarchies);
            let _ = self.cgroup.remove(&hierarchies);
            let _ = remove_instance(&self.instance(), &hierarchies);
        }
    }
}

fn config(directory: &Path, name: &str, cgroup: &Cgroup) -> ShimConfig {
    ShimConfig {
        executable: example("shim"),
        leading_args: Vec::new(),
        pod_uid: name.to_owned(),
        hostname: name.to_owned(),
        socket: directory.join("shim.sock"),
        pid_file: directory.join("shim.pid"),
        bundle_dir: directory.join("containers"),
        log_file: directory.join("shim.log"),
        cgroup: cgroup.as_str().to_owned(),
        limits: Limits::default(),
        sharing: Sharing::default(),
    }
}

/// Waits until a file holds a text, hearing from the kernel when it changes.
pub(crate) async fn wait_for_text(path: &Path, text: &str) {
    let (path, text) = (path.to_owned(), text.to_owned());
    tokio::task::spawn_blocking(move || block_for_text(&path, &text)).await.unwrap();
}

fn block_for_text(path: &Path, text: &str) {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY).unwrap();
    while !fs::read_to_string(path).unwrap().contains(text) {
        let mut changed = [PollFd::new(&watch, PollFlags::IN)];
        let patience = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(rustix::event::poll(&mut changed, Some(&patience)).unwrap(), 1, "no {text:?} in {path:?}");
        rustix::io::read(&watch, &mut [0u8; 4096]).unwrap();
    }
}

fn example(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{path:?} is missing: cargo test without --test builds it");
    path
}

/// The workload and the shared libraries it has mapped, where its interpreter looks for them.
fn make_image(image: &Path) {
    let workload = example("workload");
    let maps = Command::new(&workload).args(["read", "/proc/self/maps"]).output().unwrap().stdout;
    let maps = String::from_utf8(maps).unwrap();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libraries: BTreeSet<&str> = mapped.filter(|path| path.contains(".so")).collect();
    for link in ["lib", "lib64"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
            fs::create_dir_all(image.join(&target)).unwrap();
            std::os::unix::fs::symlink(target, image.join(link)).unwrap();
        }
    }
    let interpreters = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let found = interpreters.into_iter().filter(|path| Path::new(path).exists());
    for library in libraries.into_iter().chain(found) {
        let target = image.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(library, target).unwrap();
    }
    fs::copy(workload, image.join("app")).unwrap();
    fs::create_dir(image.join("data")).unwrap();
}
