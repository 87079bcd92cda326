use super::*;

const ADDRESS: &str = "100.64.0.7";
const WEB: &str = "web.example.ts.net";
const MACHINE: &str = "box.example.ts.net";

fn node() -> TailnetNode {
    TailnetNode {
        name: MACHINE.to_owned(),
        domain: "example.ts.net".to_owned(),
        addresses: vec![ADDRESS.parse().unwrap()],
        is_tagged: true,
        has_certificates: true,
        approved: [("svc:web".to_owned(), vec!["100.100.0.1".parse().unwrap()])].into(),
    }
}

fn services() -> Range {
    "10.45.0.0/16".parse().unwrap()
}

fn service(name: &str, more: Value) -> Service {
    let mut service = json!({
        "metadata": {"namespace": "n", "name": name, "annotations": {EXPOSE: "true", HOSTNAME: name}},
        "spec": {"clusterIP": "10.45.0.7", "ports": [{"port": 80}]},
    });
    for (path, value) in more.as_object().unwrap() {
        *service.pointer_mut(path).unwrap() = value.clone();
    }
    serde_json::from_value(service).unwrap()
}

fn exposed(name: &str) -> Exposed {
    Exposed::of(&service(name, json!({}))).unwrap()
}

fn told(node: &TailnetNode, config: &Value, exposed: &[Exposed]) -> Exposure {
    expose(node, config, &["svc:theirs".to_owned()].into(), exposed, services())
}

fn reasons(exposure: &Exposure, key: &str) -> Vec<&'static str> {
    exposure.places[key].troubles.iter().map(Trouble::reason).collect()
}

/// What somebody else has, with fields that we don't know.
fn theirs() -> Value {
    json!({
        "Later": {"x": 1},
        "TCP": {"443": {"HTTPS": true, "Later": 1}, "22": {"TCPForward": "127.0.0.1:22"}},
        "Web": {"box.example.ts.net:443": {"Handlers": {"/": {"Text": "hello"}, "/files": {"Path": "/srv"}}}},
        "Services": {"svc:theirs": {"TCP": {"80": {"HTTP": true}}, "Tun": false}},
        "AllowFunnel": {"box.example.ts.net:443": true},
    })
}

#[test]
fn a_service_has_a_name_of_its_own_where_the_tailnet_lets_the_machine_host_it() {
    let exposure = told(&node(), &theirs(), &[exposed("web")]);
    let mut expected = theirs();
    expected["Services"]["svc:web"] = json!({
        "TCP": {"80": {"HTTP": true}, "443": {"HTTPS": true}},
        "Web": {
            format!("{WEB}:80"): {"Handlers": {"/": {"Proxy": "http://127.45.0.7:80"}}},
            format!("{WEB}:443"): {"Handlers": {"/": {"Proxy": "http://127.45.0.7:80"}}},
        },
    });
    assert_eq!(exposure.serve_config, expected);
    assert_eq!(exposure.advertise, ["svc:theirs".to_owned(), "svc:web".to_owned()].into());
    let addresses = vec!["100.100.0.1".parse().unwrap()];
    assert_eq!(exposure.places["n/web"], Place { name: Some(WEB.to_owned()), addresses, troubles: [].into() });
    assert_eq!(told(&node(), &exposure.serve_config, &[exposed("web")]), exposure, "nothing is left to do");
    let without = expose(&node(), &exposure.serve_config, &exposure.advertise, &[], services());
    assert_eq!((without.serve_config, without.advertise), (theirs(), ["svc:theirs".to_owned()].into()));
}

#[test]
fn a_machine_that_may_not_host_it_has_it_at_its_own_ports() {
    let machine_ports = |config: &Value| {
        let tcp = config["TCP"].as_object().unwrap();
        tcp.keys().map(|port| port.parse::<u16>().unwrap()).collect::<BTreeSet<_>>()
    };
    let place = Place { name: Some(MACHINE.to_owned()), addresses: node().addresses, troubles: [].into() };

    let untagged = TailnetNode { is_tagged: false, ..node() };
    let exposure = told(&untagged, &Value::Null, &[exposed("web")]);
    assert_eq!(machine_ports(&exposure.serve_config), [80, 443].into());
    assert_eq!(exposure.serve_config.get("Services"), None);
    assert_eq!(exposure.advertise, ["svc:theirs".to_owned()].into());
    assert_eq!(Place { troubles: [].into(), ..exposure.places["n/web"].clone() }, place);
    assert_eq!(reasons(&exposure, "n/web"), ["NodeIsUntagged"]);

    // It has to offer it before anybody can approve that.
    let asking = TailnetNode { approved: [].into(), ..node() };
    let exposure = told(&asking, &Value::Null, &[exposed("web")]);
    assert_eq!(machine_ports(&exposure.serve_config), [80, 443].into());
    assert!(exposure.advertise.contains("svc:web"));
    assert_eq!(reasons(&exposure, "n/web"), ["HostNotApproved"]);
    let approved = told(&node(), &exposure.serve_config, &[exposed("web")]);
    assert_eq!(approved.serve_config.get("TCP"), None, "it has its own name by now");
    assert_eq!(expose(&node(), &approved.serve_config, &[].into(), &[], services()).serve_config, Value::Null);
}

#[test]
fn nobody_is_pushed_aside() {
    let untagged = TailnetNode { is_tagged: false, ..node() };
    let exposure = told(&untagged, &theirs(), &[exposed("web"), exposed("other")]);
    assert_eq!(reasons(&exposure, "n/web"), ["NodeIsUntagged", "PortTaken"]);
    assert_eq!(reasons(&exposure, "n/other"), ["NodeIsUntagged", "PortTaken", "PortTaken"]);
    assert_eq!(exposure.places["n/other"].name, None);
    let mut expected = theirs();
    expected["TCP"]["80"] = json!({"HTTP": true});
    expected["Web"][format!("{MACHINE}:80")] = json!({"Handlers": {"/": {"Proxy": "http://127.45.0.7:80"}}});
    assert_eq!(exposure.serve_config, expected);

    let terminal = json!({"Foreground": {"session": {"TCP": {"80": {"HTTP": true}}}}});
    assert_eq!(reasons(&told(&untagged, &terminal, &[exposed("web")]), "n/web"), ["NodeIsUntagged", "PortTaken"]);

    let mut same_name = exposed("web");
    "n/second".clone_into(&mut same_name.key);
    let exposure = told(&node(), &Value::Null, &[exposed("web"), same_name]);
    assert_eq!(reasons(&exposure, "n/second"), ["NameTaken"]);
    let exposure = told(&node(), &theirs(), &[exposed("theirs")]);
    assert_eq!(reasons(&exposure, "n/theirs"), ["NameTaken", "PortTaken"]);
    assert_eq!(exposure.serve_config["Services"], theirs()["Services"]);
    for nonsense in [json!("text"), json!({"TCP": []}), json!({"Services": {"svc:web": 1}}), json!({"Services": 1})] {
        let exposure = told(&untagged, &nonsense, &[exposed("web")]);
        assert!(nonsense.get("Services").is_some() || exposure.serve_config == nonsense);
        told(&node(), &nonsense, &[exposed("web")]);
    }
}

#[test]
fn what_is_left_of_earlier_times_goes() {
    let old = told(&node(), &theirs(), &[exposed("web"), exposed("old")]);
    // The machine has another name, the Service has another, and one is gone: nobody remembers what was.
    let renamed = TailnetNode { name: "renamed.example.ts.net".to_owned(), is_tagged: false, ..node() };
    let exposure = expose(&renamed, &old.serve_config, &old.advertise, &[exposed("new")], services());
    let mut expected = theirs();
    expected["TCP"]["80"] = json!({"HTTP": true});
    expected["Web"]["renamed.example.ts.net:80"] = json!({"Handlers": {"/": {"Proxy": "http://127.45.0.7:80"}}});
    assert_eq!(exposure.serve_config, expected);
    assert_eq!(exposure.advertise, ["svc:theirs".to_owned()].into());
    let mut mixed = old.serve_config;
    mixed["Services"]["svc:web"]["TCP"]["22"] = json!({"TCPForward": "127.0.0.1:22"});
    let exposure = expose(&node(), &mixed, &old.advertise, &[], services());
    assert_eq!(exposure.serve_config["Services"]["svc:web"], json!({"TCP": {"22": {"TCPForward": "127.0.0.1:22"}}}));
    assert!(exposure.advertise.contains("svc:web"), "somebody else uses it");
}

#[test]
fn ports_are_where_the_manifest_says_and_http_has_https_beside_it() {
    let entries = |ports: Value, node: &TailnetNode| {
        let exposed = Exposed::of(&service("web", json!({"/spec/ports": ports}))).unwrap();
        exposed
            .entries(node)
            .iter()
            .map(|entry| format!("{} {:?} {}", entry.port, entry.does, entry.to.port()))
            .collect::<Vec<_>>()
    };
    let plain = TailnetNode { has_certificates: false, ..node() };
    let http = json!([{"port": 8080, "name": "http"}, {"port": 5432}, {"port": 53, "protocol": "UDP"}]);
    assert_eq!(entries(http.clone(), &node()), ["8080 Http 8080", "5432 Forward 5432", "443 Https 8080"]);
    assert_eq!(entries(http, &plain), ["8080 Http 8080", "5432 Forward 5432"]);
    assert_eq!(entries(json!([{"port": 80}, {"port": 443}]), &node()), ["80 Http 80", "443 Forward 443"]);
    assert_eq!(entries(json!([{"port": 443, "appProtocol": "http"}]), &node()), ["443 Https 443"]);
    let exposure = told(&plain, &Value::Null, &[exposed("web")]);
    assert_eq!(reasons(&exposure, "n/web"), ["NoCertificates"]);
}

#[test]
fn who_is_exposed_and_who_can_not_be() {
    assert!(is_exposed(&service("web", json!({}))));
    assert!(!is_exposed(&service("web", json!({"/metadata/annotations": {EXPOSE: "yes"}}))));
    let balancer = json!({"/metadata/annotations": null, "/spec": {
        "type": "LoadBalancer", "loadBalancerClass": CLASS, "clusterIP": "10.45.0.7", "ports": [{"port": 80}]}});
    let balancer = service("web", balancer);
    assert!(is_exposed(&balancer));
    assert_eq!(Exposed::of(&balancer).unwrap().hostname, "n-web");
    let refused = |more| Exposed::of(&service("web", more)).unwrap_err();
    assert_eq!(refused(json!({"/spec/clusterIP": "None"})), CannotExpose::NoAddress);
    assert_eq!(refused(json!({"/spec/ports": [{"port": 53, "protocol": "UDP"}]})), CannotExpose::NoTcpPort);
    let named = |name: &str| refused(json!({"/metadata/annotations": {EXPOSE: "true", HOSTNAME: name}}));
    assert_eq!(named("My App"), CannotExpose::Hostname("My App".to_owned()));
}

#[test]
fn every_service_has_a_front_of_its_own() {
    assert_eq!(front([10, 45, 3, 4].into()), Ipv4Addr::new(127, 45, 3, 4));
    assert!(fronts(services()).contains([127, 45, 255, 255].into()));
    assert!(!fronts(services()).contains([127, 46, 0, 0].into()));
    let ours = ["127.45.0.7:80", "http://127.45.0.7:80", "https+insecure://127.45.0.7:80/path"];
    assert!(ours.iter().all(|target| target_address(target).is_some_and(|ip| fronts(services()).contains(ip))));
    for target in ["127.0.0.1:80", "localhost:80", "http://10.45.0.7", "", "unix:/run/x", "http://"] {
        assert!(!target_address(target).is_some_and(|ip| fronts(services()).contains(ip)), "{target}");
    }
    assert_eq!(target_address("http://127.0.0.1:80"), None, "it may be in the range of a /8");
}

#[test]
fn whenever_the_engine_dies_the_next_one_comes_to_the_same() {
    let approving = |names: &[&str]| TailnetNode {
        approved: names.iter().map(|name| (format!("svc:{name}"), vec!["100.100.0.1".parse().unwrap()])).collect(),
        ..node()
    };
    let situations = [
        (approving(&["web", "other"]), vec![exposed("web"), exposed("other")]),
        (approving(&["web"]), vec![exposed("web"), exposed("other")]),
        (TailnetNode { is_tagged: false, ..node() }, vec![exposed("web")]),
        (TailnetNode { name: "renamed.example.ts.net".to_owned(), is_tagged: false, ..node() }, vec![exposed("new")]),
        (TailnetNode { has_certificates: false, ..approving(&["other"]) }, vec![exposed("other")]),
        (node(), vec![]),
    ];
    let at_first = || (theirs(), BTreeSet::from(["svc:theirs".to_owned()]));
    let decided = |(config, advertised): &(Value, BTreeSet<String>), (node, wanted): &(TailnetNode, Vec<Exposed>)| {
        let exposure = expose(node, config, advertised, wanted, services());
        let steps = exposure.steps(config, advertised);
        (exposure, steps)
    };
    let after = |(mut config, mut advertised): (Value, BTreeSet<String>), steps: &[Step]| {
        for step in steps {
            match step {
                Step::Serve(new) => config = new.clone(),
                Step::Advertise(new) => advertised = new.clone(),
            }
            let unserved = advertised.iter().find(|name| config["Services"].get(name.as_str()).is_none());
            assert_eq!(unserved, None, "it is offered and leads nowhere");
        }
        (config, advertised)
    };
    for (before, wanted) in situations.iter().flat_map(|before| situations.iter().map(move |after| (before, after))) {
        let (_, steps) = decided(&at_first(), before);
        let known = after(at_first(), &steps);
        let (expected, steps) = decided(&known, wanted);
        for done in 0..=steps.len() {
            let left = after(known.clone(), &steps[..done]);
            let (found, rest) = decided(&left, wanted);
            assert_eq!(found, expected);
            assert_eq!(after(left, &rest), (expected.serve_config.clone(), expected.advertise.clone()));
            let (nothing, rest) = decided(&after(known.clone(), &steps[..done]), &(node(), vec![]));
            assert_eq!((nothing.serve_config, nothing.advertise), at_first(), "and from there back again: {rest:?}");
        }
    }
}

#[test]
fn a_port_that_turns_from_bytes_to_http_goes_first_and_alone() {
    let as_tcp = |name: &str| {
        Exposed::of(&service(name, json!({"/spec/ports": [{"port": 80, "appProtocol": "tcp"}, {"port": 443}]})))
            .unwrap()
    };
    let untagged = TailnetNode { is_tagged: false, ..node() };
    for node in [node(), untagged] {
        let other = Exposed::of(&service("other", json!({"/spec/ports": [{"port": 9000}]}))).unwrap();
        let (before, wanted) = ([as_tcp("web"), other.clone()], [exposed("web"), other]);
        let known = told(&node, &Value::Null, &before);
        let exposure = expose(&node, &known.serve_config, &known.advertise, &wanted, services());
        let steps = exposure.steps(&known.serve_config, &known.advertise);
        let [.., Step::Serve(between)] = &steps[..] else { panic!("{steps:?}") };
        let has = |config: &Value, port: &str| {
            [&config["TCP"], &config["Services"]["svc:web"]["TCP"]].into_iter().any(|tcp| tcp.get(port).is_some())
        };
        assert!(has(&known.serve_config, "80") && !has(between, "80"), "{between:#}");
        let is_others =
            |config: &Value| config["TCP"].get("9000").or(config["Services"]["svc:other"]["TCP"].get("9000")).cloned();
        assert_eq!(is_others(between), is_others(&known.serve_config));
        let advertised = exposure.first.unwrap().advertise;
        let then = expose(&node, between, &advertised, &wanted, services());
        assert_eq!((then.first, then.serve_config), (None, exposure.serve_config));
    }
    let still = told(&node(), &theirs(), &[exposed("web")]);
    assert_eq!(told(&node(), &still.serve_config, &[exposed("web")]).first, None);
}
