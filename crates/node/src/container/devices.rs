//! The devices of the machine, as a container with full privileges finds them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

const DEVICES: &str = "/dev";
/// What every container has of its own.
const OF_EVERY_CONTAINER: [&str; 12] =
    ["console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];

/// All that are there now. Those that can't be read are left out: they may just be going.
pub(super) fn of_machine() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    let entries = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| OF_EVERY_CONTAINER.iter().all(|own| entry.file_name() != *own)) {
        collect(&entry.path(), &mut found);
    }
    found
}

fn collect(path: &Path, found: &mut Vec<LinuxDevice>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let kind = metadata.file_type();
    if kind.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| collect(&entry.path(), found));
    }
    let typ = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => LinuxDeviceType::C,
        (_, true) => LinuxDeviceType::B,
        (false, false) => return,
    };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(typ)
        .set_major(i64::from(rustix::fs::major(number)))
        .set_minor(i64::from(rustix::fs::minor(number)))
        .set_file_mode(Some(metadata.mode() & 0o777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    found.push(device);
}
