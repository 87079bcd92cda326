//! Connections to a pod from within: what listens only on the pod's own loopback answers too.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rustix::thread::LinkNameSpaceType;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::agent::Settings;
use crate::shim::client::ShimClient;

/// Loopback answers at once or never.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("pod {0:?} does not run")]
    NotRunning(String),
    #[error("cannot enter the pod's network")]
    Enter(#[source] io::Error),
    #[error("cannot connect to port {port} of the pod: {source}")]
    Connect { port: u16, source: io::Error },
}

/// Connects to a port of a pod, on its loopback addresses.
///
/// # Errors
/// When the pod does not run, or nothing listens there.
pub async fn connect(settings: &Settings, pod: &Pod, port: u16) -> Result<TcpStream, ForwardError> {
    let socket = settings.pod_run_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("shim.sock");
    let name = pod.metadata.name.clone().unwrap_or_default();
    let shim = ShimClient::connect(&socket).await.map_err(|_| ForwardError::NotRunning(name))?;
    let namespace = File::open(shim.network_namespace()).map_err(ForwardError::Enter)?;
    let (tell, connected) = oneshot::channel();
    // A thread of its own, since it stays in the pod's network.
    std::thread::spawn(move || tell.send(connect_within(&namespace, port)));
    let stream = connected.await.map_err(|_| ForwardError::Enter(io::ErrorKind::BrokenPipe.into()))??;
    TcpStream::from_std(stream).map_err(|source| ForwardError::Connect { port, source })
}

fn connect_within(namespace: impl AsFd, port: u16) -> Result<StdStream, ForwardError> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| ForwardError::Enter(errno.into()))?;
    let connect = |ip: IpAddr| StdStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_WITHIN);
    let connected =
        connect(Ipv4Addr::LOCALHOST.into()).or_else(|first| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| first));
    let stream = connected.and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
    stream.map_err(|source| ForwardError::Connect { port, source })
}
