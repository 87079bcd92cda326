use serde_json::{Value, json};

use super::*;
use crate::mesh::Machines;
use crate::routing::plan::tests::{Cluster, pod, service, slice, uid};

/// A cluster with one Service, and the book of the engine that routes it.
struct Story {
    pods: Vec<Value>,
    policies: Vec<Value>,
    service: Value,
    /// Services that lead nowhere.
    more: Vec<Value>,
    machines: Machines,
    book: Book,
    base: Base,
    /// Seconds by which the wall clock was set.
    wall_is_ahead: i64,
}

/// A round in short: the version sent, and `pod type status reason` of each write.
type Told = (Option<u64>, Vec<String>);

impl Story {
    fn new(pods: Vec<Value>) -> Self {
        let mut book = Book::default();
        book.connected(0, true);
        let service = service("demo", "10.45.0.7");
        Self {
            pods,
            policies: Vec::new(),
            service,
            more: Vec::new(),
            machines: Machines::default(),
            book,
            base: Base::default(),
            wall_is_ahead: 0,
        }
    }

    /// The first of two pods is deleted, withdrawn everywhere, and has a request in flight.
    fn of_a_busy_pod_that_goes() -> Self {
        let mut story = Self::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
        story.tell(0);
        story.acknowledge(1, &[]);
        story.tell(0);
        story.delete(0);
        story.tell(1);
        story.acknowledge(2, &[(1, 1, 0)]);
        story
    }

    fn round(&mut self, second: i64) -> Round {
        let cluster = Cluster {
            services: self.more.iter().chain([&self.service]).cloned().collect(),
            slices: vec![slice(
                "demo",
                &self.pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "demo").collect::<Vec<_>>(),
            )],
            pods: self.pods.clone(),
            policies: self.policies.clone(),
            machines: self.machines.clone(),
            ..Cluster::default()
        };
        let now = Now { steady: at(second), wall: at(second + self.wall_is_ahead) };
        self.book.round(&cluster.snapshot(), &self.base, now)
    }

    /// What was sent last, as a whole.
    fn sent(&self) -> &DataPlaneConfig {
        &self.book.sent.last().unwrap().config
    }

    /// A round whose writes arrive.
    fn tell(&mut self, second: i64) -> Told {
        let round = self.round(second);
        let mut told = Vec::new();
        for write in round.write {
            let pod = self.pods.iter_mut().find(|pod| pod["metadata"]["uid"] == json!(write.uid)).unwrap();
            let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|condition| condition["type"] != write.type_);
            conditions.push(json!({"type": write.type_, "status": write.status, "reason": write.reason}));
            told.push(format!("{} {} {} {}", write.pod, write.type_, write.status, write.reason));
        }
        (round.send.map(|sending| sending.version), told)
    }

    fn delete(&mut self, index: usize) {
        self.pods[index]["metadata"]["deletionTimestamp"] = json!(at(30));
        self.pods[index]["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    }

    fn acknowledge(&mut self, version: u64, counts: &[(u8, u32, u32)]) {
        self.acknowledge_uncounted(version);
        self.count(version, counts);
    }

    fn acknowledge_uncounted(&mut self, version: u64) {
        self.book.acknowledge(Side::Proxy, version);
        self.book.acknowledge(Side::Kernel, version);
    }

    fn count(&mut self, version: u64, counts: &[(u8, u32, u32)]) {
        let drain =
            |(number, requests, long): &(u8, u32, u32)| Drain { uid: uid(*number), requests: *requests, long: *long };
        self.book.count(Side::Proxy, version, counts.iter().map(drain).collect());
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn told(version: Option<u64>, writes: &[&str]) -> Told {
    (version, writes.iter().map(|write| (*write).to_owned()).collect())
}

#[test]
fn a_pod_is_routed_once_the_data_plane_has_acknowledged_it() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("alone", 2, "True")]);
    assert_eq!(story.tell(0), told(Some(1), &[]));
    assert_eq!(story.tell(0), told(None, &[]));
    story.acknowledge(1, &[]);
    assert_eq!(story.tell(0), told(None, &["demo-1 segue.dev/Routed True Acknowledged"]));
    assert_eq!(story.tell(0), told(None, &[]));
}

#[test]
fn a_pod_that_asks_is_told_when_the_policies_hold_for_its_address() {
    let asking = |mut pod: Value| {
        let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
        conditions.push(json!({"type": names::POLICIES_IN_FORCE, "status": "False"}));
        pod
    };
    let mut story = Story::new(vec![pod("silent", 1, "False")]);
    let policy = |version: &str| {
        json!({
            "metadata": {"namespace": "production", "name": format!("shut-{version}"), "resourceVersion": version},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        })
    };
    story.policies = vec![policy("1")];
    assert_eq!(story.tell(0), told(Some(1), &[]));
    story.acknowledge(1, &[]);
    assert_eq!(story.tell(0), told(None, &[]), "nobody asks");
    story.pods.push(asking(pod("other", 2, "False")));
    assert_eq!(story.tell(0), told(Some(2), &[]));
    story.book.acknowledge(Side::Proxy, 2);
    assert_eq!(story.tell(0), told(None, &[]), "the kernel does not know it yet");
    story.book.acknowledge(Side::Kernel, 2);
    story.policies[0]["spec"]["policyTypes"] = json!(["Ingress", "Egress"]);
    story.policies[0]["metadata"]["resourceVersion"] = json!("2");
    assert_eq!(story.tell(0), told(Some(3), &["other-2 segue.dev/NetworkPoliciesInForce True Acknowledged"]));
    assert!(story.book.policies_in_force().is_empty(), "the newer one is in force nowhere, the older one is no more");
    story.acknowledge(3, &[]);
    assert_eq!(story.book.policies_in_force(), [Some("2".to_owned())].into());
}

#[test]
fn a_pod_that_no_policy_is_about_is_told_at_once() {
    let mut story = Story::new(vec![pod("silent", 1, "False")]);
    assert_eq!(story.tell(0), told(Some(1), &[]));
    story.acknowledge(1, &[]);
    let mut asking = pod("other", 2, "False");
    let conditions = asking["status"]["conditions"].as_array_mut().unwrap();
    conditions.push(json!({"type": names::POLICIES_IN_FORCE, "status": "False"}));
    story.pods.push(asking);
    // Nothing is sent, so nothing is acknowledged, and nothing else may happen for a long time.
    assert_eq!(story.tell(0), told(None, &["other-2 segue.dev/NetworkPoliciesInForce True Acknowledged"]));
}

#[test]
fn what_the_kernel_has_in_flight_keeps_a_pod() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.service["spec"]["ports"][0]["appProtocol"] = json!("tcp");
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    story.tell(1);
    story.acknowledge(2, &[]);
    assert!(story.book.waits_for_kernel());
    assert_eq!(
        story.tell(2),
        told(None, &["demo-1 segue.dev/Drained False Withdrawn"]),
        "the kernel was not asked yet"
    );
    let in_flight = |long| vec![Drain { uid: uid(1), requests: 0, long }];
    story.book.count(Side::Kernel, 2, in_flight(1));
    assert_eq!(story.tell(3), told(None, &[]));
    story.book.count(Side::Kernel, 2, in_flight(0));
    assert_eq!(story.tell(4), told(None, &["demo-1 segue.dev/Drained True Idle"]));
    assert!(!story.book.waits_for_kernel());
}

#[test]
fn a_pod_that_was_unready_in_between_is_not_routed_by_an_old_acknowledgement() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    assert_eq!(story.tell(0), told(Some(1), &[]));
    story.pods[0] = pod("demo", 1, "False");
    story.acknowledge(1, &[]);
    assert_eq!(story.tell(0), told(Some(2), &["demo-2 segue.dev/Routed True Acknowledged"]));
    story.pods[0] = pod("demo", 1, "True");
    assert_eq!(story.tell(0), told(None, &[]), "version 2, which is on its way, is without it");
    story.acknowledge(2, &[]);
    assert_eq!(story.tell(0), told(Some(3), &[]));
    story.acknowledge(3, &[]);
    assert_eq!(story.tell(0), told(None, &["demo-1 segue.dev/Routed True Acknowledged"]));
}

#[test]
fn one_configuration_is_on_its_way_and_the_newest_wins() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    assert_eq!(story.tell(0), told(Some(1), &[]));
    for number in 2..9 {
        story.pods.push(pod("demo", number, "True"));
        assert_eq!(story.tell(0), told(None, &[]));
    }
    story.acknowledge(1, &[]);
    story.round(0);
    let config = story.sent();
    assert_eq!((config.version, config.services[0].ports[0].endpoints.len()), (2, 8));
}

#[test]
fn a_replaced_pod_is_withdrawn_and_drained_when_idle() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    assert_eq!(story.tell(1), told(Some(2), &[]));
    story.acknowledge(2, &[(1, 3, 0)]);
    assert_eq!(story.tell(1), told(None, &["demo-1 segue.dev/Drained False Withdrawn"]));
    story.count(2, &[(1, 1, 0)]);
    assert_eq!(story.tell(2), told(None, &[]));
    story.count(2, &[(1, 0, 0)]);
    assert_eq!(story.tell(3), told(None, &["demo-1 segue.dev/Drained True Idle"]));
    assert_eq!(story.tell(4), told(None, &[]), "it stays withdrawn until it is gone");
    story.pods.remove(0);
    assert_eq!(story.tell(5), told(Some(3), &[]));
}

#[test]
fn counts_of_an_older_version_prove_nothing() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    story.tell(1);
    story.acknowledge_uncounted(2);
    assert_eq!(story.tell(1), told(None, &["demo-1 segue.dev/Drained False Withdrawn"]));
}

#[test]
fn a_drain_takes_as_long_wherever_the_clock_jumps() {
    for jump in [3600, -3600] {
        let mut story = Story::of_a_busy_pod_that_goes();
        assert_eq!(story.tell(2), told(None, &["demo-1 segue.dev/Drained False Withdrawn"]));
        story.wall_is_ahead = jump;
        assert_eq!(story.tell(14), told(None, &[]), "{jump}");
        let deadline = story.round(14).look_again_at.expect("a deadline");
        assert_eq!(deadline, at(30), "{jump}");
        assert_eq!(story.tell(30), told(None, &["demo-1 segue.dev/Drained True DeadlinePassed"]), "{jump}");
    }
}

#[test]
fn the_only_pod_is_used_until_another_is_acknowledged() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    assert_eq!(story.tell(1), told(Some(2), &[]));
    story.acknowledge(2, &[(1, 0, 0)]);
    assert_eq!(story.tell(2), told(None, &["demo-1 segue.dev/Drained False Deprioritised"]));
    assert_eq!(story.round(3).look_again_at, Some(at(15)));

    story.pods.push(pod("demo", 2, "True"));
    assert_eq!(story.tell(4), told(Some(3), &[]), "the new one is told first");
    story.acknowledge(3, &[(1, 0, 0)]);
    assert_eq!(story.tell(5), told(Some(4), &["demo-2 segue.dev/Routed True Acknowledged"]));
    story.acknowledge(4, &[(1, 0, 0)]);
    assert_eq!(story.tell(6), told(None, &["demo-1 segue.dev/Drained True Idle"]));
}

/// Another machine of the mesh that has a ready pod of `production/demo`.
fn another_machine() -> Machines {
    let ready = vec![decide::mesh::Port { port: 80, ready: 1 }];
    let said = decide::mesh::Said { services: [("production/demo".to_owned(), ready)].into(), ..Default::default() };
    let address = [100, 64, 0, 2].into();
    let standing = decide::mesh::Standing::Ready;
    let known = decide::mesh::Known { name: "b".to_owned(), address, standing, said: Some(said) };
    Machines {
        at: Some("100.64.0.1:746".parse().unwrap()),
        keys: [("b".to_owned(), Default::default())].into(),
        known: vec![known],
        ..Machines::default()
    }
}

#[test]
fn the_last_pod_of_a_machine_is_withdrawn_once_the_others_expect_none_there() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.service["metadata"]["annotations"] = json!({"segue.dev/mesh": "true"});
    story.machines = another_machine();
    story.machines.expected = Expected::At([("production/demo".to_owned(), 80)].into());
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    story.tell(1);
    story.acknowledge(2, &[(1, 0, 0)]);
    assert_eq!(story.tell(1), told(None, &["demo-1 segue.dev/Drained True Idle"]), "another one is here");
    story.pods.remove(0);
    story.tell(2);
    story.acknowledge(3, &[]);
    story.delete(0);
    story.tell(3);
    story.acknowledge(4, &[(2, 0, 0)]);
    assert_eq!(story.tell(4), told(None, &["demo-2 segue.dev/Drained False Deprioritised"]));
    let (here, _) = story.book.here(Now { steady: at(4), wall: at(4) });
    assert_eq!(here.services["production/demo"][0].ready, 0, "the others are told");
    story.machines.expected = Expected::default();
    assert_eq!(story.tell(5), told(Some(5), &[]));
    story.acknowledge(5, &[(2, 0, 0)]);
    assert_eq!(story.tell(6), told(None, &["demo-2 segue.dev/Drained True Idle"]));
}

#[test]
fn other_machines_are_told_what_holds_once_what_was_passed_on_to_them_has_arrived() {
    let mut story = Story::new(Vec::new());
    let there = PodUid::on_another_machine("b", "production/demo", 80);
    let in_force = |story: &mut Story, second: i64| {
        let (here, until) = story.book.here(Now { steady: at(second), wall: at(second) });
        (here.revision, until)
    };
    let count = |story: &mut Story, version: u64, requests: u32| {
        let drain = Drain { uid: there.clone(), requests, long: 1 };
        story.book.count(Side::Proxy, version, vec![drain]);
    };
    story.machines.revision = 1;
    story.tell(0);
    assert_eq!(in_force(&mut story, 0), (0, None));
    story.acknowledge_uncounted(1);
    assert_eq!(in_force(&mut story, 0), (0, Some(at(2))), "nothing was counted yet");
    count(&mut story, 1, 0);
    assert_eq!(in_force(&mut story, 0), (1, None));
    story.machines.revision = 2;
    story.tell(5);
    count(&mut story, 1, 3);
    assert_eq!(in_force(&mut story, 5), (1, Some(at(7))));
    story.machines.revision = 3;
    story.tell(6);
    assert_eq!(in_force(&mut story, 6), (1, Some(at(7))));
    assert_eq!(in_force(&mut story, 7), (2, Some(at(8))), "each has its time");
    assert_eq!(in_force(&mut story, 8), (3, None));
    story.machines.revision = 4;
    story.tell(9);
    assert_eq!(in_force(&mut story, 9), (3, Some(at(11))));
    count(&mut story, 1, 0);
    assert_eq!(in_force(&mut story, 9), (4, None));
}

#[test]
fn pods_that_go_at_the_same_time_are_no_replacement_for_each_other() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    story.delete(1);
    story.tell(1);
    story.acknowledge(2, &[(1, 0, 0), (2, 0, 0)]);
    let both = ["demo-1 segue.dev/Drained False Deprioritised", "demo-2 segue.dev/Drained False Deprioritised"];
    assert_eq!(story.tell(2), told(None, &both));
    story.pods.push(pod("demo", 3, "True"));
    assert_eq!(story.tell(4), told(Some(3), &[]));
    story.acknowledge(3, &[(1, 0, 0), (2, 0, 0)]);
    assert_eq!(story.tell(5), told(Some(4), &["demo-3 segue.dev/Routed True Acknowledged"]));
    story.acknowledge(4, &[(1, 0, 0), (2, 0, 0)]);
    assert_eq!(
        story.tell(6),
        told(None, &["demo-1 segue.dev/Drained True Idle", "demo-2 segue.dev/Drained True Idle"])
    );
}

#[test]
fn the_only_pod_is_withdrawn_when_half_its_budget_is_gone() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.delete(0);
    story.tell(1);
    story.acknowledge(2, &[(1, 1, 0)]);
    story.tell(2);
    assert_eq!(story.tell(15), told(Some(3), &[]));
    story.acknowledge(3, &[(1, 1, 0)]);
    assert_eq!(story.tell(16), told(None, &["demo-1 segue.dev/Drained False Withdrawn"]));
    assert_eq!(story.tell(30), told(None, &["demo-1 segue.dev/Drained True DeadlinePassed"]));
}

#[test]
fn a_pod_that_no_service_selects_or_that_never_was_ready_is_drained_at_once() {
    let mut story = Story::new(vec![pod("alone", 1, "True"), pod("demo", 2, "False"), pod("demo", 3, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    story.delete(1);
    let (version, writes) = story.tell(1);
    assert_eq!(writes, ["alone-1 segue.dev/Drained True NotRouted", "demo-2 segue.dev/Drained True NotRouted"]);
    assert_eq!(version, Some(2), "as withdrawn, which it stays");
}

#[test]
fn a_restarted_engine_goes_on_where_the_last_one_was() {
    let mut story = Story::of_a_busy_pod_that_goes();
    story.tell(1);

    let mut restarted = Story::new(story.pods);
    restarted.book.connected(2, true);
    let round = restarted.round(2);
    let config = restarted.sent();
    assert_eq!((config.version, round.write), (3, Vec::new()), "nothing is written before the first acknowledgement");
    assert_eq!(config.services[0].ports[0].endpoints[0].state, EndpointState::Withdrawn, "its object says so");
    restarted.acknowledge(3, &[(1, 1, 0)]);
    assert_eq!(restarted.tell(3), told(None, &[]));
    restarted.count(3, &[(1, 0, 0)]);
    assert_eq!(restarted.tell(3), told(None, &["demo-1 segue.dev/Drained True Idle"]));
}

#[test]
fn without_a_data_plane_nothing_is_sent_and_deadlines_still_pass() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    story.book.disconnected();
    assert_eq!(story.tell(0), told(None, &[]));
    story.delete(0);
    assert_eq!(story.tell(1), told(None, &[]));
    assert_eq!(story.tell(30), told(None, &["demo-1 segue.dev/Drained True DeadlinePassed"]));
}

#[test]
fn a_replaced_keeper_is_sent_everything_again() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    assert_eq!(story.tell(0), told(Some(1), &[]));
    story.book.disconnected();
    story.book.connected(7, true);
    assert_eq!(story.tell(0), told(Some(8), &[]));
    story.acknowledge(8, &[]);
    assert_eq!(story.tell(0), told(None, &["demo-1 segue.dev/Routed True Acknowledged"]));
}

#[test]
fn only_what_has_changed_is_sent_while_all_before_has_arrived() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    story.more = (1..=3).map(|number| service(&format!("other-{number}"), &format!("10.45.1.{number}"))).collect();
    let mut sent_of = |number: u8, is_connected_anew: bool| {
        if is_connected_anew {
            story.book.connected(0, true);
        }
        story.pods.push(pod("demo", number, "True"));
        let sending = story.round(0).send.unwrap();
        story.acknowledge(sending.version, &[]);
        match sending.proxy {
            ForProxy::Whole(config) => format!("{} of all", config.services.len()),
            ForProxy::Change(change) => format!("{} of {}", change.services.len(), change.from),
        }
    };
    let sent = [(2, false), (3, false), (4, false), (5, true), (6, false)].map(|(pod, anew)| sent_of(pod, anew));
    assert_eq!(sent, ["4 of all", "1 of 1", "1 of 2", "4 of all", "1 of 4"]);
    story.book.connected(0, false);
    story.tell(0);
    story.acknowledge(story.book.last_version, &[]);
    story.pods.push(pod("demo", 11, "True"));
    assert!(matches!(story.round(0).send.unwrap().proxy, ForProxy::Whole(_)), "this keeper takes no changes");
}

#[test]
fn an_explicit_grace_period_caps_the_drain() {
    let mut story = Story::new(vec![pod("demo", 1, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.delete(0);
    story.pods[0]["metadata"]["annotations"] = json!({names::EXPLICIT_GRACE: "8"});
    story.tell(1);
    assert_eq!(story.round(1).look_again_at, Some(at(2)));
    assert_eq!(story.tell(4).1, ["demo-1 segue.dev/Drained True DeadlinePassed"]);
}

#[test]
fn long_connections_are_told_to_end_shortly_before_their_deadline() {
    let mut story = Story::new(vec![pod("demo", 1, "True"), pod("demo", 2, "True")]);
    story.tell(0);
    story.acknowledge(1, &[]);
    story.tell(0);
    story.delete(0);
    assert_eq!(story.tell(1), told(Some(2), &[]));
    story.acknowledge(2, &[(1, 0, 1)]);
    assert_eq!(story.tell(2), told(None, &["demo-1 segue.dev/Drained False Withdrawn"]));
    assert_eq!(story.round(3).look_again_at, Some(at(27)));
    assert_eq!(story.tell(27), told(Some(3), &["demo-1 segue.dev/Drained False EndingLongConnections"]));
    assert_eq!(story.sent().end_long, [uid(1)].into());
    story.acknowledge(3, &[(1, 0, 0)]);
    assert_eq!(story.tell(28), told(Some(4), &["demo-1 segue.dev/Drained True Idle"]));
}
