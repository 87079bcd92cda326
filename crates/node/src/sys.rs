//! The few system calls for which no safe wrapper exists. The only `unsafe` of the workspace.
#![expect(unsafe_code, reason = "namespaces and signals have no safe wrapper in rustix or the standard library")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::thread::UnshareFlags;
use seccompiler::BpfProgramRef;

/// Gives this process namespaces of its own. With `NEWPID` the next children get them, not it.
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    let namespaces = namespaces - UnshareFlags::FILES;
    // SAFETY: the call is unsound only with `FILES`, which takes descriptors from other threads; it isn't given.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(io::Error::from)
}

/// Puts a filter before every system call of this thread and of what comes of it. `seccompiler` would forbid gaining
/// privileges too, which is somebody else's decision.
pub(crate) fn install_seccomp(program: BpfProgramRef<'_>) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, which it only reads, and both it and the struct live until it has.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal by number, real-time signals included, to the process a pidfd stands for.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for as long as it is borrowed, and a null `siginfo_t` is allowed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that is readable when a child has ended, adopted ones included. Blocks SIGCHLD in this thread.
pub(crate) fn watch_children() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by the first call before it is read by the others; the descriptor that the last
    // one returns is new and nobody else's.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Unblocks every signal and gives it its default action, so that a program started next doesn't inherit what this
/// process blocks, or was started to ignore (by `nohup`, for one).
pub(crate) fn reset_signals() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is initialised by the first call before it is read by the second.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
    }
    for signal in 1..=64 {
        // SAFETY: the default action runs no code of ours. SIGKILL, SIGSTOP and those of the C library are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
