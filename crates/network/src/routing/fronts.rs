//! At which fronts of exposed Services connections are taken. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::plan::{Snapshot, front_of};
use crate::config::Listener;

/// Keys of the Services all of whose ports for TCP are served at their front. `is_served` tells whether a socket is open
/// and acknowledged.
pub(super) fn taken(snapshot: &Snapshot, is_served: &dyn Fn(&str, &Listener) -> bool) -> BTreeSet<String> {
    let exposed = snapshot.services.iter().filter_map(|(key, service)| Some((key, service, front_of(service)?)));
    let taken = exposed.filter(|(key, service, front)| {
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
        let mut numbers = ports.filter_map(|port| u16::try_from(port.port).ok());
        numbers.all(|number| is_served(key, &Listener::tcp(SocketAddr::from((*front, number)))))
    });
    taken.map(|(key, ..)| key.clone()).collect()
}
