use end_to_end::document::{Document, NAME};
use end_to_end::machine::Machine;
use end_to_end::outside::assert_nothing_lost;
use serde_json::Value;

#[test]
fn kubectl_shows_what_the_client_saw() {
    let machine = Machine::with_engine();
    let document = Document::deployed(&machine, "v1");
    let mut load = document.load();
    load.answered(240);
    document.roll_to("v2");
    document.settled();
    load.answered(240);
    let report = load.stop();
    assert_nothing_lost(&report, &["v1", "v2"]);

    let kubectl = machine.kubectl();
    let (service, rollout) =
        (format!("servicetraffic/{NAME} -n production"), format!("rollouttraffic/{NAME} -n production"));
    kubectl.wait_for(&service, ".status.requests", &report.sent.to_string());
    let seen = kubectl.json(&format!("get {service}"));
    assert_eq!(seen["status"]["failed"], 0, "{seen:#}");
    let mut by_version = numbers(&seen["status"]["versions"], "requests");
    let mut answered: Vec<u64> = report.by_version.values().copied().collect();
    by_version.sort_unstable();
    answered.sort_unstable();
    assert_eq!(by_version, answered, "{seen:#}");

    let seen = kubectl.json(&format!("get {rollout}"));
    assert_eq!(seen["status"]["failed"], 0, "{seen:#}");
    assert_eq!(numbers(&seen["status"]["versions"], "requests").len(), 2, "{seen:#}");
    // A pod of the rollout before may have gone meanwhile.
    let left = numbers(&seen["status"]["drained"], "requestsLeft");
    assert!(left.len() >= 3 && left.iter().all(|left| *left == 0), "{seen:#}");
    let during = seen["status"]["requests"].as_u64().expect("a number");
    assert!(during > 0 && during <= report.sent, "{during} of {}: {seen:#}", report.sent);

    let raw = format!("/apis/traffic.segue.dev/v1/namespaces/production/servicetraffic/{NAME}?since=");
    let nothing_since_now = || {
        let now = kubectl.json(&format!("get {service}"))["status"]["until"].as_str().expect("a time").to_owned();
        let since: Value = serde_json::from_str(&kubectl.run(&format!("get --raw {raw}{now}"))).expect("JSON");
        since["status"]["requests"] == 0
    };
    // Counts come every second: only the second one after the last request begins after it.
    assert!((0..100).any(|_| nothing_since_now()), "requests since now, long after the last one");
    let refusal = kubectl.fails(&format!("get --raw {raw}yesterday"));
    assert!(refusal.contains("since:") && refusal.contains("write it as 2026-01-31T12:00:00Z"), "{refusal}");

    let table = kubectl.run("get servicetraffic -n production");
    assert!(table.contains("REQUESTS") && table.contains(&report.sent.to_string()), "{table}");
    let refusal = kubectl.fails(&format!("delete {service}"));
    assert!(refusal.contains("MethodNotAllowed") || refusal.contains("not allow"), "{refusal}");
    machine.down();
}

fn numbers(list: &Value, field: &str) -> Vec<u64> {
    let items = list.as_array().expect("a list").iter();
    items.map(|item| item[field].as_u64().expect("a number")).collect()
}
