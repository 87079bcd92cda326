//! At which fronts of Services connections are taken. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use decide::exposure::{backends, front_of, is_exposed, is_on_tailnet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;

use super::plan::Snapshot;
use crate::config::Listener;
use crate::tailnet::Fronts;
use crate::watch::Objects;

/// Keys of the Services that Ingresses on the tailnet lead to.
pub(super) fn led_to(ingresses: &Objects<Ingress>) -> BTreeSet<String> {
    ingresses.values().filter(|ingress| is_on_tailnet(ingress)).flat_map(|ingress| backends(ingress)).collect()
}

/// Whether the tailnet's daemon is to find a Service; `led_to` are those behind Ingresses.
pub(super) fn is_wanted(key: &str, service: &Service, led_to: &BTreeSet<String>) -> bool {
    is_exposed(service) || led_to.contains(key)
}

/// The ports for TCP at the fronts of Services. `is_served` tells whether a socket is open and acknowledged, `refused` are
/// those that nobody can open.
pub(super) fn open(
    snapshot: &Snapshot,
    is_served: &dyn Fn(&str, &Listener) -> bool,
    refused: &BTreeSet<Listener>,
) -> Fronts {
    let led_to = led_to(&snapshot.ingresses);
    let wanted = snapshot.services.iter().filter(|(key, service)| is_wanted(key, service, &led_to));
    let mut open = Fronts::default();
    for (key, service) in wanted {
        let Some(front) = front_of(service) else { continue };
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
        for number in ports.filter_map(|port| u16::try_from(port.port).ok()) {
            let at = SocketAddrV4::new(front, number);
            let listener = Listener::tcp(at.into());
            if refused.contains(&listener) {
                open.refused.insert(at);
            } else if is_served(key, &listener) {
                open.taken.insert(at);
            }
        }
    }
    open
}
