//! The netlink requests: a pair of links, the pod's end configured inside its namespace, the host's end outside.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::thread::LinkNameSpaceType;
use tokio::sync::oneshot;

use super::{GATEWAY, NetworkError};

/// What a pod calls its link.
const POD_LINK: &str = "eth0";
const LOOPBACK: &str = "lo";

/// Makes a pair of links, one of them in the pod's namespace from the beginning.
pub(super) async fn add_pair(handle: &Handle, host: &str, namespace: BorrowedFd<'_>) -> Result<(), NetworkError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(POD_LINK).setns_by_fd(namespace.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(host, POD_LINK).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    let added = handle.link().add(pair.build()).execute().await;
    added.map_err(failed(|| format!("add link {host} for a pod")))
}

/// Gives the pod's end its address and its way out. The namespace is entered by a thread of its own.
pub(super) async fn configure_pod(namespace: OwnedFd, address: Ipv4Addr) -> Result<(), NetworkError> {
    let (answer, answered) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("pod-network".to_owned()).spawn(move || {
        // The one who asked may have been cancelled; then nobody wants the answer.
        let _ = answer.send(configure_inside(&namespace, address));
    });
    spawned.map_err(NetworkError::Enter)?;
    let gone = |_| NetworkError::Enter(std::io::Error::other("the thread in the namespace ended early"));
    answered.await.map_err(gone)?
}

fn configure_inside(namespace: &OwnedFd, address: Ipv4Addr) -> Result<(), NetworkError> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| NetworkError::Enter(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetworkError::Enter)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Netlink)?;
        tokio::spawn(connection);
        set_up(&handle, LOOPBACK).await?;
        let link = set_up(&handle, POD_LINK).await?;
        add_address(&handle, link, address).await?;
        add_route(&handle, link, GATEWAY).await?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link).gateway(GATEWAY).build();
        let added = handle.route().add(default).replace().execute().await;
        added.map_err(failed(|| "add the pod's default route".to_owned()))
    })
}

/// Lets the host's end answer for the gateway and leads the pod's address there.
pub(super) async fn configure_host(handle: &Handle, host: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
    let link = index(handle, host).await?.ok_or_else(|| NetworkError::NoLink(host.to_owned()))?;
    add_address(handle, link, GATEWAY).await?;
    set_up(handle, host).await?;
    add_route(handle, link, address).await
}

/// Removes a link, and with it its peer and the routes through it.
pub(super) async fn remove(handle: &Handle, name: &str) -> Result<(), NetworkError> {
    let Some(index) = index(handle, name).await? else { return Ok(()) };
    match handle.link().del(index).execute().await {
        Err(error) if !is_missing(&error) => Err(failed(|| format!("remove link {name}"))(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The names of all links that begin like this.
pub(super) async fn find(handle: &Handle, prefix: &str) -> Result<Vec<String>, NetworkError> {
    let mut links = Box::pin(handle.link().get().execute());
    let mut names = Vec::new();
    while let Some(link) = links.try_next().await.map_err(failed(|| "list links".to_owned()))? {
        names.extend(
            link.attributes
                .into_iter()
                .filter_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None }),
        );
    }
    names.retain(|name| name.starts_with(prefix));
    Ok(names)
}

async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    let mut links = Box::pin(handle.link().get().match_name(name).execute());
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(|| format!("find link {name}"))(error)),
    }
}

async fn set_up(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let index = index(handle, name).await?.ok_or_else(|| NetworkError::NoLink(name.to_owned()))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    let set = handle.link().set(up).execute().await;
    set.map_err(failed(|| format!("bring link {name} up")))?;
    Ok(index)
}

async fn add_address(handle: &Handle, link: u32, address: Ipv4Addr) -> Result<(), NetworkError> {
    let added = handle.address().add(link, address.into(), 32).replace().execute().await;
    added.map_err(failed(|| format!("add address {address}")))
}

async fn add_route(handle: &Handle, link: u32, to: Ipv4Addr) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(to, 32)
        .output_interface(link)
        .scope(RouteScope::Link)
        .build();
    let added = handle.route().add(route).replace().execute().await;
    added.map_err(failed(|| format!("add a route to {to}")))
}

fn is_missing(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else { return false };
    matches!(message.raw_code().abs(), libc::ENODEV | libc::ENOENT)
}

fn failed(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Change { what: what(), source }
}
