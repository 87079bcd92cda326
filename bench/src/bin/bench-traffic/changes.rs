//! How long a change of an endpoint takes until it is in force for every new request: 20 Services with 10 pods each,
//! of which one changes 50 times a second.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decide::balancing::EndpointState::{Ready, Withdrawn};
use end_to_end::paths::built;
use network::config::{Affinity, DataPlaneConfig, Endpoint, PodUid, Service, ServicePort, Speaks};
use network::frames::Report;
use network::keeper::KeeperSettings;
use network::link::{DataPlaneCommand, Link, shut_down};

const SERVICES: u8 = 20;
const PODS: u8 = 10;
const CHANGES: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// From the engine's word to the data plane's acknowledgement, half and 99 of 100 of them, in milliseconds.
pub(crate) async fn in_force_milliseconds() -> (f64, f64) {
    let run_dir = tempfile::tempdir().expect("a directory");
    let command = DataPlaneCommand {
        executable: built("segue"),
        keeper: KeeperSettings { run_dir: run_dir.path().to_owned(), proxy_user: None },
        log: run_dir.path().join("data-plane.log"),
        access_log: run_dir.path().join("access.log"),
    };
    let (mut link, _) = Link::open(&command).await.expect("a data plane starts");
    let mut config =
        DataPlaneConfig { services: (0..SERVICES).map(service).map(Arc::new).collect(), ..DataPlaneConfig::default() };
    configure(&mut link, &mut config).await;
    let mut took = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        tokio::time::sleep(PAUSE).await;
        let endpoints = &mut Arc::make_mut(&mut config.services[change % usize::from(SERVICES)]).ports[0].endpoints;
        let changed = &mut endpoints[change / usize::from(SERVICES) % usize::from(PODS)];
        changed.state = if changed.state == Ready { Withdrawn } else { Ready };
        changed.pod = PodUid(format!("{}-{change}", changed.pod));
        took.push(configure(&mut link, &mut config).await.as_secs_f64() * 1000.0);
    }
    drop(link);
    shut_down(run_dir.path()).await.expect("the data plane ends");
    took.sort_by(f64::total_cmp);
    (took[CHANGES / 2], took[CHANGES * 99 / 100])
}

async fn configure(link: &mut Link, config: &mut DataPlaneConfig) -> Duration {
    config.version += 1;
    config.listen = config.wanted_listeners();
    let begun = Instant::now();
    link.configure(config).await.expect("the keeper lives");
    loop {
        match link.receive().await.expect("the keeper lives") {
            Some(Report::Acknowledged { version, refused, .. }) if version == config.version => {
                assert_eq!(refused, [], "every socket can be opened");
                return begun.elapsed();
            }
            Some(_) => {}
            None => panic!("the keeper is gone"),
        }
    }
}

fn service(number: u8) -> Service {
    let address = IpAddr::V4(Ipv4Addr::new(127, 88, 0, number + 1));
    let endpoint = |pod: u8| Endpoint {
        ip: IpAddr::V4(Ipv4Addr::new(127, 88, number + 1, pod + 1)),
        port: 8080,
        pod: PodUid(format!("{number}-{pod}")),
        pod_name: format!("web-{number}-{pod}"),
        pod_version: "v1".to_owned(),
        state: Ready,
    };
    Service {
        namespace: "default".to_owned(),
        name: format!("web-{number}"),
        addresses: vec![address],
        answers: vec![address],
        hosts: Vec::new(),
        named_ports: Vec::new(),
        affinity: Affinity::None,
        sticky_cookie: None,
        proxy_protocol: None,
        max_request_body: None,
        is_in_mesh: false,
        ports: vec![ServicePort {
            port: 8080,
            node_port: None,
            name: String::new(),
            speaks: Speaks::Http1,
            endpoints: (0..PODS).map(endpoint).collect(),
            elsewhere: Vec::new(),
        }],
    }
}
