use proptest::prelude::*;

use super::*;

/// Few of everything, so that two have much in common; several Services may have one name, as ports of one pod have.
fn any_config() -> impl Strategy<Value = DataPlaneConfig> {
    let service = (0..4_u8, 0..3_u16, 0..2_u8).prop_map(|(name, port, ip)| {
        let ports = vec![ServicePort {
            port: 80 + port,
            node_port: None,
            name: String::new(),
            speaks: Speaks::FindOut,
            endpoints: Vec::new(),
            elsewhere: Vec::new(),
        }];
        Arc::new(Service {
            name: format!("s{name}"),
            addresses: vec![IpAddr::from([10, 45, name, ip])],
            ports,
            ..Service::default()
        })
    });
    let ending = proptest::collection::btree_set("[ab]".prop_map(PodUid), 0..2);
    (proptest::collection::vec(service, 0..5), ending, any::<bool>()).prop_map(|(services, end_long, has_ingress)| {
        let at = SocketAddr::new(ANY_ADDRESS, 80);
        let ingress = Ingress { http: has_ingress.then_some(at), ..Ingress::default() };
        let mut config = DataPlaneConfig { services, end_long, ingress, ..DataPlaneConfig::default() };
        config.listen = config.wanted_listeners();
        config.services.sort_by_key(|service| (service.key(), service.ports[0].port, service.addresses.clone()));
        config
    })
}

proptest! {
    #[test]
    fn a_change_makes_one_of_the_other(old in any_config(), mut new in any_config()) {
        new.version = 1;
        let change = Change::between(&old, &new).unwrap();
        let change: Change = serde_json::from_value(serde_json::to_value(change).unwrap()).unwrap();
        let mut changed = old.clone();
        assert_eq!(changed.apply(&change), Applied::Yes);
        changed.services.sort_by_key(|service| (service.key(), service.ports[0].port, service.addresses.clone()));
        prop_assert_eq!(&changed, &new);
        prop_assert_eq!(changed.apply(&change), Applied::No);
        prop_assert_eq!(changed, new);
    }
}

#[test]
fn a_change_holds_what_differs_and_nothing_else() {
    let service = |name: &str, port: u16| {
        let ports = vec![ServicePort {
            port,
            node_port: None,
            name: String::new(),
            speaks: Speaks::FindOut,
            endpoints: Vec::new(),
            elsewhere: Vec::new(),
        }];
        let addresses = vec![IpAddr::from([10, 45, 0, 1])];
        Arc::new(Service { name: name.to_owned(), addresses, ports, ..Service::default() })
    };
    let config = |version, services: Vec<Arc<Service>>| {
        let mut config = DataPlaneConfig { version, services, ..DataPlaneConfig::default() };
        config.listen = config.wanted_listeners();
        config
    };
    let old = config(7, vec![service("stays", 1), service("moves", 2), service("goes", 3)]);
    let new = config(8, vec![service("stays", 1), service("moves", 4), service("comes", 5)]);
    let listeners = |ports: &[u16]| -> BTreeSet<Listener> {
        ports.iter().map(|port| Listener::tcp(SocketAddr::from(([10, 45, 0, 1], *port)))).collect()
    };
    let expected = Change {
        from: 7,
        version: 8,
        opened: listeners(&[4, 5]),
        closed: listeners(&[2, 3]),
        services: vec![service("comes", 5), service("moves", 4)],
        gone: [(String::new(), "goes".to_owned())].into(),
        ..Change::default()
    };
    assert_eq!(Change::between(&old, &new), Some(expected));
    let other_base = DataPlaneConfig { access_log: true, ..new };
    assert_eq!(Change::between(&old, &other_base), None);
}
