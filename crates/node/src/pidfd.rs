//! The one way this crate signals a process: through a pidfd, never through a number that may have been reused,
//! parsed or defaulted. `kill(-1)` would end every process of the machine, so there is no such call anywhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, WaitStatus};

use crate::sys;

/// A process that exists, or existed, under this pid: the descriptor never comes to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

/// Why a process could not be taken hold of or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("{0} is not the pid of a process that may be signalled")]
    NotAProcess(i32),
    #[error("cannot open a pidfd for process {pid}")]
    Open {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("cannot send signal {signal} to process {pid}")]
    Send {
        pid: i32,
        signal: i32,
        #[source]
        source: io::Error,
    },
}

impl ProcessError {
    /// The process had ended before it could be opened or signalled.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NotAProcess(_) => false,
            Self::Open { source, .. } | Self::Send { source, .. } => source.raw_os_error() == Some(libc::ESRCH),
        }
    }
}

impl Process {
    /// Takes hold of a process. Refuses init, this process, zero and negative numbers.
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let allowed = Some(pid).filter(|pid| *pid > 1 && *pid != own);
        let checked = allowed.and_then(rustix::process::Pid::from_raw);
        let checked = checked.ok_or(ProcessError::NotAProcess(pid))?;
        let pidfd = rustix::process::pidfd_open(checked, PidfdFlags::empty())
            .map_err(|source| ProcessError::Open { pid, source: source.into() })?;
        Ok(Self { pid, pidfd })
    }

    /// The number the process has, or had.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to exactly this process.
    pub fn send(&self, signal: Signal) -> Result<(), ProcessError> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal.number()).map_err(|source| ProcessError::Send {
            pid: self.pid,
            signal: signal.number(),
            source,
        })
    }

    /// Waits for the end of the process, which must be a child.
    pub(crate) fn wait(&self) -> io::Result<Ended> {
        let pidfd = WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::process::waitid(pidfd, WaitIdOptions::EXITED)?;
        status.as_ref().and_then(Ended::of).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for Process {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Reaps some child that has ended, with its pid. None when there is no such child now.
pub(crate) fn reap_any() -> Option<(i32, Ended)> {
    // The only errors are a call that was interrupted, which can't happen here, and no children at all.
    let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok().flatten()?;
    Some((pid.as_raw_nonzero().get(), Ended::of_wait(status)?))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signalled(i32),
}

impl Ended {
    fn of(status: &WaitIdStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Signalled))
    }

    fn of_wait(status: WaitStatus) -> Option<Self> {
        let exited = status.exit_status().map(Self::Exited);
        exited.or_else(|| status.terminating_signal().map(Self::Signalled))
    }

    /// The exit code as Kubernetes and shells report it: 128 plus the signal when one ended the process.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128 + signal,
        }
    }

    pub(crate) fn signal(self) -> Option<i32> {
        match self {
            Self::Exited(_) => None,
            Self::Signalled(signal) => Some(signal),
        }
    }
}

/// The number of a signal the kernel has: 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// As image configurations mean it; the two numbers below it belong to the C library.
const REAL_TIME_MIN: i32 = 34;
const REAL_TIME_MAX: i32 = 64;

impl Signal {
    pub const KILL: Self = Self(libc::SIGKILL);
    pub const TERM: Self = Self(libc::SIGTERM);

    pub fn number(self) -> i32 {
        self.0
    }

    /// Reads what an image's `STOPSIGNAL` may hold: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = name.parse::<i32>().ok().or_else(|| named(name)).or_else(|| real_time(name))?;
        (1..=REAL_TIME_MAX).contains(&number).then_some(Self(number))
    }
}

fn named(name: &str) -> Option<i32> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn real_time(name: &str) -> Option<i32> {
    let from_min = |rest: &str| offset(rest, '+').map(|n| REAL_TIME_MIN + n);
    let from_max = |rest: &str| offset(rest, '-').map(|n| REAL_TIME_MAX - n);
    let number = match name.strip_prefix("RTMIN") {
        Some(rest) => from_min(rest),
        None => name.strip_prefix("RTMAX").and_then(from_max),
    };
    number.filter(|number| (REAL_TIME_MIN..=REAL_TIME_MAX).contains(number))
}

fn offset(rest: &str, sign: char) -> Option<i32> {
    if rest.is_empty() {
        return Some(0);
    }
    rest.strip_prefix(sign)?.parse().ok().filter(|n: &i32| (0..=30).contains(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_write_them() {
        let table = [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN+31", None),
            ("SIGRTMAX+1", None),
            ("0", None),
            ("-1", None),
            ("65", None),
            ("SIGNOTHING", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(Signal::parse(text).map(Signal::number), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_mean_many_processes_are_refused() {
        let own = i32::try_from(std::process::id()).unwrap();
        for pid in [0, -1, 1, i32::MIN, own] {
            assert!(matches!(Process::open(pid), Err(ProcessError::NotAProcess(_))), "{pid}");
        }
    }

    #[test]
    fn a_process_that_is_gone_says_so() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::open(pid).unwrap();
        child.wait().unwrap();
        assert!(process.send(Signal::TERM).unwrap_err().is_gone());
    }
}
