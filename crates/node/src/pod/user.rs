//! Whom does a container run as? The pod's and the container's security contexts say, else the image, by number or by
//! the names in its own `/etc/passwd` and `/etc/group`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::ConfigError;
use crate::container::User;
use crate::open_inside::open_inside;

/// More of `/etc/passwd` is not read: such files hold some dozen lines.
const LONGEST_FILE: u64 = 1 << 20;

/// What an image says of its users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them from the topmost layer that has them.
    pub(crate) fn read(layers: &[PathBuf]) -> Self {
        let read = |name: &str| layers.iter().rev().find_map(|layer| read_within(layer, name)).unwrap_or_default();
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    fn find_user(&self, name: &str) -> Option<(u32, u32)> {
        self.users().find(|user| user.name == name).map(|user| (user.uid, user.gid))
    }

    fn find_primary_group(&self, uid: u32) -> Option<u32> {
        self.users().find(|user| user.uid == uid).map(|user| user.gid)
    }

    fn find_group(&self, name: &str) -> Option<u32> {
        self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
        })
    }

    /// Groups that list the user as a member.
    fn memberships(&self, uid: u32) -> Vec<u32> {
        let Some(user) = self.users().find(|user| user.uid == uid) else { return Vec::new() };
        let gid = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == user.name).then_some(gid)
        };
        self.group.lines().filter_map(gid).collect()
    }

    fn users(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some(Account { name, uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// Finds the numbers to run as.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    image_user: &str,
    accounts: &Accounts,
) -> Result<User, ConfigError> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_container = container.security_context.as_ref();
    let run_as_user = of_container.and_then(|c| c.run_as_user).or(of_pod.and_then(|p| p.run_as_user));
    let run_as_group = of_container.and_then(|c| c.run_as_group).or(of_pod.and_then(|p| p.run_as_group));
    let (uid, gid) = match run_as_user {
        Some(uid) => {
            let uid = number(uid)?;
            (uid, accounts.find_primary_group(uid).unwrap_or(0))
        }
        None => user_of_image(image_user, accounts)?,
    };
    let gid = run_as_group.map_or(Ok(gid), number)?;
    let non_root = of_container.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|p| p.run_as_non_root));
    if non_root == Some(true) {
        check_non_root(pod, container, uid, run_as_user.is_none().then_some(image_user))?;
    }
    let mut additional_gids = accounts.memberships(uid);
    for extra in of_pod.into_iter().flat_map(|p| p.supplemental_groups.iter().flatten().chain(&p.fs_group)) {
        additional_gids.push(number(*extra)?);
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User { uid, gid, additional_gids })
}

fn user_of_image(text: &str, accounts: &Accounts) -> Result<(u32, u32), ConfigError> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let unknown = || ConfigError::UnknownUser(text.to_owned());
    let (uid, primary) = match user.parse::<u32>() {
        Ok(uid) => (uid, accounts.find_primary_group(uid).unwrap_or(0)),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => accounts.find_user(user).ok_or_else(unknown)?,
    };
    let gid = match group.filter(|group| !group.is_empty()) {
        None => primary,
        Some(group) => group.parse().ok().or_else(|| accounts.find_group(group)).ok_or_else(unknown)?,
    };
    Ok((uid, gid))
}

fn check_non_root(pod: &Pod, container: &Container, uid: u32, image_user: Option<&str>) -> Result<(), ConfigError> {
    let whose = format!("(pod: {:?}, container: {})", super::full_name(pod), container.name);
    match image_user.map(|user| user.split(':').next().unwrap_or_default()) {
        Some(name) if !name.is_empty() && name.parse::<u32>().is_err() => {
            Err(ConfigError::UserNotNumeric { user: name.to_owned(), whose })
        }
        _ if uid == 0 && image_user.is_some() => Err(ConfigError::ImageRunsAsRoot { whose }),
        _ if uid == 0 => Err(ConfigError::RunsAsRoot { whose }),
        _ => Ok(()),
    }
}

fn number(given: i64) -> Result<u32, ConfigError> {
    u32::try_from(given).map_err(|_| ConfigError::UnknownUser(given.to_string()))
}

/// The layer is somebody else's: no link in it may lead out.
fn read_within(layer: &Path, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, layer, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let file = open_inside(directory, Path::new(name), flags | OFlags::NONBLOCK, ResolveFlags::IN_ROOT).ok()?;
    read_limited(std::fs::File::from(file)).ok()
}

fn read_limited(file: std::fs::File) -> io::Result<String> {
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n".to_owned(),
            group: "root:x:0:\napp:x:1000:\nlogs:x:50:app,other\n".to_owned(),
        }
    }

    fn pod(security: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": security, "containers": []},
        }))
        .unwrap()
    }

    fn container(security: Value) -> Container {
        serde_json::from_value(json!({"name": "c", "securityContext": security})).unwrap()
    }

    fn user(of_pod: Value, of_container: Value, image_user: &str) -> Result<User, String> {
        let user = resolve(&pod(of_pod), &container(of_container), image_user, &accounts());
        user.map_err(|error| error.to_string())
    }

    #[test]
    fn the_image_or_the_security_context_says_who() {
        let table = [
            (json!({}), json!({}), "", (0, 0, vec![])),
            (json!({}), json!({}), "app", (1000, 1000, vec![50])),
            (json!({}), json!({}), "1000", (1000, 1000, vec![50])),
            (json!({}), json!({}), "1000:logs", (1000, 50, vec![50])),
            (json!({}), json!({}), "7:8", (7, 8, vec![])),
            (json!({"runAsUser": 5}), json!({}), "app", (5, 0, vec![])),
            (json!({"runAsUser": 5}), json!({"runAsUser": 6, "runAsGroup": 9}), "", (6, 9, vec![])),
            (json!({"supplementalGroups": [3], "fsGroup": 2}), json!({}), "app", (1000, 1000, vec![2, 3, 50])),
        ];
        for (pod, container, image_user, (uid, gid, additional_gids)) in table {
            let expected = User { uid, gid, additional_gids };
            assert_eq!(
                user(pod.clone(), container.clone(), image_user),
                Ok(expected),
                "{pod} {container} {image_user}"
            );
        }
        assert!(user(json!({}), json!({}), "nobody-here").is_err());
    }

    #[test]
    fn root_is_refused_where_it_was_ruled_out() {
        let non_root = || json!({"runAsNonRoot": true});
        let whose = "(pod: \"p_n(u)\", container: c)";
        let table = [
            ("", format!("container has runAsNonRoot and image will run as root {whose}")),
            (
                "app",
                format!(
                    "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root {whose}"
                ),
            ),
        ];
        for (image_user, message) in table {
            assert_eq!(user(non_root(), json!({}), image_user), Err(message));
        }
        assert!(user(non_root(), json!({}), "1000").is_ok());
        assert!(user(non_root(), json!({"runAsUser": 5}), "").is_ok());
    }

    #[test]
    fn a_link_in_a_layer_leads_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(directory.path().join("secret"), "evil:x:1:1::/:").unwrap();
        std::os::unix::fs::symlink("../../secret", layer.join("etc/passwd")).unwrap();
        assert_eq!(Accounts::read(&[layer]).passwd, "");
    }
}
