use decide::network_policy::{Flow, Protocol};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

pub(in crate::routing) fn plan(snapshot: &Snapshot, leaving: &BTreeMap<PodUid, DrainStep>) -> Plan {
    Planner::default().plan(snapshot, leaving)
}

/// Objects of a small cluster, as tests describe it.
#[derive(Default)]
pub(in crate::routing) struct Cluster {
    pub(in crate::routing) services: Vec<Value>,
    pub(in crate::routing) slices: Vec<Value>,
    pub(in crate::routing) pods: Vec<Value>,
    pub(in crate::routing) ingresses: Vec<Value>,
    pub(in crate::routing) ingress_classes: Vec<Value>,
    pub(in crate::routing) secrets: Vec<Value>,
    pub(in crate::routing) policies: Vec<Value>,
    pub(in crate::routing) namespaces: Vec<Value>,
    pub(in crate::routing) machines: Machines,
}

impl Cluster {
    pub(in crate::routing) fn snapshot(&self) -> Snapshot {
        let host = Some("192.0.2.1".parse().unwrap());
        Snapshot {
            services: read(&self.services),
            slices: read(&self.slices),
            pods: read(&self.pods),
            ingresses: read(&self.ingresses),
            ingress_classes: read(&self.ingress_classes),
            secrets: read(&self.secrets),
            policies: read(&self.policies),
            namespaces: read(&self.namespaces),
            host,
            peers: Default::default(),
            machines: Arc::new(self.machines.clone()),
            mesh_ports: Some(745..=746),
            api: Some("127.0.0.1:7443".parse().unwrap()),
            service_range: Some("10.45.0.0/16".parse().unwrap()),
        }
    }
}

fn read<K: DeserializeOwned>(values: &[Value]) -> Objects<K> {
    let key = |value: &Value| {
        let metadata = &value["metadata"];
        format!("{}/{}", metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap())
    };
    Arc::new(
        values.iter().map(|value| (key(value), Arc::new(serde_json::from_value(value.clone()).unwrap()))).collect(),
    )
}

pub(in crate::routing) fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"namespace": "production", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// A slice in which each pod has the conditions its object has.
pub(in crate::routing) fn slice(service: &str, pods: &[&Value]) -> Value {
    let endpoint = |pod: &&Value| {
        let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
        let ready = pod["status"]["conditions"][0]["status"] == "True";
        json!({
            "addresses": [pod["status"]["podIP"]],
            "conditions": {"ready": ready && !terminating, "serving": ready, "terminating": terminating},
            "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
        })
    };
    json!({
        "metadata": {"namespace": "production", "name": format!("{service}-1"), "labels": {SERVICE_NAME: service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

pub(in crate::routing) fn pod(app: &str, number: u8, ready: &str) -> Value {
    json!({
        "metadata": {"namespace": "production", "name": format!("{app}-{number}"), "uid": format!("u{number}"),
                     "resourceVersion": "1", "labels": {"app": app, "pod-template-hash": "v1"}},
        "spec": {"containers": [], "terminationGracePeriodSeconds": 30},
        "status": {"podIP": format!("10.44.0.{number}"), "conditions": [{"type": "Ready", "status": ready}]},
    })
}

pub(in crate::routing) fn uid(number: u8) -> PodUid {
    PodUid(format!("u{number}"))
}

fn terminating(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    pod
}

/// Pods of `demo` with their states in the plan.
fn check(pods: &[Value], leaving: &[(u8, DrainStep)], expected: &[(&str, EndpointState)]) {
    let cluster = Cluster {
        services: vec![service("demo", "10.45.0.7")],
        slices: vec![slice("demo", &pods.iter().collect::<Vec<_>>())],
        pods: pods.to_vec(),
        ..Cluster::default()
    };
    let plan = plan(&cluster.snapshot(), &leaving.iter().map(|(number, step)| (uid(*number), *step)).collect());
    let endpoints = &plan.services[0].ports[0].endpoints;
    let states: Vec<_> = endpoints.iter().map(|it| (it.pod_name.as_str(), it.state)).collect();
    assert_eq!(states, expected);
}

#[test]
fn ready_pods_are_endpoints_and_others_are_not() {
    check(
        &[pod("demo", 1, "True"), pod("demo", 2, "False"), pod("demo", 3, "True")],
        &[],
        &[("demo-1", EndpointState::Ready), ("demo-3", EndpointState::Ready)],
    );
}

#[test]
fn a_terminating_pod_has_the_state_of_its_drain() {
    let pods = [pod("demo", 1, "True"), terminating(pod("demo", 2, "True")), terminating(pod("demo", 3, "True"))];
    check(
        &pods,
        &[(2, DrainStep::Deprioritise), (3, DrainStep::Withdraw)],
        &[
            ("demo-1", EndpointState::Ready),
            ("demo-2", EndpointState::Deprioritised),
            ("demo-3", EndpointState::Withdrawn),
        ],
    );
}

#[test]
fn what_does_not_fit_together_is_left_out() {
    let (old, mut new) = (pod("demo", 1, "True"), pod("demo", 1, "True"));
    new["metadata"]["uid"] = json!("another");
    let mut cluster = Cluster {
        services: vec![service("demo", "10.45.0.7")],
        slices: vec![slice("demo", &[&old])],
        pods: vec![new],
        ..Cluster::default()
    };
    let endpoints =
        |cluster: &Cluster| plan(&cluster.snapshot(), &BTreeMap::new()).services[0].ports[0].endpoints.len();
    assert_eq!(endpoints(&cluster), 0, "the slice is about a pod that had the name before");
    cluster.pods.clear();
    assert_eq!(endpoints(&cluster), 0, "the slice is newer than the pods");
    cluster.pods.push(pod("demo", 1, "False"));
    assert_eq!(endpoints(&cluster), 0, "the slice is older than the pod's readiness");
    cluster.pods[0] = old;
    assert_eq!(endpoints(&cluster), 1);
}

#[test]
fn a_pod_that_only_its_slice_knows_to_be_leaving_stays_as_a_last_resort() {
    let (now, known) = (terminating(pod("demo", 1, "True")), pod("demo", 1, "True"));
    let cluster = Cluster {
        services: vec![service("demo", "10.45.0.7")],
        slices: vec![slice("demo", &[&now])],
        pods: vec![known],
        ..Cluster::default()
    };
    let plan = plan(&cluster.snapshot(), &BTreeMap::new());
    assert_eq!(plan.services[0].ports[0].endpoints[0].state, EndpointState::Deprioritised);
}

#[test]
fn a_service_is_listened_for_at_each_tcp_port_and_named() {
    let mut demo = service("demo", "10.45.0.7");
    demo["spec"]["ports"] = json!([
        {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "tcp-raw", "port": 90},
    ]);
    let mut external = service("external", "10.45.0.9");
    external["spec"]["type"] = json!("ExternalName");
    let cluster = Cluster { services: vec![demo, external], ..Cluster::default() };
    let plan = plan(&cluster.snapshot(), &BTreeMap::new());
    let config = plan.config(7, &Base::default());
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["TCP 10.45.0.7:80", "TCP 10.45.0.7:90"]);
    assert_eq!((config.version, config.services.len()), (7, 1));
    let speaks: Vec<_> = config.services[0].ports.iter().map(|port| port.speaks).collect();
    assert_eq!(speaks, [config::Speaks::Http1, config::Speaks::Opaque]);
}

#[test]
fn a_headless_service_answers_with_its_ready_pods() {
    let (one, two) = (pod("db", 1, "True"), pod("db", 2, "False"));
    let mut db = service("db", "None");
    db["spec"]["clusterIPs"] = json!(["None"]);
    let mut cluster = Cluster {
        services: vec![db],
        slices: vec![slice("db", &[&one, &two])],
        pods: vec![one, two],
        ..Cluster::default()
    };
    let answers = |cluster: &Cluster| plan(&cluster.snapshot(), &BTreeMap::new()).services[0].answers.clone();
    assert_eq!(answers(&cluster), ["10.44.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(plan(&cluster.snapshot(), &BTreeMap::new()).routed[&uid(1)].len(), 1, "that is routing too");
    cluster.pods[0] = terminating(cluster.pods[0].clone());
    assert_eq!(answers(&cluster), Vec::<IpAddr>::new());
}

#[test]
fn what_no_other_machine_can_take_over_is_only_here() {
    let ready = pod("demo", 1, "True");
    let mut demo = service("demo", "10.45.0.7");
    let here = |demo: &Value, ready: &Value| {
        let mut slice = slice("demo", &[ready]);
        slice["ports"].as_array_mut().unwrap().push(json!({"name": "dns", "port": 5353, "protocol": "UDP"}));
        let cluster = Cluster {
            services: vec![demo.clone()],
            slices: vec![slice],
            pods: vec![ready.clone()],
            ..Cluster::default()
        };
        let here = plan(&cluster.snapshot(), &BTreeMap::new()).here();
        (here.services.len(), here.only_here.len())
    };
    assert_eq!(here(&demo, &ready), (0, 1));
    assert_eq!(here(&demo, &pod("demo", 1, "False")), (0, 0));
    demo["metadata"]["annotations"] = json!({"segue.dev/mesh": "true"});
    assert_eq!(here(&demo, &ready), (1, 0));
    let mut with_udp = demo.clone();
    let udp = json!({"name": "dns", "port": 53, "protocol": "UDP"});
    with_udp["spec"]["ports"].as_array_mut().unwrap().push(udp.clone());
    assert_eq!(here(&with_udp, &ready), (1, 1));
    with_udp["spec"]["ports"] = json!([udp]);
    assert_eq!(here(&with_udp, &ready), (1, 1));
    assert_eq!(here(&with_udp, &pod("demo", 1, "False")), (1, 0));
    let mut headless = demo;
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["clusterIPs"] = json!(["None"]);
    assert_eq!(here(&headless, &ready), (0, 1));
}

/// The slice is newer than what is known of the pod.
fn published_before_its_pod_has_an_address() -> Arc<config::Service> {
    let mut db = service("db", "10.45.0.7");
    db["spec"]["publishNotReadyAddresses"] = json!(true);
    let mut known = pod("db", 1, "False");
    let mut slice = slice("db", &[&known]);
    slice["endpoints"][0]["conditions"]["ready"] = json!(true);
    known["status"].as_object_mut().unwrap().remove("podIP");
    let cluster = Cluster { services: vec![db], slices: vec![slice], pods: vec![known], ..Cluster::default() };
    plan(&cluster.snapshot(), &BTreeMap::new()).services.remove(0)
}

#[test]
fn where_all_addresses_are_published_readiness_is_not_asked_for() {
    let pods = [pod("db", 1, "True"), pod("db", 2, "False"), terminating(pod("db", 3, "False"))];
    let published = |ip: &str| {
        let mut db = service("db", ip);
        db["spec"]["publishNotReadyAddresses"] = json!(true);
        let mut slice = slice("db", &pods.iter().collect::<Vec<_>>());
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            endpoint["conditions"]["ready"] = json!(true);
        }
        let cluster = Cluster { services: vec![db], slices: vec![slice], pods: pods.to_vec(), ..Cluster::default() };
        plan(&cluster.snapshot(), &BTreeMap::new()).services.remove(0)
    };
    let unknown = published_before_its_pod_has_an_address();
    assert!(unknown.ports[0].endpoints.is_empty(), "no policy could guard it yet: {unknown:?}");
    let named: Vec<_> = published("None").answers.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["10.44.0.1", "10.44.0.2", "10.44.0.3"], "one that is going away is named until it is gone");
    let with_address = published("10.45.0.7");
    let given_work: Vec<_> = with_address.ports[0].endpoints.iter().map(|it| it.ip.to_string()).collect();
    assert_eq!(given_work, ["10.44.0.1", "10.44.0.2"], "one that is going away gets no new work");
}

#[test]
fn endpoints_with_a_hostname_are_hosts_whether_their_service_has_an_address_or_not() {
    let pods = [pod("db", 1, "True"), pod("db", 2, "True"), pod("db", 3, "False")];
    for ip in ["None", "10.45.0.7"] {
        let mut slice = slice("db", &pods.iter().collect::<Vec<_>>());
        slice["endpoints"][0]["hostname"] = json!("db-0");
        slice["endpoints"][2]["hostname"] = json!("db-2");
        let cluster = Cluster {
            services: vec![service("db", ip)],
            slices: vec![slice],
            pods: pods.to_vec(),
            ..Cluster::default()
        };
        let plan = plan(&cluster.snapshot(), &BTreeMap::new());
        let host = config::Host { hostname: "db-0".to_owned(), ip: "10.44.0.1".parse().unwrap() };
        assert_eq!(plan.services[0].hosts, [host], "clusterIP: {ip}");
    }
}

#[test]
fn named_ports_are_the_services_own_or_those_of_a_headless_services_endpoints() {
    let pods = [pod("db", 1, "True"), pod("db", 2, "True")];
    let check = |ip: &str, expected: &[&str]| {
        let mut db = service("db", ip);
        db["spec"]["ports"] = json!([
            {"name": "sql", "port": 80, "targetPort": "sql"}, {"name": "ping", "port": 81, "protocol": "UDP"},
        ]);
        // The container port of this name is another in each pod.
        let mut slices = [slice("db", &[&pods[0]]), slice("db", &[&pods[1]])];
        slices[0]["ports"] = json!([{"name": "sql", "port": 5432}, {"name": "ping", "port": 81, "protocol": "UDP"}]);
        slices[1]["ports"] = json!([{"name": "sql", "port": 5433}, {"name": "", "port": 9}]);
        slices[1]["metadata"]["name"] = json!("db-2");
        let cluster =
            Cluster { services: vec![db], slices: slices.to_vec(), pods: pods.to_vec(), ..Cluster::default() };
        let plan = plan(&cluster.snapshot(), &BTreeMap::new());
        let shown: Vec<_> = plan.services[0]
            .named_ports
            .iter()
            .map(|it| format!("{} {} {} {:?}", it.name, it.protocol, it.port, it.endpoints))
            .collect();
        assert_eq!(shown, expected, "clusterIP: {ip}");
    };
    check("10.45.0.7", &["ping udp 81 []", "sql tcp 80 []"]);
    check("None", &["ping udp 81 [10.44.0.1]", "sql tcp 5432 [10.44.0.1]", "sql tcp 5433 [10.44.0.2]"]);
}

#[test]
fn a_service_stands_for_a_machine_of_the_tailnet_as_long_as_that_is_there() {
    let external = |name: &str, annotation: &str, value: &str| {
        json!({
            "metadata": {"namespace": "production", "name": name, "annotations": {annotation: value}},
            "spec": {"type": "ExternalName", "externalName": "placeholder"},
        })
    };
    let services = vec![
        external("db", "tailscale.com/tailnet-fqdn", "db.example.ts.net"),
        external("lost", "tailscale.com/tailnet-fqdn", "lost.example.ts.net"),
        external("printer", "tailscale.com/tailnet-ip", "100.64.0.7"),
    ];
    let mut snapshot = Cluster { services, ..Cluster::default() }.snapshot();
    snapshot.peers = [("db.example.ts.net".to_owned(), vec![[100, 64, 0, 9].into()])].into();
    let aliases = plan(&snapshot, &BTreeMap::new()).aliases;
    let found: Vec<_> = aliases.iter().map(|alias| (alias.name.as_str(), alias.addresses.clone())).collect();
    assert_eq!(found, [("db", vec![[100, 64, 0, 9].into()]), ("printer", vec![[100, 64, 0, 7].into()])]);
}

#[test]
fn one_service_is_the_api_and_no_other_of_its_name() {
    let api = |namespace: &str| {
        json!({
            "metadata": {"namespace": namespace, "name": "kubernetes", "labels": {"provider": "kubernetes"}},
            "spec": {"clusterIP": "10.45.0.1", "ports": [{"name": "https", "port": 443}]},
        })
    };
    let snapshot = Cluster { services: vec![api("default"), api("production")], ..Cluster::default() }.snapshot();
    let plan = plan(&snapshot, &BTreeMap::new());
    assert!(plan.states.is_empty(), "whoever drains everything waits for nothing that is no pod");
    let services = plan.services;
    let endpoints: Vec<usize> = services.iter().map(|service| service.ports[0].endpoints.len()).collect();
    assert_eq!(endpoints, [1, 0]);
    assert_eq!(services[0].ports[0].endpoints[0].port, 7443);
}

#[test]
fn a_service_of_type_external_name_is_an_alias_and_takes_no_connections() {
    let mut external = service("external", "10.45.0.9");
    external["spec"] = json!({"type": "ExternalName", "externalName": "db.example.com"});
    let mut cluster = Cluster { services: vec![external], ..Cluster::default() };
    let before = plan(&cluster.snapshot(), &BTreeMap::new());
    let config = before.config(1, &Base::default());
    let [alias] = config.aliases.as_slice() else { panic!("{:?}", config.aliases) };
    assert_eq!((alias.name.as_str(), alias.target.as_str()), ("external", "db.example.com"));
    assert!(config.services.is_empty() && config.listen.is_empty());
    cluster.services[0]["spec"]["externalName"] = json!("other.example.com");
    assert!(!plan(&cluster.snapshot(), &BTreeMap::new()).sends_the_same_as(&before), "the change is sent");
}

#[test]
fn endpoints_without_pods_are_used_as_they_are() {
    let mut manual = slice("demo", &[]);
    manual["endpoints"] = json!([
        {"addresses": ["192.168.1.7"]}, {"addresses": ["192.168.1.8"], "conditions": {"ready": false}},
    ]);
    let cluster = Cluster { services: vec![service("demo", "10.45.0.7")], slices: vec![manual], ..Cluster::default() };
    let plan = plan(&cluster.snapshot(), &BTreeMap::new());
    let endpoints = &plan.services[0].ports[0].endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].ip, endpoints[0].port), ("192.168.1.7".parse().unwrap(), 8080));
}

#[test]
fn a_pod_is_alone_where_nobody_else_is_ready() {
    let pods = [pod("demo", 1, "True"), pod("demo", 2, "True"), terminating(pod("demo", 3, "True"))];
    let alone = |some: &[Value], number: u8| {
        let cluster = Cluster {
            services: vec![service("demo", "10.45.0.7"), service("other", "10.45.0.8")],
            slices: vec![slice("demo", &some.iter().collect::<Vec<_>>())],
            pods: some.to_vec(),
            ..Cluster::default()
        };
        plan(&cluster.snapshot(), &BTreeMap::new()).without_another(&uid(number), &[uid(number)].into())
    };
    assert_eq!(alone(&pods, 1), Vec::<String>::new());
    assert_eq!(alone(&[pods[0].clone(), pods[2].clone()], 1), ["production/demo"], "a leaving pod is no other");
    assert_eq!(alone(&pods[..1], 7), Vec::<String>::new(), "no Service uses this pod");
}

#[test]
fn clients_from_outside_find_a_service_at_its_node_port_and_outer_addresses_but_dns_does_not_name_them() {
    let mut demo = service("demo", "10.45.0.7");
    demo["spec"]["type"] = json!("LoadBalancer");
    demo["spec"]["externalIPs"] = json!(["192.0.2.9"]);
    demo["spec"]["ports"] = json!([{"port": 80, "nodePort": 30001}]);
    let mut other_class = service("other", "10.45.0.8");
    other_class["spec"]["type"] = json!("LoadBalancer");
    other_class["spec"]["loadBalancerClass"] = json!("example.com/other");
    other_class["spec"]["ports"] = json!([{"port": 90}]);
    let cluster = Cluster { services: vec![demo, other_class], ..Cluster::default() };
    let plan = plan(&cluster.snapshot(), &BTreeMap::new());
    let config = plan.config(1, &Base::default());
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listen,
        ["TCP 0.0.0.0:30001", "TCP 10.45.0.7:80", "TCP 10.45.0.8:90", "TCP 192.0.2.1:80", "TCP 192.0.2.9:80"]
    );
    assert_eq!(config.services[0].answers, ["10.45.0.7".parse::<IpAddr>().unwrap()]);
}

#[test]
fn of_two_services_that_want_one_place_the_older_has_it_and_a_cluster_address_is_its_owners() {
    let balancer = |name: &str, address: &str, created: &str, port: u16| {
        let mut balancer = service(name, address);
        balancer["metadata"]["creationTimestamp"] = json!(created);
        balancer["spec"]["type"] = json!("LoadBalancer");
        balancer["spec"]["externalIPs"] = json!(["10.45.0.9"]);
        balancer["spec"]["ports"] = json!([{"port": port}]);
        balancer
    };
    let young = balancer("a", "10.45.0.7", "2026-02-01T00:00:00Z", 80);
    let old = balancer("b", "10.45.0.8", "2026-01-01T00:00:00Z", 80);
    let owner = balancer("c", "10.45.0.9", "2026-03-01T00:00:00Z", 80);
    let cluster = Cluster { services: vec![young, old, owner], ..Cluster::default() };
    let plan = plan(&cluster.snapshot(), &BTreeMap::new());
    let addresses = |name: &str| {
        let service = plan.services.iter().find(|service| service.name == name).unwrap();
        service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses("a"), ["10.45.0.7"]);
    assert_eq!(addresses("b"), ["10.45.0.8", "192.0.2.1"]);
    assert_eq!(addresses("c"), ["10.45.0.9"]);
}

#[test]
fn a_node_port_stands_beside_sockets_at_single_addresses() {
    let mut node = service("node", "10.45.0.7");
    node["spec"]["type"] = json!("NodePort");
    node["spec"]["ports"] = json!([{"port": 80, "nodePort": 30001}]);
    let mut other = service("other", "10.45.0.8");
    other["spec"]["ports"] = json!([{"port": 30001}, {"port": 81}]);
    let cluster = Cluster { services: vec![node, other], ..Cluster::default() };
    let config = plan(&cluster.snapshot(), &BTreeMap::new()).config(1, &Base::default());
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["TCP 0.0.0.0:30001", "TCP 10.45.0.7:80", "TCP 10.45.0.8:81", "TCP 10.45.0.8:30001"]);
}

#[test]
fn annotations_of_a_service_are_followed_if_they_can_be() {
    let planned = |annotations: Value| {
        let mut demo = service("demo", "10.45.0.7");
        demo["metadata"]["annotations"] = annotations;
        let cluster = Cluster { services: vec![demo], ..Cluster::default() };
        let service = plan(&cluster.snapshot(), &BTreeMap::new()).services.remove(0);
        (service.sticky_cookie.clone(), service.proxy_protocol, service.ports[0].speaks)
    };
    let plain = planned(json!({}));
    assert_eq!((&plain.0, plain.1), (&None, None));
    assert_eq!(planned(json!({"segue.dev/sticky-cookie": "stick"})).0.as_deref(), Some("stick"));
    assert_eq!(planned(json!({"segue.dev/sticky-cookie": "no; token"})), plain);
    let with_header = planned(json!({"segue.dev/proxy-protocol": "v2"}));
    assert_eq!((with_header.1, with_header.2), (Some(ProxyProtocol::V2), config::Speaks::Opaque));
    assert_eq!(planned(json!({"segue.dev/proxy-protocol": "v3"})), plain);
}

#[test]
fn policies_are_sent_by_address_and_a_change_of_a_label_is_one_of_the_configuration() {
    let policy = json!({
        "metadata": {"namespace": "production", "name": "p"},
        "spec": {"podSelector": {"matchLabels": {"app": "demo"}}, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "web"}}}]},
        ]},
    });
    let namespace = |team: &str| json!({"metadata": {"name": "production", "labels": {"team": team}}});
    let cluster = |team: &str| Cluster {
        pods: vec![pod("demo", 1, "True"), pod("web", 2, "True")],
        policies: vec![policy.clone()],
        namespaces: vec![namespace(team)],
        ..Cluster::default()
    };
    let of_team_a = plan(&cluster("a").snapshot(), &[].into());
    let config = of_team_a.config(1, &Base::default());
    assert_eq!(config.policies, of_team_a.policies);
    let may_pass = |plan: &Plan| {
        let [from, to] = ["10.44.0.2", "10.44.0.1"].map(|ip| ip.parse().unwrap());
        plan.policies.allows(&Flow { from, to, protocol: Protocol::Tcp, port: 80 })
    };
    let of_team_b = plan(&cluster("b").snapshot(), &[].into());
    assert_eq!((may_pass(&of_team_a), may_pass(&of_team_b)), (true, false));
    assert!(!of_team_a.sends_the_same_as(&of_team_b));
    assert!(of_team_a.sends_the_same_as(&plan(&cluster("a").snapshot(), &[].into())));
}

#[test]
fn ports_of_the_mesh_are_for_no_pod_and_no_service_at_an_address_of_the_machine() {
    let mut wants = pod("demo", 1, "True");
    wants["spec"]["containers"] = json!([{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 745}, {"containerPort": 81, "hostPort": 747}]}]);
    let mut demo = service("demo", "10.45.0.7");
    demo["spec"]["externalIPs"] = json!(["100.64.0.1"]);
    demo["spec"]["ports"] = json!([{"port": 746}]);
    let cluster = Cluster { services: vec![demo], pods: vec![wants], ..Cluster::default() };
    let config = plan(&cluster.snapshot(), &BTreeMap::new()).config(1, &Base::default());
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["TCP 0.0.0.0:747", "TCP 10.45.0.7:746"]);
}

#[test]
fn a_port_of_the_machine_is_of_the_pod_that_stays_and_of_no_init_container_that_ends() {
    let port = json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]});
    let mut goes = terminating(pod("demo", 1, "True"));
    let mut stays = pod("demo", 2, "True");
    let mut inits = pod("demo", 3, "True");
    goes["spec"]["containers"] = json!([port]);
    stays["spec"]["containers"] = json!([port]);
    inits["spec"]["initContainers"] = json!([port]);
    inits["spec"]["initContainers"][0]["ports"][0]["hostPort"] = json!(8081);
    let cluster = Cluster { pods: vec![goes, stays, inits], ..Cluster::default() };
    let plan = plan(&cluster.snapshot(), &[(uid(1), DrainStep::Withdraw)].into());
    let names: Vec<_> = plan.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["pod:demo-2"]);
}
