//! Creates, joins and removes containers through libcontainer. Only the single-threaded shim may: every function here
//! forks, and the process becomes non-dumpable. Nothing here signals a container; `pidfd` does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::OciSpecError;
use oci_spec::runtime::{Process as OciProcess, Spec};
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use super::capabilities::{self, DeviceControl, UnknownCapability};
use super::executor::{Workload, chain};
use super::rootfs::{self, RootfsError};
use super::seccomp::SeccompError;
use super::spec::{self, Host, SwapLimit};
use super::{CapabilityChange, Confinement, ContainerConfig, MountSource, Privilege, devices};
use crate::cgroups::{Cgroup, CgroupError, Hierarchies, Version};
use crate::pidfd::{Process, ProcessError};
use crate::shim::pause::Pause;
use crate::shim::protocol::Streams;

/// What Docker gives; the machine may allow less.
const MAX_OPEN_FILES: u64 = 1024 * 1024;
const SHM_BYTES: u64 = 64 * 1024 * 1024;
const NOTHING: &str = "/dev/null";

/// Why a container could not be created, started, joined or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// The program can't be run: the sentence that users of Kubernetes know.
    #[error("{0}")]
    CannotRun(String),
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("cannot mount {path:?} into the container")]
    MountSource {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the runtime spec to {path:?}")]
    WriteSpec {
        path: PathBuf,
        #[source]
        source: OciSpecError,
    },
    #[error("cannot read the runtime spec of container {id}")]
    ReadSpec {
        id: String,
        #[source]
        source: OciSpecError,
    },
    #[error("container {0} has no process in its runtime spec")]
    NoProcess(String),
    #[error("cannot write {path:?}")]
    WriteProcess {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make pipes for container {id}")]
    Pipe {
        id: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot create container {id}")]
    Create {
        id: String,
        #[source]
        source: LibcontainerError,
    },
    #[error("container {0} was created without a process")]
    NoInit(String),
    #[error("cannot take hold of the process of container {id}")]
    Hold {
        id: String,
        #[source]
        source: ProcessError,
    },
    #[error("cannot start container {id}")]
    Start {
        id: String,
        #[source]
        source: LibcontainerError,
    },
    #[error("cannot run a process in container {id}")]
    Join {
        id: String,
        #[source]
        source: LibcontainerError,
    },
    #[error("cannot remove {path:?}")]
    RemoveDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl RuntimeError {
    /// The error and its causes in one line.
    pub(crate) fn sentence(&self) -> String {
        chain(self)
    }
}

/// Where a pod's containers live, and what they share.
#[derive(Debug)]
pub(crate) struct Pod {
    hostname: String,
    directory: PathBuf,
    cgroup: Cgroup,
    hierarchies: Hierarchies,
    shm: PathBuf,
    /// The process that holds the namespace in which the containers share their processes.
    pause: Option<Pause>,
}

/// What a pod's containers share beyond the usual.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The machine's `/dev/shm`, for a pod that has no IPC namespace of its own.
    pub(crate) shm: Option<PathBuf>,
    pub(crate) pause: Option<Pause>,
}

/// A container's standard output and error.
pub(crate) type Outputs = [File; 2];

/// A container whose process waits to be started.
pub(crate) struct Created {
    pub(crate) init: Process,
    /// Closed when the program runs; holds a sentence when it can't be.
    pub(crate) report: File,
    oci: Container,
}

impl Created {
    /// Lets the process go on to its program. Whether that could be run, `report` says.
    pub(crate) fn start(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.oci.start().map_err(|source| RuntimeError::Start { id: id.to_owned(), source })
    }
}

impl Pod {
    /// Prepares what the containers share: the pod's `/dev/shm`.
    pub(crate) fn prepare(
        hostname: String,
        directory: PathBuf,
        cgroup: Cgroup,
        hierarchies: Hierarchies,
        shared: Shared,
    ) -> Result<Self, RuntimeError> {
        let shm = match shared.shm {
            Some(machines) => machines,
            None => {
                let own = directory.join("shm");
                rootfs::mount_tmpfs(&own, Some(SHM_BYTES))?;
                own
            }
        };
        Ok(Self { hostname, directory, cgroup, hierarchies, shm, pause: shared.pause })
    }

    fn volumes(&self) -> PathBuf {
        self.directory.join("volumes")
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.directory.join("bundles").join(id)
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Creates a container, which then waits to be started, with its standard output and error, which don't block.
    /// Leaves nothing behind when that fails.
    pub(crate) fn create(&self, config: &ContainerConfig) -> Result<(Created, Outputs), RuntimeError> {
        let created = self.try_create(config);
        if created.is_err() {
            // The first error is the one to tell; what this leaves, the engine removes with the pod's directory.
            let _ = self.remove(&config.id);
        }
        created
    }

    fn try_create(&self, config: &ContainerConfig) -> Result<(Created, Outputs), RuntimeError> {
        let id = &config.id;
        let cgroup = self.cgroup.child(id)?;
        let bundle = self.bundle(id);
        let root = bundle.join("rootfs");
        rootfs::mount(&config.rootfs, &root)?;
        rootfs::create_working_directory(&root, &spec::working_directory(config))?;
        self.prepare_mounts(config)?;
        let capabilities = self.capabilities(config)?;
        let spec = spec::build(config, &self.host(&root, &cgroup, config, capabilities));
        let path = bundle.join("config.json");
        spec.save(&path).map_err(|source| RuntimeError::WriteSpec { path, source })?;
        let (created, outputs) = self.run_init(config, &bundle, capabilities)?;
        if let Some(score) = config.oom_score_adj {
            set_oom_score(created.init.pid(), score);
        }
        Ok((created, outputs))
    }

    fn prepare_mounts(&self, config: &ContainerConfig) -> Result<(), RuntimeError> {
        for (number, mount) in config.mounts.iter().enumerate() {
            let volume = match &mount.source {
                MountSource::Bind { path } => {
                    fs::metadata(path).map_err(|source| RuntimeError::MountSource { path: path.clone(), source })?;
                    path.clone()
                }
                MountSource::PodTmpfs { name, size_bytes } => {
                    let target = self.volumes().join(name);
                    if !target.exists() {
                        rootfs::mount_tmpfs(&target, *size_bytes)?;
                    }
                    target
                }
                MountSource::Tmpfs { .. } => continue,
            };
            if let Some(path) = &mount.sub_path {
                rootfs::mount_sub_path(&volume, path, &spec::sub_path(&self.bundle(&config.id), number))?;
            }
        }
        Ok(())
    }

    fn unmount_sub_paths(&self, id: &str) -> Result<(), RuntimeError> {
        let entries = fs::read_dir(spec::sub_paths(&self.bundle(id))).into_iter().flatten().flatten();
        for entry in entries {
            rootfs::unmount(&entry.path())?;
        }
        Ok(())
    }

    fn run_init(
        &self,
        config: &ContainerConfig,
        bundle: &Path,
        capabilities: u64,
    ) -> Result<(Created, Outputs), RuntimeError> {
        let id = &config.id;
        let no_pipe = |source| RuntimeError::Pipe { id: id.clone(), source };
        let (stdout, stdout_end) = pipe().map_err(no_pipe)?;
        let (stderr, stderr_end) = pipe().map_err(no_pipe)?;
        let (mut report, report_end) = pipe().map_err(no_pipe)?;
        let built = ContainerBuilder::new(id.clone(), SyscallType::default())
            .with_executor(Workload::new(&config.confinement, capabilities, report_end)?)
            .with_stdout(stdout_end)
            .with_stderr(stderr_end)
            .with_root_path(self.state())
            .and_then(ContainerBuilder::validate_id)
            .and_then(|builder| builder.as_init(bundle).with_systemd(false).with_detach(true).build());
        let oci = built.map_err(|source| match told(&mut report) {
            Some(sentence) => RuntimeError::CannotRun(sentence),
            None => RuntimeError::Create { id: id.clone(), source },
        })?;
        let pid = oci.pid().ok_or_else(|| RuntimeError::NoInit(id.clone()))?;
        let init = Process::open(pid.as_raw()).map_err(|source| RuntimeError::Hold { id: id.clone(), source })?;
        Ok((Created { init, report, oci }, [stdout, stderr]))
    }

    fn host<'a>(&'a self, root: &'a Path, cgroup: &'a Cgroup, config: &ContainerConfig, capabilities: u64) -> Host<'a> {
        let memory = self.hierarchies.directory("memory", &self.cgroup);
        let swap_file = memory.map(|directory| directory.join("memory.memsw.limit_in_bytes"));
        let has_swap_file = swap_file.is_some_and(|file| file.exists());
        let is_v2 = self.hierarchies.version() == Version::V2;
        Host {
            hostname: &self.hostname,
            rootfs: root,
            shm: self.shm.clone(),
            volumes: self.volumes(),
            cgroup: cgroup.as_str(),
            cgroup_version: self.hierarchies.version(),
            cgroup_views: self.hierarchies.v1_views(cgroup),
            swap_limit: if has_swap_file || is_v2 { SwapLimit::Supported } else { SwapLimit::Missing },
            open_files: open_files(),
            capabilities,
            pod_processes: self.pause.as_ref().map(|pause| format!("/proc/{}/ns/pid", pause.pid()).into()),
            devices: match config.confinement.privilege {
                Privilege::Confined => Vec::new(),
                Privilege::Full => devices::of_machine(),
            },
        }
    }

    /// libcontainer restricts devices on version 1 only; on version 2 it would need its eBPF feature.
    fn capabilities(&self, config: &ContainerConfig) -> Result<u64, UnknownCapability> {
        let devices = match self.hierarchies.version() {
            Version::V1 => DeviceControl::Enforced,
            Version::V2 => DeviceControl::Missing,
        };
        let everything = CapabilityChange { add: vec![capabilities::ALL_OF_THEM.to_owned()], drop: Vec::new() };
        let change = match config.confinement.privilege {
            Privilege::Confined => &config.capabilities,
            Privilege::Full => &everything,
        };
        capabilities::resolve(change, available_capabilities(), devices)
    }

    /// Ends what a container's first process has left behind where the kernel doesn't, since it was not the first in
    /// its namespace.
    pub(crate) fn end_others(&self, id: &str) -> Result<(), RuntimeError> {
        Ok(self.cgroup.child(id)?.kill(&self.hierarchies)?)
    }

    /// How many processes of a container the kernel has killed for want of memory. Zero when nobody knows.
    pub(crate) fn oom_kills(&self, id: &str) -> u64 {
        let counted = self.cgroup.child(id).and_then(|cgroup| cgroup.oom_kills(&self.hierarchies));
        counted.unwrap_or(0)
    }

    /// What a process that joins a container needs to know.
    pub(crate) fn joining(&self, config: &ContainerConfig, args: Vec<String>) -> Result<Joining, RuntimeError> {
        let id = config.id.clone();
        let (capabilities, confinement) = (self.capabilities(config)?, config.confinement.clone());
        let (state, bundle) = (self.state(), self.bundle(&id));
        Ok(Joining { id, args, state, bundle, capabilities, confinement })
    }

    /// Ends what is left of a container and removes its cgroup, its mounts and its directories. May be repeated.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let cgroup = self.cgroup.child(id)?;
        cgroup.kill(&self.hierarchies)?;
        cgroup.remove(&self.hierarchies)?;
        let bundle = self.bundle(id);
        rootfs::unmount(&bundle.join("rootfs"))?;
        self.unmount_sub_paths(id)?;
        [bundle, self.state().join(id)].iter().try_for_each(|path| remove_directory(path))
    }

    /// Ends everything in the pod's cgroup and removes the cgroup.
    pub(crate) fn destroy(&self) -> Result<(), RuntimeError> {
        self.cgroup.kill(&self.hierarchies)?;
        Ok(self.cgroup.remove(&self.hierarchies)?)
    }
}

/// A process to run in a container that runs already.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Joining {
    id: String,
    args: Vec<String>,
    state: PathBuf,
    bundle: PathBuf,
    capabilities: u64,
    confinement: Confinement,
}

impl Joining {
    /// Runs the process, as a child of this one, as the container's user and with its limits. Where nothing else is
    /// said, its output is ours.
    pub(crate) fn run(&self, streams: Option<&Streams>) -> Result<Process, RuntimeError> {
        let path = self.bundle.join(format!("exec-{}.json", std::process::id()));
        self.write_process(&path, matches!(streams, Some(Streams::Terminal { .. })))?;
        let joined = self.join(&path, streams);
        // A file of a pod that is going away may be gone already.
        let _ = fs::remove_file(&path);
        joined
    }

    fn write_process(&self, path: &Path, has_terminal: bool) -> Result<(), RuntimeError> {
        let mut spec = Spec::load(self.bundle.join("config.json"))
            .map_err(|source| RuntimeError::ReadSpec { id: self.id.clone(), source })?;
        let process: Option<&mut OciProcess> = spec.process_mut().as_mut();
        let process = process.ok_or_else(|| RuntimeError::NoProcess(self.id.clone()))?;
        process.set_args(Some(self.args.clone())).set_terminal(Some(has_terminal));
        if has_terminal {
            name_terminal(process);
        }
        let write = || -> io::Result<()> { fs::write(path, serde_json::to_vec(process).map_err(io::Error::from)?) };
        write().map_err(|source| RuntimeError::WriteProcess { path: path.to_owned(), source })
    }

    fn join(&self, process: &Path, streams: Option<&Streams>) -> Result<Process, RuntimeError> {
        let no_pipe = |source| RuntimeError::Pipe { id: self.id.clone(), source };
        let (mut report, report_end) = pipe().map_err(no_pipe)?;
        let workload = Workload::new(&self.confinement, self.capabilities, report_end)?;
        let builder = ContainerBuilder::new(self.id.clone(), SyscallType::default()).with_executor(workload);
        let joined = with_streams(builder, streams)
            .map_err(no_pipe)?
            .with_root_path(self.state.clone())
            .and_then(|builder| builder.as_tenant().with_process(Some(process)).with_detach(true).build());
        match (joined, told(&mut report)) {
            (_, Some(sentence)) => Err(RuntimeError::CannotRun(sentence)),
            (Err(source), None) => Err(RuntimeError::Join { id: self.id.clone(), source }),
            (Ok(pid), None) => {
                Process::open(pid.as_raw()).map_err(|source| RuntimeError::Hold { id: self.id.clone(), source })
            }
        }
    }
}

fn with_streams(builder: ContainerBuilder, streams: Option<&Streams>) -> io::Result<ContainerBuilder> {
    match streams {
        None => Ok(builder.with_stdin(File::open(NOTHING)?)),
        Some(Streams::Terminal { socket }) => Ok(builder.with_console_socket(Some(socket))),
        Some(Streams::Fifos { stdin, stdout, stderr }) => {
            let outwards = File::options().write(true).clone();
            let [stdout, stderr] = [stdout, stderr].map(|path| open_stream(path.as_deref(), &outwards));
            let stdin = open_stream(stdin.as_deref(), File::options().read(true))?;
            Ok(builder.with_stdin(stdin).with_stdout(stdout?).with_stderr(stderr?))
        }
    }
}

/// Doesn't wait for the other end: it is there, or never will be.
fn open_stream(path: Option<&Path>, options: &OpenOptions) -> io::Result<File> {
    let Some(path) = path else { return options.open(NOTHING) };
    let stream = options.clone().custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    rustix::io::ioctl_fionbio(&stream, false)?;
    Ok(stream)
}

/// As `kubectl exec -t` promises programs.
fn name_terminal(process: &mut OciProcess) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process.set_env(Some(env));
}

/// What has been written to a report so far. Doesn't wait.
pub(crate) fn told(report: &mut File) -> Option<String> {
    let mut bytes = Vec::new();
    // The pipe doesn't block: an error here means that nothing more has been written.
    let _ = report.read_to_end(&mut bytes);
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// A pipe whose first end doesn't block the reader.
pub(crate) fn pipe() -> io::Result<(File, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((File::from(read), write))
}

fn available_capabilities() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
}

fn open_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.map_or(MAX_OPEN_FILES, |maximum| maximum.min(MAX_OPEN_FILES))
}

/// Best effort: lowering the score needs CAP_SYS_RESOURCE, which not every machine gives.
fn set_oom_score(pid: i32, score: i32) {
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
}

fn remove_directory(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::RemoveDirectory { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
