//! Which capabilities a container gets: the default set that every Kubernetes runtime has agreed on, changed by its
//! security context. Pure: the capabilities this process has are an input.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::CapabilityChange;

/// In the order of the kernel's numbers, which makes a bit of each.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The name that stands for every capability.
pub(super) const ALL_OF_THEM: &str = "ALL";

const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// A name that stands for no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no capability {0:?}; names are those of capabilities(7) with or without CAP_, or ALL")]
pub struct UnknownCapability(pub String);

/// Whether a cgroup keeps containers from devices that they make for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceControl {
    Enforced,
    /// Then making devices isn't among what a container may do unasked.
    Missing,
}

/// The capabilities of a container, as bits by the kernel's numbers: no more than `available`, which this process has.
pub fn resolve(change: &CapabilityChange, available: u64, devices: DeviceControl) -> Result<u64, UnknownCapability> {
    let added = bits_of(&change.add)?;
    let dropped = bits_of(&change.drop)?;
    let default = DEFAULT.iter().map(|capability| bit(*capability)).sum::<u64>();
    let default = match devices {
        DeviceControl::Enforced => default,
        DeviceControl::Missing => default & !bit(Capability::Mknod),
    };
    Ok(((default & !dropped) | added) & available)
}

/// Whether a set of bits holds this capability.
pub(super) fn holds(bits: u64, capability: Capability) -> bool {
    bits & bit(capability) != 0
}

/// The sets of a container's process. Inheritable and ambient are empty, so a process that isn't root has none.
pub(super) fn sets(bits: u64) -> LinuxCapabilities {
    let granted: Capabilities = ALL.into_iter().filter(|one| holds(bits, *one)).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted.clone()))
        .set_effective(Some(granted.clone()))
        .set_permitted(Some(granted))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
}

/// The bit of a capability.
pub(super) fn bit(capability: Capability) -> u64 {
    ALL.iter().position(|one| *one == capability).map_or(0, |number| 1 << number)
}

fn bits_of(names: &[String]) -> Result<u64, UnknownCapability> {
    let distinct: BTreeSet<&String> = names.iter().collect();
    distinct.into_iter().try_fold(0, |bits, name| Ok(bits | bits_of_name(name)?))
}

fn bits_of_name(name: &str) -> Result<u64, UnknownCapability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == ALL_OF_THEM {
        return Ok((1 << ALL.len()) - 1);
    }
    short.parse().map(bit).map_err(|_| UnknownCapability(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u64 = u64::MAX;

    fn resolve(change: &CapabilityChange, available: u64) -> Result<u64, UnknownCapability> {
        super::resolve(change, available, DeviceControl::Enforced)
    }

    fn change(add: &[&str], drop: &[&str]) -> CapabilityChange {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        CapabilityChange { add: owned(add), drop: owned(drop) }
    }

    #[test]
    fn every_capability_has_the_bit_the_kernel_gives_it() {
        let numbers = [
            (Capability::Chown, 0),
            (Capability::NetAdmin, 12),
            (Capability::SysAdmin, 21),
            (Capability::Mknod, 27),
            (Capability::CheckpointRestore, 40),
        ];
        for (capability, number) in numbers {
            assert_eq!(bit(capability), 1 << number, "{capability}");
        }
    }

    #[test]
    fn the_default_set_is_the_one_everybody_has() {
        assert_eq!(resolve(&change(&[], &[]), EVERYTHING), Ok(0xa804_25fb));
    }

    #[test]
    fn security_contexts_change_it() {
        let table = [
            (change(&[], &["ALL"]), 0),
            (change(&["NET_BIND_SERVICE"], &["ALL"]), 1 << 10),
            (change(&["cap_net_admin"], &["ALL"]), 1 << 12),
            (change(&["ALL"], &[]), (1 << 41) - 1),
            (change(&["CHOWN"], &["CHOWN", "ALL"]), 1),
        ];
        for (change, expected) in table {
            assert_eq!(resolve(&change, EVERYTHING), Ok(expected), "{change:?}");
        }
    }

    #[test]
    fn where_devices_are_not_controlled_they_are_made_on_request_only() {
        let mknod = 1 << 27;
        let unasked = super::resolve(&change(&[], &[]), EVERYTHING, DeviceControl::Missing);
        assert_eq!(unasked, Ok(0xa804_25fb & !mknod));
        let asked = super::resolve(&change(&["MKNOD"], &["ALL"]), EVERYTHING, DeviceControl::Missing);
        assert_eq!(asked, Ok(mknod));
    }

    #[test]
    fn nothing_is_granted_that_this_process_lacks() {
        assert_eq!(resolve(&change(&["SYS_RESOURCE"], &["ALL"]), !(1 << 24)), Ok(0));
    }

    #[test]
    fn an_unknown_name_is_named() {
        let refused = resolve(&change(&["NET_ADMIM"], &[]), EVERYTHING);
        assert_eq!(refused, Err(UnknownCapability("NET_ADMIM".to_owned())));
    }
}
