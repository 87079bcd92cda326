//! From what the engine asks for to what the OCI runtime is told, with everything that makes a container safe unless
//! asked otherwise. Pure: what depends on the machine comes in `Host`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace, LinuxNamespaceType,
    LinuxPids, LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType, Process, Root, Spec, User,
};

use super::{
    ContainerConfig, Escalation, MountAccess, MountSource, Privilege, Processes, RootAccess, capabilities, seccomp,
};
use crate::cgroups::Version;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CONTAINER_UMASK: u32 = 0o022;

/// What in `/proc` and `/sys` tells or does too much; the list that Kubernetes runtimes share.
const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The memory below which version 1 mounts are gathered is nobody's to write to.
const READ_ONLY_CGROUPS: &str = "/sys/fs/cgroup";

/// The machine and the pod, as far as a container's spec depends on them.
#[derive(Debug, Clone)]
pub(super) struct Host<'a> {
    pub(super) hostname: &'a str,
    pub(super) rootfs: &'a Path,
    /// The pod's `/dev/shm`.
    pub(super) shm: PathBuf,
    /// Where the pod's shared memory volumes are mounted, by name.
    pub(super) volumes: PathBuf,
    pub(super) cgroup: &'a str,
    pub(super) cgroup_version: Version,
    /// On version 1, the mount points of the hierarchies with the container's directory in each.
    pub(super) cgroup_views: Vec<(PathBuf, PathBuf)>,
    /// Whether the kernel can limit memory and swap together; version 2 always can.
    pub(super) swap_limit: SwapLimit,
    pub(super) open_files: u64,
    /// Already resolved, by the kernel's numbers.
    pub(super) capabilities: u64,
    /// The namespace that the pod's containers share their processes in, if they do.
    pub(super) pod_processes: Option<PathBuf>,
    /// What a container that isn't confined finds in `/dev`.
    pub(super) devices: Vec<LinuxDevice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SwapLimit {
    Supported,
    Missing,
}

/// The whole runtime spec. It has no hostname, network or IPC namespace: those are the shim's.
pub(super) fn build(config: &ContainerConfig, host: &Host<'_>) -> Spec {
    let mut root = Root::default();
    root.set_path(host.rootfs.to_owned()).set_readonly(Some(config.root == RootAccess::ReadOnly));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process(config, host)))
        .set_mounts(Some(mounts(config, host)))
        .set_linux(Some(linux(config, host)));
    spec
}

fn process(config: &ContainerConfig, host: &Host<'_>) -> Process {
    let mut user = User::default();
    user.set_uid(config.user.uid)
        .set_gid(config.user.gid)
        .set_umask(Some(CONTAINER_UMASK))
        .set_additional_gids(Some(groups(config)));
    // Every field has a default, so building can't fail; without the limit, the shim's would be inherited.
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(host.open_files)
        .hard(host.open_files)
        .build();
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(config.args.clone()))
        .set_env(Some(env(config, host.hostname)))
        .set_cwd(working_directory(config))
        .set_capabilities(Some(capabilities::sets(seccomp::needed(&config.confinement) | host.capabilities)))
        .set_rlimits(open_files.ok().map(|limit| vec![limit]))
        .set_no_new_privileges(Some(config.confinement.escalation == Escalation::Refused));
    process
}

/// Never empty, since libcontainer would then leave the container the groups of the shim.
fn groups(config: &ContainerConfig) -> Vec<u32> {
    let mut groups = vec![config.user.gid];
    groups.extend(config.user.additional_gids.iter().filter(|gid| **gid != config.user.gid));
    groups
}

fn env(config: &ContainerConfig, hostname: &str) -> Vec<String> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    env.extend(config.env.iter().cloned());
    env
}

pub(super) fn working_directory(config: &ContainerConfig) -> PathBuf {
    if config.cwd.as_os_str().is_empty() { PathBuf::from("/") } else { config.cwd.clone() }
}

fn linux(config: &ContainerConfig, host: &Host<'_>) -> Linux {
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(config, host)))
        .set_cgroups_path(Some(host.cgroup.into()))
        .set_resources(Some(resources(config, host)));
    match config.confinement.privilege {
        Privilege::Confined => {
            let cgroups = (host.cgroup_version == Version::V1).then_some(READ_ONLY_CGROUPS);
            let read_only = READ_ONLY_PATHS.into_iter().chain(cgroups).map(str::to_owned);
            linux
                .set_masked_paths(Some(MASKED_PATHS.map(str::to_owned).to_vec()))
                .set_readonly_paths(Some(read_only.collect()));
        }
        Privilege::Full => {
            linux.set_devices(Some(host.devices.clone())).set_masked_paths(None).set_readonly_paths(None);
        }
    }
    linux
}

fn namespaces(config: &ContainerConfig, host: &Host<'_>) -> Vec<LinuxNamespace> {
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount)];
    match config.confinement.processes {
        Processes::Own => namespaces.push(namespace(LinuxNamespaceType::Pid)),
        Processes::Pod => {
            let mut shared = namespace(LinuxNamespaceType::Pid);
            shared.set_path(host.pod_processes.clone());
            namespaces.push(shared);
        }
        Processes::Machine => {}
    }
    if host.cgroup_version == Version::V2 && config.confinement.privilege == Privilege::Confined {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup));
    }
    namespaces
}

fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}

fn resources(config: &ContainerConfig, host: &Host<'_>) -> LinuxResources {
    let limits = &config.limits;
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares)
        .set_quota(limits.cpu_quota_us)
        .set_period(limits.cpu_quota_us.map(|_| limits.cpu_period_us.unwrap_or(100_000)));
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(vec![devices(config.confinement.privilege)]))
        .set_cpu(Some(cpu))
        .set_memory(limits.memory_bytes.map(|bytes| memory(bytes, host.swap_limit)))
        .set_pids(limits.pids.map(pids));
    if host.cgroup_version == Version::V2 {
        // One process killed for want of memory takes its container with it, as the kubelet has it.
        let group = ("memory.oom.group".to_owned(), "1".to_owned());
        resources.set_unified(Some(HashMap::from([group])));
    }
    resources
}

/// libcontainer adds the default devices after this: null, zero, full, random, urandom, tty, console, ptmx, pts, tun.
/// On version 2 it can't restrict devices; there, MKNOD isn't granted unasked, and no root filesystem has devices.
fn devices(privilege: Privilege) -> LinuxDeviceCgroup {
    let mut device = LinuxDeviceCgroup::default();
    device.set_allow(privilege == Privilege::Full).set_typ(Some(LinuxDeviceType::A)).set_access(Some("rwm".to_owned()));
    device
}

fn memory(bytes: i64, swap: SwapLimit) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes));
    match swap {
        SwapLimit::Supported => memory.set_swap(Some(bytes)),
        SwapLimit::Missing => &mut memory,
    };
    memory
}

fn pids(limit: i64) -> LinuxPids {
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    pids
}

fn mounts(config: &ContainerConfig, host: &Host<'_>) -> Vec<Mount> {
    let shm = host.shm.to_string_lossy();
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "bind", &shm, &["rbind", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access_to_kernel(config)]),
    ];
    mounts.extend(cgroup_mounts(config, host));
    mounts.extend(config.mounts.iter().enumerate().map(|(number, wanted)| configured(number, wanted, host)));
    mounts
}

fn access_to_kernel(config: &ContainerConfig) -> &'static str {
    match config.confinement.privilege {
        Privilege::Confined => "ro",
        Privilege::Full => "rw",
    }
}

/// Version 1 directories are bound one by one: libcontainer would mount them writable, limits and all.
fn cgroup_mounts(config: &ContainerConfig, host: &Host<'_>) -> Vec<Mount> {
    let access = access_to_kernel(config);
    if host.cgroup_version == Version::V2 {
        return vec![mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access])];
    }
    let options = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
    let mut mounts = vec![mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &options)];
    for (target, source) in &host.cgroup_views {
        let (target, source) = (target.to_string_lossy(), source.to_string_lossy());
        mounts.push(mount(&target, "bind", &source, &["bind", "nosuid", "noexec", "nodev", access]));
    }
    mounts
}

/// Where what is mounted of volumes in part is mounted first.
pub(super) fn sub_paths(bundle: &Path) -> PathBuf {
    bundle.join("sub-paths")
}

/// The same for one mount, by its place among the container's.
pub(super) fn sub_path(bundle: &Path, number: usize) -> PathBuf {
    sub_paths(bundle).join(number.to_string())
}

fn configured(number: usize, wanted: &super::Mount, host: &Host<'_>) -> Mount {
    let target = wanted.target.to_string_lossy();
    let access = match wanted.access {
        MountAccess::ReadWrite => "rw",
        MountAccess::ReadOnly => "ro",
    };
    if wanted.sub_path.is_some() {
        // The root filesystem is in the bundle too.
        let part = sub_path(host.rootfs.parent().unwrap_or(host.rootfs), number);
        return mount(&target, "bind", &part.to_string_lossy(), &["rbind", "rprivate", access]);
    }
    match &wanted.source {
        MountSource::Bind { path } => mount(&target, "bind", &path.to_string_lossy(), &["rbind", "rprivate", access]),
        MountSource::PodTmpfs { name, .. } => {
            let path = host.volumes.join(name);
            mount(&target, "bind", &path.to_string_lossy(), &["rbind", "rprivate", access])
        }
        MountSource::Tmpfs { size_bytes } => {
            let size = size_bytes.map(|bytes| format!("size={bytes}")).unwrap_or_default();
            mount(&target, "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", access, &size])
        }
    }
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().filter(|option| !option.is_empty());
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.map(|option| (*option).to_owned()).collect()));
    mount
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::Limits;
    use crate::container::{CapabilityChange, Confinement, Overlay};

    fn config() -> ContainerConfig {
        ContainerConfig {
            id: "web-0".into(),
            name: "web".into(),
            attempt: 0,
            rootfs: Overlay { lower: vec!["/l".into()], upper: "/u".into(), work: "/w".into() },
            args: vec!["/app".into()],
            env: vec!["PATH=/bin".into()],
            cwd: PathBuf::new(),
            user: super::super::User { uid: 1, gid: 2, additional_gids: vec![2, 3] },
            mounts: Vec::new(),
            limits: Limits { memory_bytes: Some(64), cpu_quota_us: Some(500), ..Limits::default() },
            oom_score_adj: None,
            root: RootAccess::ReadWrite,
            capabilities: CapabilityChange::default(),
            confinement: Confinement::default(),
            stop_signal: None,
            log_path: "/log".into(),
        }
    }

    fn spec_on(cgroup_version: Version) -> Spec {
        spec_of(&config(), cgroup_version)
    }

    fn spec_of(config: &ContainerConfig, cgroup_version: Version) -> Spec {
        let host = Host {
            hostname: "pod",
            rootfs: Path::new("/r"),
            shm: "/shm".into(),
            volumes: "/volumes".into(),
            cgroup: "/segue-x/pod/web-0",
            cgroup_version,
            cgroup_views: vec![("/sys/fs/cgroup/memory".into(), "/sys/fs/cgroup/memory/x".into())],
            swap_limit: SwapLimit::Supported,
            open_files: 100,
            capabilities: 0,
            pod_processes: Some("/proc/1/ns/pid".into()),
            devices: Vec::new(),
        };
        build(config, &host)
    }

    fn namespaces(spec: &Spec) -> Vec<LinuxNamespaceType> {
        let linux = spec.linux().as_ref().unwrap();
        linux.namespaces().as_ref().unwrap().iter().map(LinuxNamespace::typ).collect()
    }

    fn mount_at<'a>(spec: &'a Spec, target: &str) -> &'a Mount {
        let mounts = spec.mounts().as_ref().unwrap();
        mounts.iter().find(|mount| mount.destination() == Path::new(target)).unwrap()
    }

    #[test]
    fn network_ipc_and_hostname_are_the_shims() {
        let spec = spec_on(Version::V1);
        assert_eq!(namespaces(&spec), [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid]);
        assert_eq!(spec.hostname(), &None);
    }

    #[test]
    fn cgroups_are_seen_read_only_on_both_versions() {
        let v1 = spec_on(Version::V1);
        let options = mount_at(&v1, "/sys/fs/cgroup/memory").options().clone().unwrap();
        assert!(options.contains(&"ro".to_owned()), "{options:?}");
        let v2 = spec_on(Version::V2);
        assert!(namespaces(&v2).contains(&LinuxNamespaceType::Cgroup));
        let whole = mount_at(&v2, "/sys/fs/cgroup");
        assert_eq!(whole.typ().as_deref(), Some("cgroup"));
        assert!(whole.options().clone().unwrap().contains(&"ro".to_owned()));
    }

    #[test]
    fn limits_are_complete_and_version_2_kills_a_container_as_a_whole() {
        let spec = spec_on(Version::V2);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64), Some(64)));
        assert_eq!(resources.cpu().as_ref().unwrap().period(), Some(100_000));
        let unified = resources.unified().clone().unwrap();
        assert_eq!(unified.get("memory.oom.group").map(String::as_str), Some("1"));
    }

    #[test]
    fn a_process_has_its_groups_its_path_and_no_new_privileges() {
        let spec = spec_on(Version::V1);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.user().additional_gids().as_deref(), Some([2, 3].as_slice()));
        assert_eq!(process.env().as_ref().unwrap().last().map(String::as_str), Some("PATH=/bin"));
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(process.cwd(), Path::new("/"));
    }

    #[test]
    fn processes_are_shared_as_far_as_asked() {
        let with = |processes| {
            let confinement = Confinement { processes, ..Confinement::default() };
            let spec = spec_of(&ContainerConfig { confinement, ..config() }, Version::V1);
            let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
            let found = namespaces.into_iter().find(|one| one.typ() == LinuxNamespaceType::Pid);
            found.map(|one| one.path().clone())
        };
        assert_eq!(with(Processes::Own), Some(None));
        assert_eq!(with(Processes::Pod), Some(Some("/proc/1/ns/pid".into())));
        assert_eq!(with(Processes::Machine), None);
    }

    #[test]
    fn nothing_is_kept_from_a_container_with_full_privileges() {
        let confinement = Confinement { privilege: Privilege::Full, ..Confinement::default() };
        let spec = spec_of(&ContainerConfig { confinement, ..config() }, Version::V2);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!((linux.masked_paths(), linux.readonly_paths()), (&None, &None));
        assert!(linux.resources().as_ref().unwrap().devices().as_ref().unwrap()[0].allow());
        for path in ["/sys", "/sys/fs/cgroup"] {
            assert!(mount_at(&spec, path).options().as_ref().unwrap().contains(&"rw".to_owned()), "{path}");
        }
    }
}
