//! A keeper and a proxy as real processes, on loopback addresses that no other test uses.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use decide::balancing::EndpointState;
use network::config::{
    Affinity, Change, DataPlaneConfig, Dns, Elsewhere, Endpoint, PodUid, ProxyProtocol, Service, ServicePort, Speaks,
};
use network::frames::{Command, Drain, Refused, Report, encode};
use network::keeper::{KeeperSettings, ProxyUser};
use network::link::{DataPlaneCommand, Greeting, Link};
use objects::traffic::{Series, SeriesKey};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Longer than anything but a hang takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports of the Service.
pub(crate) const PORT: u16 = 8080;
const POD_PORT: u16 = 9090;

pub(crate) struct Plane {
    pub(crate) link: Link,
    pub(crate) command: DataPlaneCommand,
    pub(crate) config: DataPlaneConfig,
    /// What was sent last over this link.
    sent: Option<DataPlaneConfig>,
    pub(crate) affinity: Affinity,
    pub(crate) sticky_cookie: Option<String>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) max_request_body: Option<u64>,
    pub(crate) elsewhere: Vec<Elsewhere>,
    pub(crate) net: u8,
    counted: HashMap<SeriesKey, Series>,
    _run_dir: tempfile::TempDir,
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::start_with_proxy_user(None).await
    }

    pub(crate) async fn start_with_proxy_user(proxy_user: Option<ProxyUser>) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let command = DataPlaneCommand {
            executable: executable(),
            keeper: KeeperSettings { run_dir: run_dir.path().to_owned(), proxy_user },
            log: run_dir.path().join("data-plane.log"),
            access_log: run_dir.path().join("access.log"),
        };
        let (link, greeting) = Link::open(&command).await.unwrap();
        assert_eq!(greeting.version, 0, "a new keeper has no configuration");
        Self {
            link,
            command,
            config: DataPlaneConfig::default(),
            sent: None,
            affinity: Affinity::None,
            sticky_cookie: None,
            proxy_protocol: None,
            max_request_body: None,
            elsewhere: Vec::new(),
            net: next_net(),
            counted: HashMap::new(),
            _run_dir: run_dir,
        }
    }

    /// Where the Service is reached.
    pub(crate) fn service(&self) -> SocketAddr {
        SocketAddr::new(self.service_ip(), PORT)
    }

    pub(crate) fn service_ip(&self) -> IpAddr {
        IpAddr::from([127, first_octet(), self.net, 1])
    }

    /// The address of the Service's pod of this number, from 2 on.
    pub(crate) fn pod(&self, number: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::from([127, first_octet(), self.net, number]), POD_PORT)
    }

    /// Gives the Service these pods, and waits for the acknowledgement.
    pub(crate) async fn route(&mut self, pods: &[(u8, EndpointState)]) -> Vec<Refused> {
        self.route_speaking(Speaks::FindOut, pods).await
    }

    pub(crate) async fn route_speaking(&mut self, speaks: Speaks, pods: &[(u8, EndpointState)]) -> Vec<Refused> {
        let endpoints = pods.iter().map(|(number, state)| self.endpoint(*number, *state)).collect();
        let (name, elsewhere) = (String::new(), self.elsewhere.clone());
        let ports = vec![ServicePort { port: PORT, node_port: None, name, speaks, endpoints, elsewhere }];
        let addresses = vec![self.service_ip()];
        self.config.services = vec![Arc::new(Service {
            namespace: "production".to_owned(),
            name: "demo-app".to_owned(),
            answers: addresses.clone(),
            addresses,
            affinity: self.affinity,
            sticky_cookie: self.sticky_cookie.clone(),
            proxy_protocol: self.proxy_protocol,
            max_request_body: self.max_request_body,
            is_in_mesh: true,
            ports,
            ..Service::default()
        })];
        self.configure().await
    }

    /// Sends `config` under a new version, as a change where an engine would, and waits for the acknowledgement.
    pub(crate) async fn configure(&mut self) -> Vec<Refused> {
        self.config.version += 1;
        self.config.listen = self.config.wanted_listeners();
        match self.sent.as_ref().and_then(|sent| Change::between(sent, &self.config)) {
            Some(change) => self.link.change(change).await.unwrap(),
            None => self.link.configure(&self.config).await.unwrap(),
        }
        self.sent = Some(self.config.clone());
        self.acknowledgement(self.config.version).await
    }

    /// The Service of this place, to be changed.
    pub(crate) fn service_mut(&mut self, place: usize) -> &mut Service {
        Arc::make_mut(&mut self.config.services[place])
    }

    pub(crate) async fn serve_dns(&mut self, forward_to: Vec<SocketAddr>) {
        let listen = vec![SocketAddr::new(self.service_ip(), 5353)];
        let ranges = self.config.dns.ranges.clone();
        self.config.dns = Dns { listen, domain: "cluster.local".to_owned(), forward_to, ranges };
        self.configure().await;
    }

    pub(crate) async fn show_metrics(&mut self) -> SocketAddr {
        let at = SocketAddr::new(self.service_ip(), 9153);
        self.config.metrics = Some(at);
        self.configure().await;
        at
    }

    fn endpoint(&self, number: u8, state: EndpointState) -> Endpoint {
        Endpoint {
            ip: self.pod(number).ip(),
            port: POD_PORT,
            pod: uid(number),
            pod_name: format!("demo-app-{number}"),
            pod_version: "v1".to_owned(),
            state,
        }
    }

    pub(crate) async fn acknowledgement(&mut self, wanted: u64) -> Vec<Refused> {
        loop {
            if let Report::Acknowledged { version, refused, .. } = self.report().await
                && version == wanted
            {
                return refused;
            }
        }
    }

    /// Waits until the keeper says which version it has.
    pub(crate) async fn greeting(&mut self, wanted: u64) {
        while !matches!(self.report().await, Report::Hello { version, .. } if version == wanted) {}
    }

    /// Waits until the work of a pod, counted under the last configuration, is as wanted.
    pub(crate) async fn drained_to(&mut self, number: u8, requests: u32, long: u32) {
        let wanted = Drain { uid: uid(number), requests, long };
        loop {
            if let Report::Drains { version, pods } = self.report().await
                && version == self.config.version
                && pods.contains(&wanted)
            {
                return;
            }
        }
    }

    /// Waits until what was counted of the Service with one pod, or with none, is as wanted.
    pub(crate) async fn counted(&mut self, pod: Option<u8>, is_as_wanted: impl Fn(&Series) -> bool) -> Series {
        let pod = pod.map(|number| uid(number).0).unwrap_or_default();
        loop {
            let found = self.counted.values().find(|one| one.key.pod_uid == pod && is_as_wanted(one));
            if let Some(found) = found {
                return found.clone();
            }
            // Only what has changed is told again.
            if let Report::Traffic { series, .. } = self.report().await {
                self.counted.extend(series.into_iter().map(|one| (one.key.clone(), one)));
            }
        }
    }

    async fn report(&mut self) -> Report {
        let received = tokio::time::timeout(PATIENCE, self.link.receive()).await;
        received.expect("a report comes").unwrap().expect("the keeper lives")
    }

    /// Has the proxy replaced, and waits until the new one has taken over.
    pub(crate) async fn replace_proxy(&mut self) {
        self.link.replace_proxy().await.unwrap();
        while self.report().await != Report::ProxyReplaced {}
    }

    /// Kills the proxy, and tells its process id.
    pub(crate) fn kill_proxy(&self) -> i32 {
        let proxy = self.proxy_pid();
        kill(proxy, "proxy");
        proxy
    }

    pub(crate) fn kill_keeper(&self) {
        kill(self.keeper_pid(), "keeper");
    }

    pub(crate) fn proxy_pid(&self) -> i32 {
        *self.proxy_pids().first().expect("the keeper has a proxy")
    }

    /// The oldest first.
    pub(crate) fn proxy_pids(&self) -> Vec<i32> {
        let keeper = self.keeper_pid();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Found by its arguments: a connection to ask it would take the place of the engine's.
    fn keeper_pid(&self) -> i32 {
        let run_dir = self.run_dir().as_os_str().as_bytes();
        let is_keeper = |pid: &i32| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments.nth(1) == Some(b"keeper") && arguments.any(|argument| argument == run_dir)
        };
        let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        let mut pids = names.filter_map(|name| name.to_str()?.parse().ok());
        pids.find(is_keeper).expect("the keeper lives")
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.command.keeper.run_dir
    }

    /// Connects as an engine that was started anew. As an engine does, it tries again where a keeper that was killed
    /// is not wholly gone.
    pub(crate) async fn connect_again(&mut self) -> u64 {
        let mut last = Link::open(&self.command).await;
        for _ in 0..100 {
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = Link::open(&self.command).await;
        }
        let (link, Greeting { version, takes_changes }) = last.unwrap();
        assert!(takes_changes);
        (self.link, self.sent) = (link, None);
        version
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for name in ["keeper.sock", "proxy.sock"] {
            if let Ok(mut stream) = UnixStream::connect(self.run_dir().join(name)) {
                let _ = stream.write_all(&encode(&Command::<DataPlaneConfig>::ShutDown));
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    }
}

pub(crate) fn uid(number: u8) -> PodUid {
    PodUid(format!("uid-{number}"))
}

fn kill(pid: i32, role: &str) {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let second = arguments.split(|byte| *byte == 0).nth(1).unwrap();
    assert_eq!(second, role.as_bytes(), "process {pid} is no {role}");
    let process = pidfd_open(Pid::from_raw(pid).expect("a process id"), PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&process, Signal::KILL).unwrap();
}

/// Tests run in this process at the same time, and so may other runs of them.
fn first_octet() -> u8 {
    64 + (std::process::id() % 128) as u8
}

fn next_net() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// `cargo test` builds examples beside the tests.
pub(crate) fn executable() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(Path::parent).expect("tests are in target/<profile>/deps");
    target.join("examples/data_plane")
}
