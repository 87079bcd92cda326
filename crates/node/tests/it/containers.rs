//! Containers in a shim: how they end, what they say, what they may not do.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use node::cgroups::{Hierarchies, Limits, Version};
use node::container::{CapabilityChange, Mount, MountAccess, MountSource, RootAccess, User};
use node::pidfd::{Process, Signal};
use node::shim::client::{ShimClient, ShimError};
use node::shim::protocol::{Failure, FailureKind, Status};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::pod::{TestPod, inside, wait_for_text};

fn failure(error: ShimError) -> Failure {
    let text = error.to_string();
    let ShimError::Failed(failure) = error else { panic!("the shim should have refused: {text}") };
    failure
}

#[test]
fn exit_codes_and_both_outputs_are_kept() {
    inside(|| async {
        let mut pod = TestPod::new("exits").await;
        let exit = pod.run_to_end(pod.container("a", &["exit", "3"])).await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
        assert!(exit.started_at.unwrap() <= exit.finished_at);
        pod.run_to_end(pod.container("b", &["say", "hello"])).await;
        pod.run_to_end(pod.container("c", &["complain", "oh"])).await;
        assert_eq!([pod.log("b"), pod.log("c")].concat(), ["stdout F hello", "stderr F oh"]);
        let containers = pod.shim.state().await.unwrap().containers;
        assert_eq!(containers.len(), 3);
        pod.shim.remove("a").await.unwrap();
        assert_eq!(failure(pod.shim.remove("a").await.unwrap_err()).kind, FailureKind::NotFound);
        pod.end().await;
    });
}

#[test]
fn a_burst_of_output_is_wholly_in_the_log_when_the_end_is_told() {
    inside(|| async {
        let mut pod = TestPod::new("burst").await;
        pod.run_to_end(pod.container("a", &["count", "20000"])).await;
        let lines = pod.log("a");
        assert_eq!(lines.len(), 20_000);
        assert_eq!(lines.last().unwrap(), "stdout F 20000");
        pod.end().await;
    });
}

#[test]
fn sigkill_ends_with_137_and_is_no_oom_kill() {
    inside(|| async {
        let mut pod = TestPod::new("kill").await;
        pod.run_until_it_speaks(pod.container("a", &["wait"])).await;
        pod.shim.signal("a", Some("KILL")).await.unwrap();
        let exit = pod.exit("a").await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
        pod.end().await;
    });
}

#[test]
fn the_first_process_gets_sigterm() {
    inside(|| async {
        let mut pod = TestPod::new("term").await;
        pod.run_until_it_speaks(pod.container("a", &["wait-for-term"])).await;
        pod.shim.signal("a", None).await.unwrap();
        assert_eq!(pod.exit("a").await.code, 7);
        let refused = failure(pod.shim.signal("a", None).await.unwrap_err());
        assert_eq!(refused.kind, FailureKind::WrongState);
        pod.end().await;
    });
}

#[test]
fn a_container_over_its_memory_limit_is_oom_killed() {
    inside(|| async {
        let mut pod = TestPod::new("oom").await;
        let mut config = pod.container("a", &["hog"]);
        config.limits = Limits { memory_bytes: Some(32 << 20), ..Limits::default() };
        let exit = pod.run_to_end(config).await;
        assert_eq!((exit.code, exit.oom_killed), (137, true));
        pod.end().await;
    });
}

#[test]
fn a_fork_bomb_is_stopped_by_the_pids_limit() {
    inside(|| async {
        let mut pod = TestPod::new("bomb").await;
        let mut config = pod.container("a", &["fork-bomb"]);
        config.limits = Limits { pids: Some(20), ..Limits::default() };
        let output = pod.output_of(config).await;
        let started = output.lines().find_map(|line| line.parse::<u32>().ok()).unwrap();
        assert!((1..20).contains(&started), "{started} children were started");
        pod.end().await;
    });
}

#[test]
fn a_program_that_is_missing_is_named_and_leaves_nothing() {
    inside(|| async {
        let mut pod = TestPod::new("missing").await;
        let mut config = pod.container("a", &[]);
        config.args = vec!["/no-such".to_owned()];
        let refused = failure(pod.shim.create(config).await.unwrap_err());
        let sentence = "exec: \"/no-such\": stat /no-such: no such file or directory";
        assert_eq!((refused.kind, refused.message.as_str()), (FailureKind::CannotRun, sentence));
        let mut config = pod.container("a", &[]);
        config.args = vec!["no-such".to_owned()];
        let refused = failure(pod.shim.create(config).await.unwrap_err());
        assert_eq!(refused.message, "exec: \"no-such\": executable file not found in $PATH");
        assert_eq!(pod.shim.state().await.unwrap().containers, []);
        assert_eq!(pod.run_to_end(pod.container("a", &["exit", "0"])).await.code, 0);
        pod.end().await;
    });
}

#[test]
fn a_program_that_the_kernel_refuses_exits_with_128() {
    inside(|| async {
        let mut pod = TestPod::new("refused").await;
        fs::write(pod.path("image/broken"), "#!/no/interpreter\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(pod.path("image/broken"), mode).unwrap();
        let mut config = pod.container("a", &[]);
        config.args = vec!["/broken".to_owned()];
        pod.shim.create(config).await.unwrap();
        let refused = failure(pod.shim.start("a").await.unwrap_err());
        let sentence = "exec /broken: no such file or directory";
        assert_eq!((refused.kind, refused.message.as_str()), (FailureKind::CannotRun, sentence));
        let exit = pod.exit("a").await;
        assert_eq!((exit.code, exit.start_error.as_deref()), (128, Some(sentence)));
        assert_eq!(exit.started_at, None);
        pod.end().await;
    });
}

#[test]
fn processes_run_in_a_container_and_their_output_is_cut() {
    inside(|| async {
        let mut pod = TestPod::new("exec").await;
        pod.run_until_it_speaks(pod.container("a", &["wait"])).await;
        let exec = |words: &'static [&'static str], timeout| {
            let args = std::iter::once("/app").chain(words.iter().copied()).map(str::to_owned);
            pod.shim.exec("a", args.collect(), timeout, None)
        };
        let said = exec(&["say", "hi"], None).await.unwrap();
        assert_eq!((said.exit_code, said.output.as_str()), (0, "hi\n"));
        let said = exec(&["complain", "oh"], None).await.unwrap();
        assert_eq!((said.exit_code, said.output.as_str()), (0, "oh\n"));
        assert_eq!(exec(&["exit", "5"], None).await.unwrap().exit_code, 5);
        assert_eq!(exec(&["count", "9999"], None).await.unwrap().output.len(), 10 * 1024);
        let late = exec(&["wait"], Some(Duration::from_millis(200))).await.unwrap_err();
        assert_eq!(failure(late).kind, FailureKind::TimedOut);
        let (one, other) = tokio::join!(exec(&["exit", "1"], None), exec(&["exit", "2"], None));
        assert_eq!((one.unwrap().exit_code, other.unwrap().exit_code), (1, 2));
        let missing = pod.shim.exec("a", vec!["/no-such".to_owned()], None, None).await.unwrap_err();
        let missing = failure(missing);
        let sentence = "exec: \"/no-such\": stat /no-such: no such file or directory";
        assert_eq!((missing.kind, missing.message.as_str()), (FailureKind::CannotRun, sentence));
        let status = fields(&exec(&["read", "/proc/self/status"], None).await.unwrap().output);
        assert_eq!((status["CapEff"].as_str(), status["Seccomp"].as_str()), (default_capabilities(), "2"));
        pod.shim.kill_all().await.unwrap();
        pod.exit("a").await;
        pod.end().await;
    });
}

#[test]
fn removing_and_shutting_down_end_what_runs_with_everything_in_it() {
    inside(|| async {
        let mut pod = TestPod::new("remove").await;
        for id in ["a", "b"] {
            pod.run_until_it_speaks(pod.container(id, &["wait"])).await;
            let wait = vec!["/app".to_owned(), "wait".to_owned()];
            let late = pod.shim.exec(id, wait, Some(Duration::from_millis(50)), None).await.unwrap_err();
            assert_eq!(failure(late).kind, FailureKind::TimedOut);
        }
        pod.shim.create(pod.container("c", &["wait"])).await.unwrap();
        let args = ["/app", "tell-and-wait", "/proc/1/fd/1"].map(str::to_owned).to_vec();
        let exec = pod.shim.exec("a", args, None, None);
        let log = pod.path("logs/a/0.log");
        let remove = async {
            wait_for_text(&log, "joined").await;
            pod.shim.remove("a").await.unwrap();
            pod.shim.remove("c").await.unwrap();
        };
        let (interrupted, ()) = tokio::join!(exec, remove);
        assert_eq!(interrupted.unwrap().exit_code, 137);
        assert_eq!([pod.exit("a").await.code, pod.exit("c").await.code], [137, 137]);
        assert_eq!(pod.shim.state().await.unwrap().containers.len(), 1);
        pod.end().await;
    });
}

#[test]
fn an_engine_that_goes_and_comes_back_finds_everything() {
    inside(|| async {
        let mut pod = TestPod::new("engine").await;
        pod.run_until_it_speaks(pod.container("a", &["wait-for-term"])).await;
        let before = pod.shim.state().await.unwrap();
        let socket = pod.path("shim.sock");
        pod.shim = ShimClient::connect(&socket).await.unwrap();
        pod.events = pod.shim.events();
        assert_eq!(pod.shim.state().await.unwrap(), before);
        assert!(matches!(before.containers[0].status, Status::Running { .. }));
        let pid = fs::read_to_string(pod.path("shim.pid")).unwrap();
        assert_eq!(pid, pod.shim.pid().to_string());
        pod.shim.signal("a", Some("SIGTERM")).await.unwrap();
        assert_eq!(pod.exit("a").await.code, 7);
        pod.end().await;
    });
}

#[test]
fn containers_of_a_pod_share_its_network_and_its_memory() {
    inside(|| async {
        let mut pod = TestPod::new("share").await;
        pod.run_until_it_speaks(pod.container("a", &["listen", "80"])).await;
        assert_eq!(pod.output_of(pod.container("b", &["connect", "80"])).await, "hello");
        pod.run_to_end(pod.container("c", &["write", "/dev/shm/note", "shared"])).await;
        assert_eq!(pod.output_of(pod.container("d", &["read", "/dev/shm/note"])).await, "shared");
        assert_eq!(pod.output_of(pod.container("e", &["read", "/proc/sys/kernel/hostname"])).await, "share");
        pod.end().await;
    });
}

#[test]
fn mounts_users_and_working_directories_are_as_asked() {
    inside(|| async {
        let mut pod = TestPod::new("config").await;
        fs::write(pod.path("hosts"), "127.0.0.1 localhost\n").unwrap();
        let mount = |target: &str, source, access| Mount { target: target.into(), source, sub_path: None, access };
        let hosts = || MountSource::Bind { path: pod.path("hosts") };
        let volume = || MountSource::PodTmpfs { name: "cache".to_owned(), size_bytes: Some(1 << 20) };
        let mounts = vec![
            mount("/etc/hosts", hosts(), MountAccess::ReadOnly),
            mount("/cache", volume(), MountAccess::ReadWrite),
        ];
        let user = User { uid: 1000, gid: 1000, additional_gids: vec![2000] };
        let base = |id: &str, args: &[&str]| {
            let mut config = pod.container(id, args);
            (config.mounts, config.user) = (mounts.clone(), user.clone());
            config.cwd = "/srv/here".into();
            config.env = vec!["COLOUR=blue".to_owned()];
            config
        };
        let configs = [
            base("a", &["read", "/etc/hosts"]),
            base("b", &["write", "/etc/hosts", "x"]),
            base("c", &["write", "/cache/x", "kept"]),
            base("d", &["read", "/cache/x"]),
            base("e", &["cwd"]),
            base("f", &["env"]),
            base("g", &["write", "/dev/null", "x"]),
            base("h", &["read", "/proc/self/status"]),
        ];
        let mut outputs = Vec::new();
        for config in configs {
            outputs.push(pod.output_of(config).await);
        }
        assert_eq!(outputs[0], "127.0.0.1 localhost");
        assert_eq!(outputs[1], "Read-only file system (os error 30)");
        assert_eq!(outputs[2..5], ["", "kept", "/srv/here"]);
        let env: Vec<&str> = outputs[5].lines().collect();
        assert!(env.contains(&"COLOUR=blue") && env.contains(&"HOSTNAME=config"), "{env:?}");
        assert_eq!(outputs[6], "");
        let status = fields(&outputs[7]);
        assert_eq!((status["Uid"].as_str(), status["Groups"].as_str()), ("1000\t1000\t1000\t1000", "1000 2000"));
        assert_eq!((status["CapEff"].as_str(), status["Umask"].as_str()), ("0000000000000000", "0022"));
        pod.end().await;
    });
}

#[test]
fn a_container_is_confined_unless_asked_otherwise() {
    inside(|| async {
        let mut pod = TestPod::new_under_nohup("safe").await;
        let status = fields(&pod.output_of(pod.container("a", &["read", "/proc/self/status"])).await);
        let limit_of_pids = match cgroup_version() {
            Version::V1 => "/sys/fs/cgroup/pids/pids.max",
            Version::V2 => "/sys/fs/cgroup/pids.max",
        };
        let expected = [
            ("CapBnd", default_capabilities()),
            ("CapEff", default_capabilities()),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("SigBlk", "0000000000000000"),
            ("NSpid", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(status.get(name).map(String::as_str), Some(value), "{name}");
        }
        // SIGHUP is not there, which the shim was started to ignore. SIGPIPE the program ignores itself, being written
        // in Rust; 32 and 33 are the C library's own.
        let ignored = u64::from_str_radix(&status["SigIgn"], 16).unwrap();
        assert_eq!(ignored & !(1 << 12 | 0b11 << 31), 0);
        let refusals = [
            (["write", "/proc/sys/kernel/hostname", "x"].as_slice(), "Read-only file system (os error 30)"),
            (&["write", "/proc/irq/default_smp_affinity", "1"], "Read-only file system (os error 30)"),
            (&["write", "/sys/kernel/profiling", "0"], "Read-only file system (os error 30)"),
            (&["write", limit_of_pids, "max"], "Read-only file system (os error 30)"),
            (&["write", "/sys/fs/cgroup/x", "x"], "Read-only file system (os error 30)"),
            (&["read", "/proc/interrupts"], ""),
            (&["vsock"], "Operation not permitted (os error 1)"),
        ];
        for (number, (args, expected)) in refusals.into_iter().enumerate() {
            let output = pod.output_of(pod.container(&format!("b{number}"), args)).await;
            assert_eq!(output, expected, "{args:?}");
        }
        let mut config = pod.container("c", &["write", "/data/x", "x"]);
        config.root = RootAccess::ReadOnly;
        assert_eq!(pod.output_of(config).await, "Read-only file system (os error 30)");
        let mut config = pod.container("d", &["read", "/proc/self/status"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        config.capabilities = CapabilityChange { add: names(&["NET_ADMIN"]), drop: names(&["ALL"]) };
        let status = fields(&pod.output_of(config).await);
        assert_eq!(status["CapEff"], "0000000000001000");
        pod.end().await;
    });
}

#[test]
fn containers_do_not_outlive_their_shim_and_the_engine_can_clean_up() {
    inside(|| async {
        let pod = TestPod::new("orphans").await;
        pod.run_until_it_speaks(pod.container("a", &["wait"])).await;
        pod.shim.create(pod.container("b", &["wait"])).await.unwrap();
        let containers = pod.shim.state().await.unwrap().containers;
        let held: Vec<Process> = containers.iter().map(|one| Process::open(one.pid).unwrap()).collect();
        Process::open(pod.shim.pid()).unwrap().send(Signal::KILL).unwrap();
        pod.shim.gone().await;
        assert!(matches!(pod.shim.state().await, Err(ShimError::Gone)));
        let hierarchies = Hierarchies::find().unwrap();
        let cgroup = pod.cgroup();
        cgroup.kill(&hierarchies).unwrap();
        assert!(cgroup.pids(&hierarchies).unwrap().is_empty());
        cgroup.remove(&hierarchies).unwrap();
        for process in &held {
            let mut ended = [PollFd::new(process, PollFlags::IN)];
            let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut ended, Some(&patience)).unwrap(), 1);
        }
        pod.assert_nothing_left();
    });
}

#[test]
fn a_shim_that_cannot_be_set_up_says_why() {
    inside(|| async {
        let pod = TestPod::new("unready").await;
        let mut config = pod.shim_config("unready");
        config.cgroup = "/not-ours/pod".to_owned();
        config.socket = pod.path("other.sock");
        let error = ShimClient::spawn(&config).await.unwrap_err().to_string();
        assert!(error.contains("is not the cgroup of a pod"), "{error}");
        pod.end().await;
    });
}

#[test]
fn a_long_log_is_rotated_while_the_container_writes() {
    inside(|| async {
        let mut pod = TestPod::new("rotate").await;
        pod.run_to_end(pod.container("a", &["count", "300000"])).await;
        let path = pod.path("logs/a/0.log");
        let older = node::cri_log::rotated(&path, 1);
        wait_for_text(&path, "stdout F 300000\n").await;
        let text = [fs::read_to_string(older).unwrap(), fs::read_to_string(&path).unwrap()].concat();
        let numbers = text.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        assert!(numbers.eq(1..=300_000), "a line is missing or out of order");
        pod.end().await;
    });
}

/// On version 2 nothing keeps a container from devices that it could make with MKNOD.
fn default_capabilities() -> &'static str {
    match cgroup_version() {
        Version::V1 => "00000000a80425fb",
        Version::V2 => "00000000a00425fb",
    }
}

fn cgroup_version() -> Version {
    Hierarchies::find().unwrap().version()
}

/// `/proc/self/status` by name.
fn fields(status: &str) -> BTreeMap<String, String> {
    let pairs = status.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}
