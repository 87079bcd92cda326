//! What a keeper is started with, on a command line and back. Pure.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{KeeperError, ProxyUser};

/// What the keeper is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperSettings {
    /// Exists, belongs to the keeper's user, mode 0700.
    pub run_dir: PathBuf,
    /// None leaves the proxy with the keeper's own user.
    pub proxy_user: Option<ProxyUser>,
}

impl KeeperSettings {
    /// The arguments that [`super::run`] reads.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--run-dir".into(), self.run_dir.clone().into()];
        if let Some(ProxyUser { uid, gid }) = self.proxy_user {
            arguments.extend(["--proxy-user".into(), format!("{uid}:{gid}").into()]);
        }
        arguments
    }

    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, KeeperError> {
        let (mut run_dir, mut proxy_user) = (None, None);
        while let Some(argument) = arguments.next() {
            let value = arguments.next();
            match (argument.to_str(), value) {
                (Some("--run-dir"), Some(path)) => run_dir = Some(path.into()),
                (Some("--proxy-user"), Some(user)) => {
                    let parsed = user.to_str().and_then(parse_user);
                    proxy_user = Some(parsed.ok_or(KeeperError::Argument { argument: user })?);
                }
                (Some(_) | None, _) => return Err(KeeperError::Argument { argument }),
            }
        }
        Ok(Self { run_dir: run_dir.ok_or(KeeperError::NoRunDirectory)?, proxy_user })
    }
}

fn parse_user(user: &str) -> Option<ProxyUser> {
    let (uid, gid) = user.split_once(':')?;
    Some(ProxyUser { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_command_line() {
        for proxy_user in [None, Some(ProxyUser { uid: 64535, gid: 64535 })] {
            let settings = KeeperSettings { run_dir: "/run/segue/default".into(), proxy_user };
            assert_eq!(KeeperSettings::parse(settings.to_arguments().into_iter()).unwrap(), settings);
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let parse = |arguments: &[&str]| KeeperSettings::parse(arguments.iter().map(OsString::from));
        assert!(matches!(parse(&[]), Err(KeeperError::NoRunDirectory)));
        assert!(matches!(parse(&["--run-dir"]), Err(KeeperError::Argument { .. })));
        assert!(matches!(parse(&["--proxy-user", "root"]), Err(KeeperError::Argument { .. })));
    }
}
