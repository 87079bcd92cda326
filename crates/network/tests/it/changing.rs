//! Many Services whose endpoints change all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use decide::balancing::EndpointState::{self, Ready, Withdrawn};
use network::config::{Endpoint, PodUid, Service};
use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::load::Load;
use crate::plane::{PORT, Plane, uid};

const SERVICES: u16 = 20;
/// Of each Service; they share so many apps.
const PODS: u8 = 10;
const CHANGES: usize = 250;
/// 50 changes a second.
const PAUSE: Duration = Duration::from_millis(20);
/// Services that clients ask.
const ASKED: u16 = 4;

fn endpoint(plane: &Plane, service: u16, number: u8, generation: usize, state: EndpointState) -> Endpoint {
    let address = plane.pod(2 + number);
    Endpoint {
        ip: address.ip(),
        port: address.port(),
        pod: PodUid(format!("{}-{service}-{generation}", uid(number))),
        pod_name: format!("app-{service}-{number}-{generation}"),
        pod_version: "v1".to_owned(),
        state,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_change_all_the_time_fail_no_request() {
    let mut plane = Plane::start().await;
    let _apps: Vec<App> = (0..PODS).map(|number| App::start(plane.pod(2 + number), &format!("app-{number}"))).collect();
    plane.route(&[(2, Ready)]).await;
    let first = plane.config.services[0].clone();
    plane.config.services = (0..SERVICES)
        .map(|service| {
            let mut copy = Service::clone(&first);
            copy.name = format!("demo-{service}");
            copy.ports[0].port = PORT + service;
            copy.ports[0].endpoints = (0..PODS).map(|number| endpoint(&plane, service, number, 0, Ready)).collect();
            Arc::new(copy)
        })
        .collect();
    plane.configure().await;
    let loads: Vec<Load> =
        (0..ASKED).map(|service| Load::start(SocketAddr::new(plane.service_ip(), PORT + service))).collect();

    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for change in 0..CHANGES {
        tick.tick().await;
        // Each pod is withdrawn, and with the next change to its Service gives way to another.
        let service = change as u16 % SERVICES;
        let number = (change / usize::from(SERVICES)) as u8 % PODS;
        let mut endpoints = plane.config.services[usize::from(service)].ports[0].endpoints.clone();
        for (place, old) in endpoints.iter_mut().enumerate().filter(|(_, old)| old.state == Withdrawn) {
            *old = endpoint(&plane, service, place as u8, change, Ready);
        }
        endpoints[usize::from(number)].state = Withdrawn;
        plane.service_mut(usize::from(service)).ports[0].endpoints = endpoints;
        assert!(plane.configure().await.is_empty());
    }
    for load in loads {
        let outcome = load.stop().await;
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        assert!(outcome.answered > CHANGES, "{outcome:?}");
    }
}
