//! A runtime and an image store that live in memory, for tests of the loop. Like shims, a fake pod outlives the agent
//! that started it. Everything that is asked of it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decide::image_garbage::Disk;
use decide::images::ImageReference;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, RwLock};

use super::images::{Images, LayersInUse};
use super::runtime::{
    Cause, ContainerSignal, ExecAnswer, Found, PodSandbox, Runtime, RuntimeError, SandboxConfig, Started, Used,
};
use crate::container::ContainerConfig;
use crate::images::{Digest, Image, Keyring, Swept, Unswept};
use crate::shim::protocol::{ContainerState, Exit, LEVEL, Status};

/// Pods in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, FakePod>,
    given_addresses: u8,
    asked: Vec<String>,
    ignores_stop: BTreeSet<String>,
    exec_codes: BTreeMap<String, i32>,
    cannot_run: BTreeSet<String>,
    cannot_create_sandboxes: bool,
    cannot_create: BTreeSet<String>,
    older_shims: bool,
}

#[derive(Debug)]
struct FakePod {
    ip: Ipv4Addr,
    containers: Vec<ContainerState>,
    wakes: Vec<Arc<Notify>>,
}

/// How a fake container ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    OutOfMemory,
}

struct FakeSandbox {
    state: Arc<Mutex<State>>,
    uid: String,
    ip: Ipv4Addr,
}

impl FakeRuntime {
    /// What was asked so far, e.g. `start web-0` or `stop web-0`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    /// How often this was asked.
    #[must_use]
    pub fn count(&self, asked: &str) -> usize {
        self.lock().asked.iter().filter(|each| *each == asked).count()
    }

    /// Ends the running container of this name, in whichever pod it is.
    pub fn end(&self, container: &str, end: End) {
        let mut state = self.lock();
        for pod in state.pods.values_mut() {
            pod.end(|each| each.name == container, end);
        }
    }

    /// The container's process does not end on its stop signal.
    pub fn ignores_stop(&self, container: &str) {
        self.lock().ignores_stop.insert(container.to_owned());
    }

    /// From now on commands in this container end with this code.
    pub fn exec_answers(&self, container: &str, code: i32) {
        self.lock().exec_codes.insert(container.to_owned(), code);
    }

    /// The container's command is not in its image.
    pub fn cannot_run(&self, container: &str) {
        self.lock().cannot_run.insert(container.to_owned());
    }

    /// No sandbox can be made from now on.
    pub fn cannot_create_sandboxes(&self) {
        self.lock().cannot_create_sandboxes = true;
    }

    /// The container can't be made.
    pub fn cannot_create(&self, container: &str) {
        self.lock().cannot_create.insert(container.to_owned());
    }

    /// Whatever shims there are were made by the first Segue.
    pub fn shims_are_older(&self) {
        self.lock().older_shims = true;
    }

    /// Every shim dies, and its containers with it.
    pub fn kill_shims(&self) {
        let pods = std::mem::take(&mut self.lock().pods);
        pods.values().for_each(FakePod::wake);
    }

    /// Names of the containers that run.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let state = self.lock();
        let containers = state.pods.values().flat_map(|pod| &pod.containers);
        containers.filter(|each| is_running(each)).map(|each| each.id.clone()).collect()
    }

    /// How many sandboxes there are.
    #[must_use]
    pub fn sandboxes(&self) -> usize {
        self.lock().pods.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandbox(&self, uid: &str, ip: Ipv4Addr) -> Found {
        Arc::new(FakeSandbox { state: Arc::clone(&self.state), uid: uid.to_owned(), ip })
    }
}

impl Runtime for FakeRuntime {
    fn find_pods(&self) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        Box::pin(async { Ok(self.lock().pods.keys().cloned().collect()) })
    }

    fn adopt<'a>(&'a self, uid: &'a str, wake: Arc<Notify>) -> BoxFuture<'a, Result<Option<Found>, RuntimeError>> {
        Box::pin(async move {
            let mut state = self.lock();
            let Some(pod) = state.pods.get_mut(uid) else { return Ok(None) };
            pod.wakes.push(wake);
            let ip = pod.ip;
            drop(state);
            Ok(Some(self.sandbox(uid, ip)))
        })
    }

    fn create<'a>(
        &'a self,
        config: &'a SandboxConfig,
        wake: Arc<Notify>,
    ) -> BoxFuture<'a, Result<Found, RuntimeError>> {
        Box::pin(async move {
            let mut state = self.lock();
            state.asked.push("create sandbox".to_owned());
            if state.cannot_create_sandboxes {
                return Err(RuntimeError::Create { uid: config.uid.clone(), source: "no namespaces".into() });
            }
            state.given_addresses += 1;
            let ip = Ipv4Addr::new(10, 44, 0, state.given_addresses);
            state.pods.insert(config.uid.clone(), FakePod { ip, containers: Vec::new(), wakes: vec![wake] });
            drop(state);
            Ok(self.sandbox(&config.uid, ip))
        })
    }

    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            let mut state = self.lock();
            state.asked.push("remove sandbox".to_owned());
            state.pods.remove(uid);
            Ok(())
        })
    }

    fn memory(&self, _: &str) -> Result<Used, RuntimeError> {
        Ok(Used { whole: 1, containers: BTreeMap::new() })
    }
}

impl PodSandbox for FakeSandbox {
    fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    fn level(&self) -> u32 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.older_shims { 0 } else { LEVEL }
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerState>, RuntimeError>> {
        Box::pin(async { self.with_pod(|pod, _| pod.containers.clone()) })
    }

    fn start(&self, config: ContainerConfig) -> BoxFuture<'_, Result<Started, RuntimeError>> {
        Box::pin(async move {
            self.with_pod(|pod, rest| {
                rest.asked.push(format!("start {}", config.id));
                if rest.cannot_create.contains(&config.name) {
                    let source: Cause = "no such directory".into();
                    return Err(RuntimeError::Start { id: config.id, source });
                }
                if rest.cannot_run.contains(&config.name) {
                    return Ok(Started::CannotRun(format!("exec: {:?}: no such file or directory", config.args)));
                }
                pod.containers.push(container(&config));
                Ok(Started::Running)
            })?
        })
    }

    fn signal<'a>(&'a self, id: &'a str, signal: ContainerSignal) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.with_pod(|pod, rest| {
                let named = pod.containers.iter().find(|each| each.id == id).map(|each| each.name.clone());
                let (word, end) = match signal {
                    ContainerSignal::Kill => ("kill", Some(End::Code(137))),
                    ContainerSignal::Stop if named.is_some_and(|name| rest.ignores_stop.contains(&name)) => {
                        ("stop", None)
                    }
                    ContainerSignal::Stop => ("stop", Some(End::Code(143))),
                };
                rest.asked.push(format!("{word} {id}"));
                end.into_iter().for_each(|end| pod.end(|each| each.id == id, end));
            })
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.with_pod(|pod, rest| {
                rest.asked.push(format!("remove {id}"));
                pod.containers.retain(|each| each.id != id);
            })
        })
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        _timeout: Duration,
    ) -> BoxFuture<'a, Result<ExecAnswer, RuntimeError>> {
        Box::pin(async move {
            self.with_pod(|pod, rest| {
                rest.asked.push(format!("exec {id} {}", command.join(" ")));
                let name = pod.containers.iter().find(|each| each.id == id).map(|each| each.name.clone());
                let code = name.and_then(|name| rest.exec_codes.get(&name).copied()).unwrap_or(0);
                ExecAnswer::Exited { code, output: String::new() }
            })
        })
    }
}

impl FakeSandbox {
    fn with_pod<T>(&self, act: impl FnOnce(&mut FakePod, &mut State) -> T) -> Result<T, RuntimeError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut pod) = state.pods.remove(&self.uid) else {
            return Err(RuntimeError::State { uid: self.uid.clone(), source: "the shim has gone".into() });
        };
        let answer = act(&mut pod, &mut state);
        state.pods.insert(self.uid.clone(), pod);
        Ok(answer)
    }
}

impl FakePod {
    fn end(&mut self, which: impl Fn(&ContainerState) -> bool, end: End) {
        for container in self.containers.iter_mut().filter(|each| is_running(each) && which(each)) {
            container.status = Status::Exited(exit(end));
        }
        self.wake();
    }

    fn wake(&self) {
        self.wakes.iter().for_each(|wake| wake.notify_one());
    }
}

fn container(config: &ContainerConfig) -> ContainerState {
    let now = Timestamp::now();
    ContainerState {
        id: config.id.clone(),
        name: config.name.clone(),
        attempt: config.attempt,
        pid: 2,
        created_at: now,
        status: Status::Running { started_at: now },
    }
}

fn exit(end: End) -> Exit {
    let now = Timestamp::now();
    let (code, oom_killed) = match end {
        End::Code(code) => (code, false),
        End::OutOfMemory => (137, true),
    };
    Exit {
        code,
        signal: (code > 128).then_some(code - 128),
        oom_killed,
        started_at: Some(now),
        finished_at: now,
        start_error: None,
    }
}

fn is_running(container: &ContainerState) -> bool {
    match container.status {
        Status::Running { .. } => true,
        Status::Created | Status::Exited(_) => false,
    }
}

/// Images in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct FakeImages {
    state: Arc<Mutex<Shelves>>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Names, each with the directory that is the image's only layer, if it has one.
    present: BTreeMap<String, Option<PathBuf>>,
    registry: BTreeSet<String>,
    pulls: usize,
    /// How often nothing could be removed.
    kept: usize,
}

impl FakeImages {
    pub fn kept(&self) -> usize {
        self.lock().kept
    }

    /// The store has an image of this name.
    pub fn has(&self, name: &str) {
        self.lock().present.insert(canonical(name), None);
    }

    /// The store has an image of this name that holds what is in this directory.
    pub fn has_with(&self, name: &str, layer: &Path) {
        self.lock().present.insert(canonical(name), Some(layer.to_owned()));
    }

    /// The registry has one.
    pub fn can_be_pulled(&self, name: &str) {
        self.lock().registry.insert(canonical(name));
    }

    /// How often the registry was asked.
    #[must_use]
    pub fn pulls(&self) -> usize {
        self.lock().pulls
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images for FakeImages {
    fn find<'a>(&'a self, image: &'a ImageReference) -> BoxFuture<'a, Result<Option<Image>, Cause>> {
        Box::pin(async move {
            let shelves = self.lock();
            Ok(shelves.present.get(&image.canonical()).map(|layer| fake_image(image, layer.clone())))
        })
    }

    fn disk(&self) -> Disk {
        Disk::default()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>, Cause>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn remove(&self, _: Vec<ImageReference>, _: LayersInUse) -> BoxFuture<'_, Result<Swept, Cause>> {
        Box::pin(async {
            self.lock().kept += 1;
            Ok(Swept::No)
        })
    }

    fn unswept(&self) -> BoxFuture<'_, Unswept> {
        Box::pin(async { Unswept { _lock: Arc::new(RwLock::default()).read_owned().await } })
    }

    fn pull<'a>(&'a self, image: &'a ImageReference, _: Keyring) -> BoxFuture<'a, Result<Image, Cause>> {
        Box::pin(async move {
            let mut shelves = self.lock();
            shelves.pulls += 1;
            if !shelves.registry.contains(&image.canonical()) {
                return Err(format!("{}: not found", image.canonical()).into());
            }
            shelves.present.insert(image.canonical(), None);
            Ok(fake_image(image, None))
        })
    }
}

fn canonical(name: &str) -> String {
    ImageReference::parse(name).map_or_else(|_| name.to_owned(), |image| image.canonical())
}

fn fake_image(image: &ImageReference, layer: Option<PathBuf>) -> Image {
    Image {
        id: Digest::of(image.canonical().as_bytes()),
        reference: image.canonical(),
        repo_digests: Vec::new(),
        config: oci_spec::image::ImageConfiguration::default(),
        layers: layer.into_iter().collect(),
        size: 1,
    }
}
