//! The seccomp filters of a container: what Kubernetes calls RuntimeDefault, or a profile of the machine's.
//!
//! The default is two filters, because one has one answer. The first allows a list and says ENOSYS to everything else, so that a
//! program meeting a call newer than this list falls back as on an old kernel, and no numbering (x32) slips around
//! it. The second says EPERM to what is known and refused. Calls of another architecture end the process.

mod profile;

use std::collections::BTreeMap;
use std::io;

use oci_spec::runtime::Capability;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::capabilities;
use super::syscalls::{ALLOWED, ALLOWED_HERE, REFUSED, REFUSED_ALWAYS, REFUSED_ALWAYS_HERE};
use super::{Confinement, Escalation, Privilege, Seccomp};
use crate::sys;
use profile::ProfileError;
pub(crate) use profile::check;

/// The flags with which `clone` makes namespaces, all of them (CLONE_NEWTIME can't be given to it).
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// PER_LINUX and PER_LINUX32, each with and without UNAME26, and the question what is set. Others weaken the process.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Why a filter could not be made or installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("cannot compile the seccomp filter")]
    Compile(#[source] BackendError),
    #[error("cannot follow the seccomp profile")]
    Profile(#[from] ProfileError),
    #[error("cannot install the seccomp filter")]
    Install(#[source] io::Error),
}

/// Compiled filters, in the order in which they must be installed.
#[derive(Debug, Clone)]
pub(crate) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// The filters for a container that is confined like this and has these capabilities.
    pub(crate) fn compile(confinement: &Confinement, capabilities: u64) -> Result<Self, SeccompError> {
        if !is_filtered(confinement) {
            return Ok(Self(Vec::new()));
        }
        if let Seccomp::Profile { json } = &confinement.seccomp {
            return Ok(Self(profile::compile(json)?));
        }
        let known = program(known(), libc::ENOSYS, Listed::Pass).map_err(SeccompError::Compile)?;
        let refused = refused(capabilities)
            .and_then(|rules| program(rules, libc::EPERM, Listed::Fail))
            .map_err(SeccompError::Compile)?;
        Ok(Self(vec![known, refused]))
    }

    /// Confines this process and all that come of it, for ever. Needs either [`needed`] or that no program can gain
    /// privileges.
    pub(crate) fn install(&self) -> Result<(), SeccompError> {
        self.0.iter().try_for_each(|program| sys::install_seccomp(program)).map_err(SeccompError::Install)
    }
}

/// The capabilities, by the kernel's numbers, without which a container that is confined like this can't be.
pub(super) fn needed(confinement: &Confinement) -> u64 {
    match confinement.escalation {
        Escalation::Allowed if is_filtered(confinement) => {
            capabilities::bit(Capability::SysAdmin) | capabilities::bit(Capability::Setpcap)
        }
        Escalation::Allowed | Escalation::Refused => 0,
    }
}

fn is_filtered(confinement: &Confinement) -> bool {
    confinement.privilege == Privilege::Confined && confinement.seccomp != Seccomp::Unconfined
}

/// What becomes of the calls that are listed; the others get the opposite.
enum Listed {
    Pass,
    Fail,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn program(rules: Rules, errno: i32, listed: Listed) -> Result<BpfProgram, BackendError> {
    let fail = SeccompAction::Errno(errno.unsigned_abs());
    let (others, matched) = match listed {
        Listed::Pass => (fail, SeccompAction::Allow),
        Listed::Fail => (SeccompAction::Allow, fail),
    };
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, others, matched, architecture)?.try_into()
}

/// The first filter also lets through what the second answers with EPERM, or that answer would be ENOSYS.
fn known() -> Rules {
    let refused = REFUSED.iter().flat_map(|(_, calls)| calls.iter());
    let always = REFUSED_ALWAYS.iter().chain(REFUSED_ALWAYS_HERE);
    let calls = ALLOWED.iter().chain(ALLOWED_HERE).chain(refused).chain(always);
    calls.map(|call| (*call, Vec::new())).collect()
}

fn refused(capabilities: u64) -> Result<Rules, BackendError> {
    let is_closed = |capability| !capabilities::holds(capabilities, capability);
    let closed = REFUSED.iter().filter(|(capability, _)| is_closed(*capability));
    let calls = closed.flat_map(|(_, calls)| calls.iter());
    let always = REFUSED_ALWAYS.iter().chain(REFUSED_ALWAYS_HERE);
    let mut rules: Rules = calls.chain(always).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_personality, vec![other_personality()?]);
    rules.insert(libc::SYS_socket, vec![first_argument(SeccompCmpOp::Eq, libc::AF_VSOCK)?]);
    if is_closed(Capability::SysAdmin) {
        let flags = NAMESPACE_FLAGS.iter().map(|flag| {
            let bits = u64::from(flag.unsigned_abs());
            first_argument(SeccompCmpOp::MaskedEq(bits), *flag)
        });
        rules.insert(libc::SYS_clone, flags.collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

fn first_argument(operator: SeccompCmpOp, value: i32) -> Result<SeccompRule, BackendError> {
    let value = u64::from(value.unsigned_abs());
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value)?])
}

fn other_personality() -> Result<SeccompRule, BackendError> {
    let differs = |known: &u64| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *known);
    SeccompRule::new(PERSONALITIES.iter().map(differs).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        let allowed: BTreeSet<_> = ALLOWED.iter().chain(ALLOWED_HERE).collect();
        assert_eq!(allowed.len(), ALLOWED.len() + ALLOWED_HERE.len(), "a call is listed twice");
        let refused = REFUSED.iter().flat_map(|(_, calls)| calls.iter()).chain(REFUSED_ALWAYS);
        for call in refused.chain(REFUSED_ALWAYS_HERE) {
            assert!(!allowed.contains(call), "{call}");
        }
    }

    #[test]
    fn clone3_hides_its_flags_in_memory_and_so_does_not_exist() {
        assert!(!known().contains_key(&libc::SYS_clone3));
    }

    #[test]
    fn a_capability_opens_the_calls_that_need_it() {
        let admin = 1 << 21;
        assert!(refused(0).unwrap().contains_key(&libc::SYS_mount));
        assert!(!refused(admin).unwrap().contains_key(&libc::SYS_mount));
        assert!(!refused(admin).unwrap().contains_key(&libc::SYS_clone));
        assert!(refused(u64::MAX).unwrap().contains_key(&libc::SYS_keyctl));
    }

    #[test]
    fn the_filters_fit_the_kernels_limit() {
        for program in Filters::compile(&Confinement::default(), 0).unwrap().0 {
            assert!(program.len() <= 4096, "{} instructions", program.len());
        }
    }
}
