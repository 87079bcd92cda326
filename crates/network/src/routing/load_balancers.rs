//! Which Services of type LoadBalancer have which address, once connections to it are taken. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::plan::{Snapshot, is_load_balancer};
use crate::config::{Listener, Transport};

/// A Service whose status says something else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BalancerStatus {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    /// None for a Service that is no load balancer any more.
    pub(super) address: Option<IpAddr>,
}

/// What is to be written. `is_served` tells whether a socket is open and acknowledged.
pub(super) fn statuses(snapshot: &Snapshot, is_served: &dyn Fn(&str, &Listener) -> bool) -> BTreeSet<BalancerStatus> {
    let services = snapshot.services.iter();
    services.filter_map(|(key, service)| status(service, snapshot.host, &|it| is_served(key, it))).collect()
}

fn status(service: &Service, host: Option<IpAddr>, is_served: &dyn Fn(&Listener) -> bool) -> Option<BalancerStatus> {
    let address = host.filter(|_| is_load_balancer(service));
    let spec = service.spec.as_ref()?;
    if let Some(host) = address {
        let mut listeners = spec.ports.iter().flatten().filter_map(|port| listener(host, port));
        if !listeners.all(|listener| is_served(&listener)) {
            return None;
        }
    } else if spec.load_balancer_class.is_some() {
        return None;
    }
    let said = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let said: Vec<&str> =
        said.iter().flat_map(|it| it.ingress.iter().flatten()).filter_map(|it| it.ip.as_deref()).collect();
    let wanted = address.map(|ip| ip.to_string());
    if said == wanted.as_deref().into_iter().collect::<Vec<_>>() {
        return None;
    }
    let metadata = &service.metadata;
    Some(BalancerStatus {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        resource_version: metadata.resource_version.clone()?,
        address,
    })
}

/// None for a protocol that nobody serves.
fn listener(host: IpAddr, port: &ServicePort) -> Option<Listener> {
    let address = SocketAddr::new(host, u16::try_from(port.port).ok()?);
    let transport = match port.protocol.as_deref() {
        None | Some("TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some(_) => return None,
    };
    Some(Listener { transport, address })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    const HOST: &str = "192.0.2.1";

    fn check(spec: Value, said: Value, served: &[&str], expected: Option<Option<&str>>) {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "s", "uid": "u", "resourceVersion": "7"},
            "spec": spec, "status": {"loadBalancer": said},
        }))
        .unwrap();
        let snapshot = Snapshot {
            services: Arc::new([("n/s".to_owned(), Arc::new(service))].into()),
            host: Some(HOST.parse().unwrap()),
            ..Snapshot::default()
        };
        let is_served = |_: &str, listener: &Listener| served.contains(&listener.to_string().as_str());
        let written = statuses(&snapshot, &is_served).pop_first().map(|status| status.address);
        assert_eq!(
            written,
            expected.map(|address| address.map(|ip| ip.parse().unwrap())),
            "{spec}",
            spec = snapshot.services["n/s"].spec.as_ref().unwrap().type_.clone().unwrap_or_default()
        );
    }

    #[test]
    fn an_address_is_written_once_every_port_is_served_there() {
        let spec =
            json!({"type": "LoadBalancer", "ports": [{"port": 80}, {"port": 443}, {"port": 53, "protocol": "UDP"}]});
        let all = &["TCP 192.0.2.1:80", "TCP 192.0.2.1:443", "UDP 192.0.2.1:53"][..];
        check(spec.clone(), json!({}), &all[..2], None);
        check(spec.clone(), json!({}), all, Some(Some(HOST)));
        check(spec, json!({"ingress": [{"ip": HOST}]}), all, None);
    }

    #[test]
    fn what_is_no_load_balancer_of_ours_has_none() {
        let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
        check(plain.clone(), json!({}), &[], None);
        check(plain, json!({"ingress": [{"ip": HOST}]}), &[], Some(None));
        let other = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other", "ports": [{"port": 80}]});
        check(other, json!({"ingress": [{"ip": "203.0.113.1"}]}), &["TCP 192.0.2.1:80"], None);
    }
}
