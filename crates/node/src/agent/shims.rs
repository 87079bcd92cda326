//! The real runtime: one shim a pod, its network attached from outside, its `/etc` files beside its socket.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Notify, broadcast};

use super::Settings;
use super::runtime::{
    Cause, ContainerSignal, ExecAnswer, Found, PodSandbox, Runtime, RuntimeError, SandboxConfig, Started, Used,
};
use crate::cgroups::{Cgroup, CgroupError, Hierarchies};
use crate::container::ContainerConfig;
use crate::pod_network::PodNetwork;
use crate::shim::Whose;
use crate::shim::client::{ShimClient, ShimConfig, ShimError};
use crate::shim::protocol::{ContainerState, FailureKind, LEVEL};

/// A shim that was told to end has no container left and ends at once.
const SHIM_ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A shim knows its state by heart; one that is silent for so long answers nothing any more.
const SHIM_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Runs every pod in a shim of its own.
pub(crate) struct Shims {
    settings: Settings,
    network: Arc<PodNetwork>,
    hierarchies: Hierarchies,
}

struct ShimSandbox {
    uid: String,
    ip: Ipv4Addr,
    level: u32,
    client: ShimClient,
}

impl Shims {
    pub(crate) fn new(settings: Settings, network: Arc<PodNetwork>, hierarchies: Hierarchies) -> Self {
        Self { settings, network, hierarchies }
    }

    fn socket(&self, uid: &str) -> PathBuf {
        self.settings.pod_run_dir(uid).join("shim.sock")
    }

    fn cgroup(&self, uid: &str) -> String {
        format!("/segue-{}/pod{uid}", self.settings.instance)
    }

    fn shim_config(&self, config: &SandboxConfig) -> ShimConfig {
        let run_dir = self.settings.pod_run_dir(&config.uid);
        ShimConfig {
            executable: self.settings.executable.clone(),
            leading_args: vec!["shim".into()],
            pod_uid: config.uid.clone(),
            hostname: config.hostname.clone(),
            socket: self.socket(&config.uid),
            pid_file: run_dir.join("shim.pid"),
            bundle_dir: run_dir.join("bundles"),
            log_file: self.settings.pod_data_dir(&config.uid).join("shim.log"),
            cgroup: self.cgroup(&config.uid),
            limits: config.limits.clone(),
            sharing: config.sharing.clone(),
        }
    }

    async fn connect(&self, uid: &str) -> Result<Option<ShimClient>, ShimError> {
        match ShimClient::connect(&self.socket(uid)).await {
            Ok(client) => Ok(Some(client)),
            Err(ShimError::Connect { source, .. }) if is_dead(&source) => Ok(None),
            Err(ShimError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the pod's processes: the shim does it, or else the cgroup says which they are.
    async fn end_processes(&self, uid: &str) -> Result<(), Cause> {
        if let Some(client) = self.connect(uid).await? {
            // A shim that can't do it is ended below, like one that is gone.
            let ends = async { drop((client.shutdown().await, client.gone().await)) };
            let _ = tokio::time::timeout(SHIM_ENDS_WITHIN, ends).await;
        }
        let cgroup = Cgroup::parse(&self.cgroup(uid))?;
        let hierarchies = self.hierarchies.clone();
        let ended = tokio::task::spawn_blocking(move || {
            cgroup.kill(&hierarchies)?;
            cgroup.remove(&hierarchies)
        });
        Ok(ended.await??)
    }

    async fn clear(&self, uid: &str) -> Result<(), Cause> {
        self.end_processes(uid).await?;
        Ok(self.network.detach(uid).await?)
    }

    async fn make(&self, config: &SandboxConfig, wake: Arc<Notify>) -> Result<Found, Cause> {
        self.end_processes(&config.uid).await?;
        for directory in [self.settings.pod_run_dir(&config.uid), self.settings.pod_data_dir(&config.uid)] {
            std::fs::create_dir_all(directory)?;
        }
        remove_directory(&self.settings.pod_run_dir(&config.uid).join("bundles"))?;
        let client = ShimClient::spawn(&self.shim_config(config)).await?;
        let ip = match config.sharing.network {
            Whose::Pod => self.network.attach(&config.uid, &client.network_namespace()).await?,
            Whose::Machine => {
                std::fs::write(self.machines_network(&config.uid), "")?;
                self.settings.host_ip
            }
        };
        Ok(found(config.uid.clone(), ip, LEVEL, client, wake))
    }

    /// There once a pod in the machine's network is complete.
    fn machines_network(&self, uid: &str) -> PathBuf {
        self.settings.pod_run_dir(uid).join("host-network")
    }

    async fn find(&self, uid: &str, wake: Arc<Notify>) -> Result<Option<Found>, Cause> {
        let Some(client) = self.connect(uid).await? else { return Ok(None) };
        // Without an address its making was not finished.
        let ip = match self.machines_network(uid).exists() {
            true => Some(self.settings.host_ip),
            false => self.network.address(uid)?,
        };
        let Some(ip) = ip else { return Ok(None) };
        let state = tokio::time::timeout(SHIM_ANSWERS_WITHIN, client.state()).await??;
        Ok(Some(found(uid.to_owned(), ip, state.level, client, wake)))
    }

    fn memory_of(&self, uid: &str) -> Result<Used, CgroupError> {
        let pod = Cgroup::parse(&self.cgroup(uid))?;
        let whole = pod.working_set(&self.hierarchies)?;
        let mut containers = BTreeMap::new();
        for id in pod.children(&self.hierarchies)? {
            // A run is named after its container and its number.
            if let Some((name, _)) = id.rsplit_once('-') {
                *containers.entry(name.to_owned()).or_default() += pod.child(&id)?.working_set(&self.hierarchies)?;
            }
        }
        Ok(Used { whole, containers })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let directory = self.settings.run_dir.join("pods");
        match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        }
    }
}

impl Runtime for Shims {
    fn find_pods(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        Box::pin(async { self.list().map_err(|error| RuntimeError::List(error.into())) })
    }

    fn adopt<'a>(&'a self, uid: &'a str, wake: Arc<Notify>) -> BoxFuture<'a, Result<Option<Found>, RuntimeError>> {
        let failed = |source| RuntimeError::Reach { uid: uid.to_owned(), source };
        Box::pin(async move { self.find(uid, wake).await.map_err(failed) })
    }

    fn create<'a>(
        &'a self,
        config: &'a SandboxConfig,
        wake: Arc<Notify>,
    ) -> BoxFuture<'a, Result<Found, RuntimeError>> {
        let failed = |source| RuntimeError::Create { uid: config.uid.clone(), source };
        Box::pin(async move { self.make(config, wake).await.map_err(failed) })
    }

    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let failed = |source| RuntimeError::Remove { uid: uid.to_owned(), source };
        Box::pin(async move {
            self.clear(uid).await.map_err(failed)?;
            remove_directory(&self.settings.pod_run_dir(uid)).map_err(|error| failed(error.into()))
        })
    }

    fn memory(&self, uid: &str) -> Result<Used, RuntimeError> {
        self.memory_of(uid).map_err(|error| RuntimeError::Memory { uid: uid.to_owned(), source: error.into() })
    }
}

impl ShimSandbox {
    async fn create_and_start(&self, config: ContainerConfig) -> Result<Started, ShimError> {
        let id = config.id.clone();
        match self.client.create(config.clone()).await {
            Ok(_) => {}
            // Made by an engine that ended before it could start it.
            Err(ShimError::Failed(failure)) if failure.kind == FailureKind::AlreadyExists => {
                self.client.remove(&id).await?;
                self.client.create(config).await?;
            }
            Err(error) => return cannot_run(error),
        }
        match self.client.start(&id).await {
            Ok(()) => Ok(Started::Running),
            Err(error) => cannot_run(error),
        }
    }
}

impl PodSandbox for ShimSandbox {
    fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    fn level(&self) -> u32 {
        self.level
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerState>, RuntimeError>> {
        let failed = |source| RuntimeError::State { uid: self.uid.clone(), source };
        Box::pin(async move {
            match tokio::time::timeout(SHIM_ANSWERS_WITHIN, self.client.state()).await {
                Ok(state) => state.map(|state| state.containers).map_err(|error| failed(error.into())),
                Err(elapsed) => Err(failed(elapsed.into())),
            }
        })
    }

    fn start(&self, config: ContainerConfig) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        let id = config.id.clone();
        Box::pin(async move {
            let started = self.create_and_start(config).await;
            started.map_err(|error| RuntimeError::Start { id, source: error.into() })
        })
    }

    fn signal<'a>(&'a self, id: &'a str, signal: ContainerSignal) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let name = match signal {
            ContainerSignal::Stop => None,
            ContainerSignal::Kill => Some("KILL"),
        };
        Box::pin(async move {
            match self.client.signal(id, name).await {
                Err(ShimError::Failed(failure)) if has_ended(failure.kind) => Ok(()),
                sent => sent.map_err(|error| RuntimeError::Signal { id: id.to_owned(), source: error.into() }),
            }
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            match self.client.remove(id).await {
                Err(ShimError::Failed(failure)) if failure.kind == FailureKind::NotFound => Ok(()),
                removed => {
                    removed.map_err(|error| RuntimeError::RemoveContainer { id: id.to_owned(), source: error.into() })
                }
            }
        })
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecAnswer, RuntimeError>> {
        Box::pin(async move {
            match self.client.exec(id, command.to_vec(), Some(timeout), None).await {
                Ok(result) => Ok(ExecAnswer::Exited { code: result.exit_code, output: result.output }),
                Err(ShimError::Failed(failure)) if failure.kind == FailureKind::TimedOut => Ok(ExecAnswer::TimedOut),
                Err(error) => Err(RuntimeError::Exec { id: id.to_owned(), source: error.into() }),
            }
        })
    }
}

fn found(uid: String, ip: Ipv4Addr, level: u32, client: ShimClient, wake: Arc<Notify>) -> Found {
    tokio::spawn(wake_on_changes(client.clone(), wake));
    Arc::new(ShimSandbox { uid, ip, level, client })
}

/// Ends with the shim, or when nobody else holds the sandbox and its pod.
async fn wake_on_changes(client: ShimClient, wake: Arc<Notify>) {
    let mut events = client.events();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => wake.notify_one(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = client.gone() => return wake.notify_one(),
        }
    }
}

/// A command that can't be run is no failure of ours.
fn cannot_run(error: ShimError) -> Result<Started, ShimError> {
    if let ShimError::Failed(failure) = &error
        && failure.kind == FailureKind::CannotRun
    {
        return Ok(Started::CannotRun(failure.message.clone()));
    }
    Err(error)
}

fn has_ended(kind: FailureKind) -> bool {
    match kind {
        FailureKind::NotFound | FailureKind::WrongState => true,
        FailureKind::AlreadyExists
        | FailureKind::Invalid
        | FailureKind::CannotRun
        | FailureKind::TimedOut
        | FailureKind::Internal => false,
    }
}

/// Nobody listens, or there never was a socket.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn remove_directory(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
