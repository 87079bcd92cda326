//! What a shim makes for its pod before the first container: its own session and namespaces, the loopback device, the
//! pod's cgroup and shared memory, the socket. In this order, because the engine only ever sees the last.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::mount::MountPropagationFlags;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;

use super::options::{Options, Sharing, Whose};
use super::pause::Pause;
use crate::cgroups::{Cgroup, Hierarchies};
use crate::container::runtime::{Pod, Shared};
use crate::container::{Processes, chain};
use crate::sys;

/// What a shim says on its standard input when its socket listens.
pub(super) const READY: &str = "ready";
/// As little a victim for the kernel's out-of-memory killer as a process may be. Containers get scores of their own.
const OOM_SCORE: &str = "-998";
const SHARED_MEMORY: &str = "/dev/shm";
/// Lets containers that aren't root listen on port 80 and send pings, as container runtimes do. Of this namespace only.
const SYSCTLS: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"), ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")];

/// Everything up to the listening socket. The error is a sentence with its causes.
pub(super) fn open(options: &Options, leading_args: &[OsString]) -> Result<(Pod, UnixListener), String> {
    let step = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    leave_engine().map_err(step("leave the engine's session"))?;
    isolate(&options.sharing).map_err(step("make the pod's namespaces"))?;
    if options.sharing.network == Whose::Pod {
        rustix::system::sethostname(options.hostname.as_bytes())
            .map_err(|errno| step("set the pod's hostname")(errno.into()))?;
        bring_loopback_up().map_err(step("bring the pod's loopback device up"))?;
        allow_unprivileged();
    }
    set_kernel(&options.sharing)?;
    let pod = prepare_pod(options, leading_args)?;
    let listener = listen(&options.socket).map_err(step("listen on the shim's socket"))?;
    fs::write(&options.pid_file, std::process::id().to_string()).map_err(step("write the shim's pid file"))?;
    Ok((pod, listener))
}

/// Removes what the engine would find. Best effort: the process is about to end, and with it all that counts.
pub(super) fn close(options: &Options) {
    let _ = fs::remove_file(&options.socket);
    let _ = fs::remove_file(&options.pid_file);
}

/// Answers on standard input, which the engine has made a pipe, and closes it.
pub(super) fn tell_ready<T>(opened: &Result<T, String>) {
    let text = match opened {
        Ok(_) => READY,
        Err(error) => error,
    };
    // An engine that has died meanwhile isn't told; the next one finds the socket.
    let _ = rustix::io::write(rustix::stdio::stdin(), text.as_bytes());
    if let Ok(null) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
    }
}

fn leave_engine() -> io::Result<()> {
    // Refused only to a process that leads its session already, which is what is wanted.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Lowering it needs CAP_SYS_RESOURCE, which not every machine gives.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    std::env::set_current_dir("/")
}

/// Mounts that the host makes later still arrive here; none made here leaves.
fn isolate(sharing: &Sharing) -> io::Result<()> {
    let mut namespaces = UnshareFlags::NEWNS;
    namespaces.set(UnshareFlags::NEWNET | UnshareFlags::NEWUTS, sharing.network == Whose::Pod);
    namespaces.set(UnshareFlags::NEWIPC, sharing.ipc == Whose::Pod);
    sys::unshare(namespaces)?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

fn prepare_pod(options: &Options, leading_args: &[OsString]) -> Result<Pod, String> {
    let prepared = || -> Result<Pod, Box<dyn std::error::Error>> {
        let shared = Shared {
            shm: (options.sharing.ipc == Whose::Machine).then(|| PathBuf::from(SHARED_MEMORY)),
            pause: match options.sharing.processes {
                Processes::Own | Processes::Machine => None,
                Processes::Pod => Some(Pause::start(leading_args)?),
            },
        };
        let hierarchies = Hierarchies::find()?;
        let cgroup = Cgroup::parse(&options.cgroup)?;
        cgroup.create(&hierarchies, &options.limits)?;
        let directory = options.bundle_dir.clone();
        Ok(Pod::prepare(options.hostname.clone(), directory, cgroup, hierarchies, shared)?)
    };
    prepared().map_err(|error| chain(&*error))
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What the pod's manifest asks for. Names are written with dots, or with slashes where a part has a dot.
fn set_kernel(sharing: &Sharing) -> Result<(), String> {
    for (name, value) in &sharing.sysctls {
        let path = if name.find('/') < name.find('.') && name.contains('/') {
            name.clone()
        } else {
            name.chars().map(|letter| if letter == '.' { '/' } else { letter }).collect()
        };
        fs::write(Path::new("/proc/sys").join(path), value)
            .map_err(|error| format!("cannot set sysctl {name} to {value:?}: {error}"))?;
    }
    Ok(())
}

fn allow_unprivileged() {
    for (path, value) in SYSCTLS {
        if let Err(error) = fs::write(path, value) {
            super::journal::log(&format!("cannot write {path}: {error}"));
        }
    }
}

/// Asks the kernel by netlink, since the ioctl would need `unsafe`.
fn bring_loopback_up() -> io::Result<()> {
    // The protocol that is number 0, and so needs no naming, is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &loopback_up(), SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 1024];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    acknowledged(answer.get(..length).unwrap_or_default())
}

/// `nlmsghdr` and `ifinfomsg`: set IFF_UP on the device with index 1, and acknowledge that.
fn loopback_up() -> Vec<u8> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 0x1 | 0x4;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 0x1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 12]); // Sequence, port; family, padding and type of the device.
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // What the flags shall be …
    message.extend(IFF_UP.to_ne_bytes()); // … and which of them to change.
    message
}

/// The kernel answers with a header of 16 bytes and an error number, 0 when all went well.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let number = answer.get(16..20).and_then(|bytes| bytes.first_chunk::<4>().copied());
    match number.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
