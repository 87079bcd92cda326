use std::process::{Command, Stdio};

use super::*;

/// Runs this test again in network namespaces of its own; the second run does the work.
fn in_own_namespaces(test: &str, work: impl Future<Output = ()>) {
    if std::env::var_os("SEGUE_OWN_NAMESPACES").is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(work);
    }
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "--mount", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env("SEGUE_OWN_NAMESPACES", "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its own namespaces; it needs root");
}

/// A namespace that stands for a pod's, held open by a process that waits for its input to end.
struct Pod {
    process: std::process::Child,
}

impl Pod {
    fn start() -> Self {
        use std::io::Read;
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        Self { process }
    }

    fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.process.id()))
    }

    fn run(&self, command: &[&str]) -> String {
        let namespace = format!("--net=/proc/{}/ns/net", self.process.id());
        output(Command::new("nsenter").arg(namespace).args(command))
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn host(command: &[&str]) -> String {
    output(Command::new(command[0]).args(&command[1..]))
}

fn open(run_dir: &Path) -> PodNetwork {
    PodNetwork::open(run_dir, "default", "10.44.0.0/16".parse().unwrap()).unwrap()
}

fn run_dir_of_pods(parent: &Path, uids: &[&str]) -> PathBuf {
    let run_dir = parent.join("default");
    for uid in uids {
        std::fs::create_dir_all(run_dir.join("pods").join(uid)).unwrap();
    }
    run_dir
}

/// Opens a TCP connection to the pod and answers which address the pod saw it come from.
async fn seen_by(pod: &Pod, address: Ipv4Addr) -> String {
    let namespace: std::os::fd::OwnedFd = File::open(pod.namespace()).unwrap().into();
    let listener = std::thread::spawn(move || {
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), network).unwrap();
        std::net::TcpListener::bind((address, 80)).unwrap()
    })
    .join()
    .unwrap();
    let stream = tokio::net::TcpStream::connect((address, 80)).await.unwrap();
    let (_, peer) = listener.accept().unwrap();
    drop(stream);
    peer.ip().to_string()
}

#[test]
fn pods_reach_the_host_and_each_other() {
    in_own_namespaces("pod_network::tests::pods_reach_the_host_and_each_other", async {
        let directory = tempfile::tempdir().unwrap();
        let (one_uid, other_uid) = ("11111111-aaaa", "22222222-bbbb");
        let network = open(&run_dir_of_pods(directory.path(), &[one_uid, other_uid]));
        let (one, other) = (Pod::start(), Pod::start());
        let address = network.attach(one_uid, &one.namespace()).await.unwrap();
        let other_address = network.attach(other_uid, &other.namespace()).await.unwrap();
        assert_ne!(address, other_address);
        assert!(one.run(&["ip", "route"]).contains("default via 169.254.1.1 dev eth0"));
        assert_eq!(seen_by(&one, address).await, "169.254.1.1");

        let target = format!("{other_address}");
        let listening = std::thread::scope(|scope| {
            let namespace: std::os::fd::OwnedFd = File::open(other.namespace()).unwrap().into();
            let listener = scope.spawn(move || {
                let network = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), network).unwrap();
                std::net::TcpListener::bind((other_address, 81)).unwrap()
            });
            listener.join().unwrap()
        });
        one.run(&["bash", "-c", &format!("exec 3<>/dev/tcp/{target}/81")]);
        assert_eq!(listening.accept().unwrap().1.ip(), std::net::IpAddr::V4(address));
        one.end();
        other.end();
    });
}

#[test]
fn nothing_is_left_after_the_last_pod() {
    in_own_namespaces("pod_network::tests::nothing_is_left_after_the_last_pod", async {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let run_dir = run_dir_of_pods(directory.path(), &["11111111-aaaa", "22222222-bbbb"]);
        let network = open(&run_dir);
        assert_eq!(host(&["cat", "/proc/sys/net/ipv4/ip_forward"]), "1\n");
        let (one, other) = (Pod::start(), Pod::start());
        network.attach("11111111-aaaa", &one.namespace()).await.unwrap();
        let kept = network.attach("22222222-bbbb", &other.namespace()).await.unwrap();

        network.detach("11111111-aaaa").await.unwrap();
        network.detach("11111111-aaaa").await.unwrap();
        drop(network);

        let next = open(&run_dir);
        assert_eq!(next.address("22222222-bbbb").unwrap(), Some(kept));
        assert_eq!(next.address("11111111-aaaa").unwrap(), None);
        next.remove_leftovers(&["22222222-bbbb".to_owned()].into()).await.unwrap();
        assert!(host(&["ip", "route"]).contains(&kept.to_string()));

        next.close().await.unwrap();
        assert_eq!(host(&["ip", "route"]), "");
        assert!(!host(&["ip", "-o", "link"]).contains("sg"));
        assert_eq!(host(&["cat", "/proc/sys/net/ipv4/ip_forward"]), "0\n");
        one.end();
        other.end();
    });
}

#[test]
fn a_pod_that_was_connected_half_way_counts_as_not_connected() {
    in_own_namespaces("pod_network::tests::a_pod_that_was_connected_half_way_counts_as_not_connected", async {
        let directory = tempfile::tempdir().unwrap();
        let uid = "11111111-aaaa";
        let run_dir = run_dir_of_pods(directory.path(), &[uid]);
        let network = open(&run_dir);
        let failed = network.attach(uid, Path::new("/proc/none/ns/net")).await;
        assert!(matches!(failed, Err(NetworkError::Namespace { .. })), "{failed:?}");
        drop(network);

        let next = open(&run_dir);
        assert_eq!(next.address(uid).unwrap(), None);
        let pod = Pod::start();
        let address = next.attach(uid, &pod.namespace()).await.unwrap();
        assert_eq!(next.address(uid).unwrap(), Some(address));
        pod.end();
    });
}
