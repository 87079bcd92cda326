//! A probe that only wants a connection.

use std::net::IpAddr;
use std::time::Duration;

use decide::probes::Outcome;
use k8s_openapi::api::core::v1::{Container, TCPSocketAction};

use super::{Answer, failure, http};

/// Host and port to connect to.
pub(super) fn address(
    action: &TCPSocketAction,
    container: &Container,
    pod_ip: IpAddr,
) -> Result<(String, u16), String> {
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_string());
    Ok((host, http::port(&action.port, container)?))
}

pub(super) async fn connect((host, port): &(String, u16), timeout: Duration) -> Answer {
    match tokio::time::timeout(timeout, super::connect::connect(host, *port)).await {
        Ok(Ok(_)) => Answer { outcome: Outcome::Success, message: String::new() },
        Ok(Err(error)) => failure(format!("dial tcp {host}:{port}: connect: {}", super::connect::reason(&error))),
        Err(_) => failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}
