use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;

use super::wanted::{Does, EXPOSE, Entry, HOSTNAME, Handler};
use super::*;

const ADDRESS: &str = "100.64.0.7";
const WEB: &str = "web.example.ts.net";
const MACHINE: &str = "box.example.ts.net";

fn node() -> TailnetNode {
    TailnetNode {
        name: MACHINE.to_owned(),
        domain: "example.ts.net".to_owned(),
        addresses: vec![ADDRESS.parse().unwrap()],
        tags: ["tag:segue".to_owned()].into(),
        may_funnel: false,
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
    Exposed::of_service(&service(name, json!({}))).unwrap()
}

fn told(node: &TailnetNode, config: &Value, exposed: &[Exposed]) -> Exposure {
    expose(node, config, &["svc:theirs".to_owned()].into(), exposed, services())
}

fn owner(key: &str) -> Owner {
    Owner::Service(key.to_owned())
}

fn reasons(exposure: &Exposure, key: &str) -> Vec<&'static str> {
    exposure.places[&owner(key)].troubles.iter().map(Trouble::reason).collect()
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
    assert_eq!(exposure.places[&owner("n/web")], Place { name: Some(WEB.to_owned()), addresses, troubles: [].into() });
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

    let untagged = TailnetNode { tags: [].into(), ..node() };
    let exposure = told(&untagged, &Value::Null, &[exposed("web")]);
    assert_eq!(machine_ports(&exposure.serve_config), [80, 443].into());
    assert_eq!(exposure.serve_config.get("Services"), None);
    assert_eq!(exposure.advertise, ["svc:theirs".to_owned()].into());
    assert_eq!(Place { troubles: [].into(), ..exposure.places[&owner("n/web")].clone() }, place);
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
    let untagged = TailnetNode { tags: [].into(), ..node() };
    let exposure = told(&untagged, &theirs(), &[exposed("web"), exposed("other")]);
    assert_eq!(reasons(&exposure, "n/web"), ["NodeIsUntagged", "PortTaken"]);
    assert_eq!(reasons(&exposure, "n/other"), ["NodeIsUntagged", "PortTaken", "PortTaken"]);
    assert_eq!(exposure.places[&owner("n/other")].name, None);
    let mut expected = theirs();
    expected["TCP"]["80"] = json!({"HTTP": true});
    expected["Web"][format!("{MACHINE}:80")] = json!({"Handlers": {"/": {"Proxy": "http://127.45.0.7:80"}}});
    assert_eq!(exposure.serve_config, expected);

    let terminal = json!({"Foreground": {"session": {"TCP": {"80": {"HTTP": true}}}}});
    assert_eq!(reasons(&told(&untagged, &terminal, &[exposed("web")]), "n/web"), ["NodeIsUntagged", "PortTaken"]);

    let mut same_name = exposed("web");
    same_name.owner = owner("n/second");
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
    let renamed = TailnetNode { name: "renamed.example.ts.net".to_owned(), tags: [].into(), ..node() };
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
    let target = |handlers: &BTreeMap<String, Handler>| match &handlers["/"] {
        Handler::Proxy { to, .. } => to.port(),
        Handler::ToHttps => 0,
    };
    let entries = |ports: Value, node: &TailnetNode| {
        let exposed = Exposed::of_service(&service("web", json!({"/spec/ports": ports}))).unwrap();
        exposed
            .entries(node)
            .iter()
            .map(|Entry { port, does }| match does {
                Does::Forward(to) => format!("{port} Forward {}", to.port()),
                Does::Http(handlers) => format!("{port} Http {}", target(handlers)),
                Does::Https(handlers) => format!("{port} Https {}", target(handlers)),
            })
            .collect::<Vec<_>>()
    };
    let plain = TailnetNode { has_certificates: false, ..node() };
    let http = json!([{"port": 8080, "name": "http"}, {"port": 5432}, {"port": 53, "protocol": "UDP"}]);
    assert_eq!(entries(http.clone(), &node()), ["8080 Http 8080", "5432 Forward 5432", "443 Https 8080"]);
    assert_eq!(entries(http, &plain), ["8080 Http 8080", "5432 Forward 5432"]);
    assert_eq!(entries(json!([{"port": 80}, {"port": 443}]), &node()), ["80 Http 80", "443 Forward 443"]);
    assert_eq!(entries(json!([{"port": 443, "appProtocol": "http"}]), &node()), ["443 Https 443"]);
    assert_eq!(entries(json!([{"port": 443, "appProtocol": "http"}]), &plain), ["443 Http 443"]);
    let grpc = json!([{"port": 50051, "name": "grpc"}]);
    assert_eq!(entries(grpc, &node()), ["50051 Forward 50051", "443 Https 50051"]);
    assert_eq!(entries(json!([{"port": 443, "name": "grpc"}]), &plain), ["443 Forward 443"]);
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
    assert_eq!(Exposed::of_service(&balancer).unwrap().hostname, "n-web");
    let refused = |more| Exposed::of_service(&service("web", more)).unwrap_err();
    assert_eq!(refused(json!({"/spec/clusterIP": "None"})), CannotExpose::NoAddress);
    assert_eq!(refused(json!({"/spec/clusterIP": "10.0.0.7"})), CannotExpose::NoFront([10, 0, 0, 7].into()));
    assert_eq!(refused(json!({"/spec/ports": [{"port": 53, "protocol": "UDP"}]})), CannotExpose::NoTcpPort);
    let named = |name: &str| refused(json!({"/metadata/annotations": {EXPOSE: "true", HOSTNAME: name}}));
    assert_eq!(named("My App"), CannotExpose::Hostname("My App".to_owned(), false));
}

#[test]
fn every_service_has_a_front_of_its_own() {
    assert_eq!(front([10, 45, 3, 4].into()), Some(Ipv4Addr::new(127, 45, 3, 4)));
    assert_eq!(front([10, 0, 0, 1].into()), None, "others use 127.0.0.0/16");
    assert!(fronts(services()).contains([127, 45, 255, 255].into()));
    assert!(!fronts(services()).contains([127, 46, 0, 0].into()));
    let ours = ["127.45.0.7:80", "http://127.45.0.7:80", "https+insecure://127.45.0.7:80/path"];
    assert!(ours.iter().all(|target| target_address(target).is_some_and(|ip| fronts(services()).contains(ip))));
    for target in ["127.0.0.1:80", "localhost:80", "http://10.45.0.7", "", "unix:/run/x", "http://"] {
        assert!(!target_address(target).is_some_and(|ip| fronts(services()).contains(ip)), "{target}");
    }
    let all = fronts("10.0.0.0/8".parse().unwrap());
    assert!(is_front(all, [127, 45, 0, 7].into()) && !is_front(all, [127, 0, 0, 53].into()));
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
        (TailnetNode { tags: [].into(), ..node() }, vec![exposed("web")]),
        (TailnetNode { name: "renamed.example.ts.net".to_owned(), tags: [].into(), ..node() }, vec![exposed("new")]),
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
                Step::Offer(_) | Step::Withdraw(_) => advertised = step.advertised(&advertised).unwrap(),
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
        Exposed::of_service(&service(name, json!({"/spec/ports": [{"port": 80, "appProtocol": "tcp"}, {"port": 443}]})))
            .unwrap()
    };
    let untagged = TailnetNode { tags: [].into(), ..node() };
    for node in [node(), untagged] {
        let other = Exposed::of_service(&service("other", json!({"/spec/ports": [{"port": 9000}]}))).unwrap();
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

fn ingress(more: Value) -> Ingress {
    let mut ingress = json!({
        "metadata": {"namespace": "n", "name": "site", "annotations": {}},
        "spec": {
            "ingressClassName": CLASS,
            "tls": [{"hosts": ["web.example.ts.net"]}],
            "rules": [{"http": {"paths": [
                {"path": "/api", "pathType": "Prefix", "backend": {"service": {"name": "api", "port": {"name": "http"}}}},
            ]}}],
            "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
        },
    });
    for (path, value) in more.as_object().unwrap() {
        let (parent, field) = path.rsplit_once('/').unwrap();
        ingress.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(ingress).unwrap()
}

fn of_ingress(more: Value) -> Result<Exposed, CannotExpose> {
    let web = service("web", json!({}));
    let api = service("api", json!({"/spec": {"clusterIP": "10.45.0.8", "ports": [{"name": "http", "port": 8080}]}}));
    let known = BTreeMap::from([("n/web", web), ("n/api", api)]);
    Exposed::of_ingress(&ingress(more), &|key| known.get(key))
}

fn place_of_ingress(exposure: &Exposure) -> (Option<&str>, Vec<&'static str>) {
    let place = &exposure.places[&Owner::Ingress("n/site".to_owned())];
    (place.name.as_deref(), place.troubles.iter().map(Trouble::reason).collect())
}

#[test]
fn an_ingress_leads_paths_to_services_by_https() {
    let wanted = of_ingress(json!({})).unwrap();
    let targets: BTreeSet<String> = wanted.targets().map(|to| to.to_string()).collect();
    assert_eq!(targets, ["127.45.0.7:80".to_owned(), "127.45.0.8:8080".to_owned()].into());
    let exposure = told(&node(), &theirs(), &[wanted]);
    let mut expected = theirs();
    let handlers = json!({"/": {"Proxy": "http://127.45.0.7:80"}, "/api": {"Proxy": "http://127.45.0.8:8080/api"}});
    expected["Services"]["svc:web"] =
        json!({"TCP": {"443": {"HTTPS": true}}, "Web": {format!("{WEB}:443"): {"Handlers": handlers}}});
    assert_eq!(exposure.serve_config, expected);
    assert_eq!(place_of_ingress(&exposure), (Some(WEB), vec![]));

    // Without certificates there is nothing to lead to.
    let plain = TailnetNode { has_certificates: false, ..node() };
    let exposure = told(&plain, &theirs(), &[of_ingress(json!({})).unwrap()]);
    assert_eq!((&exposure.serve_config, exposure.advertise.len()), (&theirs(), 1));
    assert_eq!(place_of_ingress(&exposure), (None, vec!["NoCertificates"]));
}

#[test]
fn an_ingress_may_answer_by_http_too_and_all_of_it_is_known_as_ours() {
    let annotated = |name: &str, value: &str| {
        of_ingress(json!({"/metadata/annotations": {(format!("tailscale.com/{name}")): value}})).unwrap()
    };
    let handlers =
        |exposure: &Exposure| exposure.serve_config["Services"]["svc:web"]["Web"][format!("{WEB}:80")].clone();
    let redirecting = told(&node(), &Value::Null, &[annotated("http-redirect", "true")]);
    assert_eq!(handlers(&redirecting)["Handlers"]["/"], json!({"Redirect": "301:https://${HOST}${REQUEST_URI}"}));
    let beside = told(&node(), &Value::Null, &[annotated("http-endpoint", "enabled")]);
    assert_eq!(handlers(&beside)["Handlers"]["/"], json!({"Proxy": "http://127.45.0.7:80"}));
    let untagged = TailnetNode { tags: [].into(), ..node() };
    let on_machine = told(&untagged, &Value::Null, &[annotated("http-redirect", "true")]);
    assert!(on_machine.serve_config["Web"].get(format!("{MACHINE}:80")).is_some());
    for exposure in [redirecting, beside, on_machine] {
        let gone = told(&node(), &exposure.serve_config, &[]);
        assert_eq!(gone.serve_config, Value::Null);
    }
    // A redirect of the user's own stays.
    let own = json!({"TCP": {"80": {"HTTP": true}}, "Web": {format!("{MACHINE}:80"): {"Handlers": {
        "/": {"Redirect": "301:https://${HOST}${REQUEST_URI}"}}}}});
    let exposure = told(&untagged, &own, &[of_ingress(json!({})).unwrap()]);
    assert_eq!(told(&node(), &exposure.serve_config, &[]).serve_config, own);
}

#[test]
fn the_internet_reaches_an_ingress_at_the_machine_where_the_tailnet_allows_it() {
    let public = || of_ingress(json!({"/metadata/annotations": {"tailscale.com/funnel": "true"}})).unwrap();
    let allowed = TailnetNode { may_funnel: true, ..node() };
    let exposure = told(&allowed, &Value::Null, &[public()]);
    assert_eq!(exposure.serve_config["AllowFunnel"], json!({format!("{MACHINE}:443"): true}));
    assert_eq!(exposure.serve_config.get("Services"), None);
    assert_eq!(place_of_ingress(&exposure), (Some(MACHINE), vec![]));
    assert_eq!(told(&allowed, &exposure.serve_config, &[]).serve_config, Value::Null);

    let refused = told(&node(), &exposure.serve_config, &[public()]);
    assert_eq!(refused.serve_config.get("AllowFunnel"), None);
    assert_eq!(place_of_ingress(&refused), (Some(MACHINE), vec!["FunnelNotAllowed"]));
    // What is not ours is not made public, whatever else of it there is.
    let both = |annotation: &str| {
        of_ingress(json!({"/metadata/annotations": {"tailscale.com/funnel": "true", (annotation): "true"}})).unwrap()
    };
    let private = json!({"TCP": {"443": {"HTTPS": true}}, "Web": {format!("{MACHINE}:443"): {"Handlers": {
        "/": {"Text": "private"}}}}});
    let exposure = told(&allowed, &private, &[both("tailscale.com/http-redirect")]);
    assert!(exposure.serve_config["TCP"].get("80").is_some());
    assert_eq!(exposure.serve_config.get("AllowFunnel"), None);
    let exposure = told(&allowed, &theirs(), &[public()]);
    assert_eq!(exposure.serve_config, theirs());
    assert_eq!(place_of_ingress(&exposure), (None, vec!["PortTaken"]));
}

#[test]
fn nothing_is_put_where_the_internet_comes_in() {
    let open = json!({"AllowFunnel": {format!("{MACHINE}:443"): true}});
    let untagged = TailnetNode { tags: [].into(), ..node() };
    let exposure = told(&untagged, &open, &[exposed("web")]);
    assert_eq!(exposure.serve_config["TCP"], json!({"80": {"HTTP": true}}));
    assert_eq!(reasons(&exposure, "n/web"), ["NodeIsUntagged", "PortIsPublic"]);
}

#[test]
fn a_port_that_turns_takes_nobody_elses_with_it() {
    let secure = |name: &str| {
        Exposed::of_service(&service(name, json!({"/spec/ports": [{"port": 443, "name": "http"}]}))).unwrap()
    };
    let plain = TailnetNode { has_certificates: false, ..node() };
    let wanted = [secure("other"), secure("web")];
    let before = told(&plain, &Value::Null, &wanted);
    // One is at the machine, the other under its own name; with certificates both turn from HTTP to HTTPS.
    let turning = told(&node(), &before.serve_config, &wanted).first.expect("it is refused in one step");
    assert_eq!(turning.serve_config, Value::Null);
    let bytes = Exposed::of_service(&service("other", json!({"/spec/ports": [{"port": 443}]}))).unwrap();
    let known = told(&node(), &Value::Null, &[bytes, exposed("web")]);
    let first =
        told(&node(), &known.serve_config, &[secure("other"), exposed("web")]).first.expect("bytes turn to HTTPS");
    assert_eq!(first.serve_config["Services"]["svc:web"], known.serve_config["Services"]["svc:web"]);
    assert_eq!(first.serve_config["Services"].get("svc:other"), None);
}

#[test]
fn what_of_an_ingress_can_not_be_had_is_said() {
    let troubles = |more| {
        let exposure = told(&node(), &Value::Null, &[of_ingress(more).unwrap()]);
        place_of_ingress(&exposure).1
    };
    assert_eq!(troubles(json!({"/spec/rules/0/host": "web"})), Vec::<&str>::new());
    assert_eq!(troubles(json!({"/spec/rules/0/host": "web.example.ts.net"})), Vec::<&str>::new());
    assert_eq!(troubles(json!({"/spec/rules/0/host": "shop.example.com"})), ["HostIgnored"]);
    assert_eq!(troubles(json!({"/spec/rules/0/http/paths/0/pathType": "Exact"})), ["PathIsPrefix"]);
    let port = "/spec/defaultBackend/service/port";
    assert_eq!(troubles(json!({port: {"number": 81}})), ["BackendNotFound"]);
    assert_eq!(
        troubles(json!({"/metadata/annotations": {"tailscale.com/tags": "tag:segue, tag:k8s"}})),
        ["TagsDiffer"]
    );
    let named = of_ingress(json!({"/spec/tls": []})).unwrap();
    assert_eq!(named.hostname, "n-site-ingress");
    let refused = |more| of_ingress(more).unwrap_err().to_string();
    assert!(refused(json!({"/spec/tls/0/hosts": ["My_App"]})).contains("tls[0].hosts[0]"));
    let none = refused(json!({"/spec/rules": [], port: {"name": "grpc"}}));
    assert!(none.contains("Service web with port grpc"), "{none}");
    let resource = json!({"resource": {"apiGroup": "a", "kind": "Bucket", "name": "b"}});
    assert!(refused(json!({"/spec/rules": [], "/spec/defaultBackend": resource})).contains("another kind"));
}

#[test]
fn what_stands_for_something_on_the_tailnet() {
    let target = |name: &str, value: &str, type_: &str| {
        let annotations = json!({(format!("tailscale.com/{name}")): value});
        let spec = json!({"type": type_, "externalName": "placeholder"});
        Target::of(&service("db", json!({"/metadata/annotations": annotations, "/spec": spec})))
    };
    let external = |name, value| target(name, value, "ExternalName").unwrap();
    assert_eq!(external("tailnet-fqdn", "DB.example.ts.net."), Ok(Target::Name("db.example.ts.net".to_owned())));
    assert_eq!(external("tailnet-ip", "100.64.0.9"), Ok(Target::Address([100, 64, 0, 9].into())));
    assert_eq!(external("tailnet-fqdn", "db"), Err(CannotExpose::Fqdn("db".to_owned())));
    assert_eq!(external("tailnet-ip", "db"), Err(CannotExpose::Address("db".to_owned())));
    assert_eq!(target("tailnet-ip", "100.64.0.9", "ClusterIP"), None);
    assert_eq!(target("hostname", "db", "ExternalName"), None);
}
