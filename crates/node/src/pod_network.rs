//! Links and routes of pods: each has a veth pair, a /32 address and a default route through a link-local gateway that
//! the host's end answers for. Knows nothing of Services and of rules; those are the data plane's.

mod forwarding;
mod links;
mod names;

pub use names::link_prefix;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rtnetlink::Handle;
use tokio::task::JoinHandle;

use objects::ranges::Range;

use crate::addresses::{Addresses, Exhausted};
use forwarding::Forwarding;

/// The gateway that every pod sees; it is only ever used on the link between a pod and its host.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The file in a pod's run directory that says which address it has.
const ADDRESS_FILE: &str = "address";
/// The file beside it that is there once the pod is connected: an engine may be killed at any moment before.
const CONNECTED_FILE: &str = "connected";

/// The pods' network of one engine.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    run_dir: PathBuf,
    link_prefix: String,
    addresses: Mutex<Addresses>,
    forwarding: Forwarding,
    handle: Handle,
    connection: JoinHandle<()>,
}

/// What went wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot open a netlink socket")]
    Netlink(#[source] io::Error),
    #[error("cannot turn on the forwarding of packets in {path:?}")]
    Forwarding {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error("cannot open the pod's network namespace {path:?}")]
    Namespace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the pod's network namespace")]
    Enter(#[source] io::Error),
    #[error("cannot {what}")]
    Change {
        what: String,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("link {0} is not there")]
    NoLink(String),
    #[error("cannot read or write {path:?}")]
    AddressFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl PodNetwork {
    /// Finds the addresses that pods have and turns forwarding on.
    pub(crate) fn open(run_dir: &Path, instance: &str, range: Range) -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Netlink)?;
        Ok(Self {
            addresses: Mutex::new(Addresses::new(range, found_addresses(run_dir)?)),
            forwarding: Forwarding::turn_on(run_dir)?,
            run_dir: run_dir.to_owned(),
            link_prefix: names::link_prefix(instance),
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// The address of a pod that was wholly connected before.
    pub(crate) fn address(&self, uid: &str) -> Result<Option<Ipv4Addr>, NetworkError> {
        if self.pod_file(uid, CONNECTED_FILE).exists() {
            read_address(&self.pod_file(uid, ADDRESS_FILE))
        } else {
            Ok(None)
        }
    }

    /// Connects a pod's network namespace. The address is written down before anything can use it.
    pub(crate) async fn attach(&self, uid: &str, namespace: &Path) -> Result<Ipv4Addr, NetworkError> {
        let address = self.addresses().give(uid)?;
        remove_file(self.pod_file(uid, CONNECTED_FILE))?;
        write_file(self.pod_file(uid, ADDRESS_FILE), &address.to_string())?;
        let opened =
            File::open(namespace).map_err(|source| NetworkError::Namespace { path: namespace.to_owned(), source })?;
        let name = self.link_name(uid);
        links::remove(&self.handle, &name).await?;
        links::add_pair(&self.handle, &name, opened.as_fd()).await?;
        links::configure_pod(opened.into(), address).await?;
        links::configure_host(&self.handle, &name, address).await?;
        write_file(self.pod_file(uid, CONNECTED_FILE), "")?;
        Ok(address)
    }

    /// Takes a pod's link and address away. Nothing there is no error.
    pub(crate) async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        links::remove(&self.handle, &self.link_name(uid)).await?;
        remove_file(self.pod_file(uid, CONNECTED_FILE))?;
        remove_file(self.pod_file(uid, ADDRESS_FILE))?;
        self.addresses().take_back(uid);
        Ok(())
    }

    /// Removes this engine's links that belong to none of these pods.
    pub(crate) async fn remove_leftovers(&self, uids: &BTreeSet<String>) -> Result<(), NetworkError> {
        let kept: BTreeSet<String> = uids.iter().map(|uid| self.link_name(uid)).collect();
        for name in links::find(&self.handle, &self.link_prefix).await? {
            if !kept.contains(&name) {
                links::remove(&self.handle, &name).await?;
            }
        }
        Ok(())
    }

    /// Leaves the machine as it was before: for when no pod is left.
    pub(crate) async fn close(&self) -> Result<(), NetworkError> {
        self.remove_leftovers(&BTreeSet::new()).await?;
        if links::find(&self.handle, names::ANY_PREFIX).await?.is_empty() {
            self.forwarding.restore()?;
        }
        Ok(())
    }

    fn link_name(&self, uid: &str) -> String {
        names::link_name(&self.link_prefix, uid)
    }

    fn pod_file(&self, uid: &str, name: &str) -> PathBuf {
        self.run_dir.join("pods").join(uid).join(name)
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn write_file(path: PathBuf, content: &str) -> Result<(), NetworkError> {
    std::fs::write(&path, content).map_err(|source| NetworkError::AddressFile { path, source })
}

/// Nothing there is no error.
fn remove_file(path: PathBuf) -> Result<(), NetworkError> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetworkError::AddressFile { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn found_addresses(run_dir: &Path) -> Result<Vec<(String, Ipv4Addr)>, NetworkError> {
    let directory = run_dir.join("pods");
    let failed = |source| NetworkError::AddressFile { path: directory.clone(), source };
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let uid = entry.file_name().to_string_lossy().into_owned();
        found.extend(read_address(&entry.path().join(ADDRESS_FILE))?.map(|address| (uid, address)));
    }
    Ok(found)
}

/// What is no address was cut off while it was written, before anything could use it.
fn read_address(path: &Path) -> Result<Option<Ipv4Addr>, NetworkError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NetworkError::AddressFile { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
