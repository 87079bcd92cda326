//! Where the kernel's cgroup hierarchies are mounted, and which of them hold pods.
//! Must never be asked for a path outside `/sys/fs/cgroup`: other mounts belong to somebody's container.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupError};

const ROOT: &str = "/sys/fs/cgroup";

/// Which kind of cgroups the controllers are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller; also hybrid layouts, whose version 2 hierarchy has no controllers.
    V1,
    V2,
}

/// The mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    version: Version,
    mounts: Vec<Mounted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    /// Names of controllers, and of the hierarchy itself (`name=systemd`); none on version 2.
    controllers: Vec<String>,
    path: PathBuf,
}

impl Hierarchies {
    /// Reads `/proc/self/mountinfo`.
    pub fn find() -> Result<Self, CgroupError> {
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        Self::read(&text).ok_or(CgroupError::NotMounted)
    }

    fn read(mountinfo: &str) -> Option<Self> {
        let mounts: Vec<(bool, Mounted)> = mountinfo.lines().filter_map(read_mount).collect();
        let unified = mounts.iter().find(|(unified, mount)| *unified && mount.path == Path::new(ROOT));
        if let Some((_, mount)) = unified {
            return Some(Self { version: Version::V2, mounts: vec![mount.clone()] });
        }
        let v1 = mounts.into_iter().filter(|(unified, _)| !unified).map(|(_, mount)| mount);
        let hierarchies = Self { version: Version::V1, mounts: v1.collect() };
        (!hierarchies.mounts.is_empty()).then_some(hierarchies)
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory of a cgroup where a controller is, which may not exist yet. None without that controller.
    pub fn directory(&self, controller: &str, cgroup: &Cgroup) -> Option<PathBuf> {
        let holds = |mount: &&Mounted| mount.controllers.iter().any(|name| name == controller);
        let mount = match self.version {
            Version::V1 => self.mounts.iter().find(holds),
            Version::V2 => self.mounts.first(),
        };
        mount.map(|mount| mount.path.join(relative(cgroup)))
    }

    /// The directories of a cgroup in all hierarchies, existing or not.
    pub(crate) fn directories(&self, cgroup: &Cgroup) -> Vec<PathBuf> {
        self.mounts.iter().map(|mount| mount.path.join(relative(cgroup))).collect()
    }

    /// The directories of the instance that a pod's cgroup belongs to.
    pub(super) fn instance_directories(&self, cgroup: &Cgroup) -> Vec<PathBuf> {
        let instance = relative(cgroup).split('/').next().unwrap_or_default();
        self.mounts.iter().map(|mount| mount.path.join(instance)).collect()
    }

    /// For version 1, the mount point of each hierarchy with controllers, and the directory of a cgroup in it.
    pub(crate) fn v1_views(&self, cgroup: &Cgroup) -> Vec<(PathBuf, PathBuf)> {
        let controls = |mount: &&Mounted| !mount.controllers.iter().any(|name| name.starts_with("name="));
        let view = |mount: &Mounted| (mount.path.clone(), mount.path.join(relative(cgroup)));
        match self.version {
            Version::V1 => self.mounts.iter().filter(controls).map(view).collect(),
            Version::V2 => Vec::new(),
        }
    }

    /// The directories above a cgroup on version 2, from the root down, and the cgroup's own: where controllers
    /// must be enabled before a cgroup below it can have limits.
    pub(super) fn ancestors(&self, cgroup: &Cgroup) -> Vec<PathBuf> {
        let Some(mount) = self.mounts.first() else { return Vec::new() };
        let whole = mount.path.join(relative(cgroup));
        let mut above: Vec<PathBuf> =
            whole.ancestors().take_while(|path| path.starts_with(&mount.path)).map(Path::to_owned).collect();
        above.reverse();
        above
    }
}

fn relative(cgroup: &Cgroup) -> &str {
    cgroup.as_str().trim_start_matches('/')
}

/// One line of mountinfo: `id parent major:minor root mount-point options [tags] - type source super-options`.
fn read_mount(line: &str) -> Option<(bool, Mounted)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let path = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    let unified = match fields.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let options = if unified { "" } else { fields.nth(1)? };
    let is_controller = |name: &&str| !matches!(*name, "" | "rw" | "ro" | "xattr" | "clone_children");
    let controllers = options.split(',').filter(is_controller).map(str::to_owned).collect();
    path.starts_with(ROOT).then_some((unified, Mounted { controllers, path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 31 0:31 / /mnt/cgroup rw - cgroup cgroup rw,pids";

    fn pod() -> Cgroup {
        Cgroup::parse("/segue-test/pod1").unwrap()
    }

    #[test]
    fn hybrid_layouts_are_version_1_and_foreign_mounts_are_left_alone() {
        let found = Hierarchies::read(HYBRID).unwrap();
        assert_eq!(found.version(), Version::V1);
        let cpuacct = found.directory("cpuacct", &pod());
        assert_eq!(cpuacct, Some("/sys/fs/cgroup/cpu,cpuacct/segue-test/pod1".into()));
        assert_eq!(found.directory("pids", &pod()), None);
        assert_eq!(found.directories(&pod()).len(), 3);
        assert_eq!(found.v1_views(&pod()).len(), 2);
    }

    #[test]
    fn version_2_has_every_controller_in_one_place() {
        let line = "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let found = Hierarchies::read(line).unwrap();
        assert_eq!(found.version(), Version::V2);
        let expected = PathBuf::from("/sys/fs/cgroup/segue-test/pod1");
        assert_eq!(found.directory("memory", &pod()), Some(expected.clone()));
        let root = PathBuf::from(ROOT);
        assert_eq!(found.ancestors(&pod()), [root.clone(), root.join("segue-test"), expected]);
        assert!(found.v1_views(&pod()).is_empty());
    }

    #[test]
    fn a_machine_without_cgroups_has_none() {
        assert_eq!(Hierarchies::read("20 1 0:20 / /proc rw - proc proc rw"), None);
    }
}
