use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn pod(name: &str, ready: bool) -> Pod {
    let ready = if ready { "True" } else { "False" };
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "rs", "controller": true}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "generation": 1}, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn no_status() -> Value {
    json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
}

fn disruption(budget: PodDisruptionBudget, pods: &[(&str, bool)], replicas: i32) -> Disruption {
    let owned = |kind: &str, name: &str, uid: &str, owner: Value| {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "uid": uid, "ownerReferences": owner},
            "spec": {"replicas": replicas, "selector": {}, "template": {}}})
    };
    let deployment = owned("Deployment", "web", "d", json!([]));
    let by_deployment =
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]);
    Disruption {
        budget,
        pods: pods.iter().map(|(name, ready)| pod(name, *ready)).collect(),
        replica_sets: vec![serde_json::from_value(owned("ReplicaSet", "web-1", "rs", by_deployment)).unwrap()],
        deployments: vec![serde_json::from_value(deployment).unwrap()],
    }
}

#[test]
fn numbers_are_of_the_pods_there_are_and_shares_of_those_that_are_wanted() {
    let two_of_three = [("a", true), ("b", true), ("c", false)];
    let table = [
        // spec, wanted -> expected, desired, current, allowed
        (json!({"minAvailable": 1}), 3, [3, 1, 2, 1]),
        (json!({"minAvailable": 2}), 9, [3, 2, 2, 0]),
        (json!({"minAvailable": "50%"}), 3, [3, 2, 2, 0]),
        (json!({"minAvailable": "50%"}), 2, [2, 1, 2, 1]),
        (json!({"maxUnavailable": 1}), 3, [3, 2, 2, 0]),
        (json!({"maxUnavailable": 2}), 3, [3, 1, 2, 1]),
        (json!({"maxUnavailable": "34%"}), 3, [3, 1, 2, 1]),
        (json!({"maxUnavailable": 5}), 3, [3, 0, 2, 2]),
    ];
    for (spec, wanted, expected) in table {
        let (status, _) = disruption(budget(spec.clone(), no_status()), &two_of_three, wanted).status(at(0));
        let numbers =
            [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed];
        assert_eq!(numbers.map(Option::unwrap_or_default), expected, "{spec} of {wanted}");
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(condition.status == "True", expected[3] > 0, "{spec}");
    }
}

#[test]
fn a_pod_that_its_node_evicts_is_not_healthy() {
    let mut disruption = disruption(budget(json!({"minAvailable": 1}), no_status()), &[("a", true), ("b", true)], 2);
    let allowed = |disruption: &Disruption| disruption.status(at(0)).0.disruptions_allowed;
    assert_eq!(allowed(&disruption), Some(1));
    let evicted = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
        "lastTransitionTime": at(0)});
    let conditions = disruption.pods[0].status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions.push(serde_json::from_value(evicted).unwrap());
    assert_eq!(allowed(&disruption), Some(0));
}

#[test]
fn who_was_given_leave_does_not_count_until_it_has_gone_or_stayed() {
    let given = json!({"currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 0, "expectedPods": 2,
        "disruptedPods": {"a": "1970-01-01T00:00:10Z", "gone": "1970-01-01T00:00:10Z"}});
    let disruption = disruption(budget(json!({"minAvailable": 1}), given), &[("a", true), ("b", true)], 2);
    let (status, look_again) = disruption.status(at(20));
    assert_eq!((status.current_healthy, status.disruptions_allowed), (Some(1), Some(0)));
    assert_eq!(status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(look_again, Some(at(130)));
    let (status, look_again) = disruption.status(at(130));
    assert_eq!((status.current_healthy, status.disruptions_allowed, look_again), (Some(2), Some(1), None));
}

#[test]
fn an_eviction_takes_one_from_its_budget_or_is_refused() {
    let counted = |allowed: i32, generation: i64| {
        budget(
            json!({"minAvailable": 1}),
            json!({"currentHealthy": 1 + allowed, "desiredHealthy": 1, "disruptionsAllowed": allowed, "expectedPods": 2,
                "observedGeneration": generation}),
        )
    };
    let running = pod("a", true);
    let Ok(Leave::Counted(given)) = may_evict(&running, &[counted(1, 1)], at(5)) else { panic!("no leave") };
    let status = given.status.unwrap();
    assert_eq!((status.disruptions_allowed, status.disrupted_pods.unwrap().len()), (Some(0), 1));
    assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");

    let exhausted = NoLeave::Exhausted { budget: "web".to_owned(), desired: 1, current: 1 };
    let mut pending = running.clone();
    pending.status.as_mut().unwrap().phase = Some("Pending".to_owned());
    let mut always = counted(0, 1);
    always.spec.as_mut().unwrap().unhealthy_pod_eviction_policy = Some("AlwaysAllow".to_owned());
    let mut blind = counted(0, 1);
    blind.spec.as_mut().unwrap().selector = None;
    let table = [
        (&running, vec![], Ok(Leave::Free)),
        (&running, vec![blind], Ok(Leave::Free)),
        (&running, vec![counted(0, 1)], Err(exhausted)),
        (&running, vec![counted(1, 0)], Err(NoLeave::NotCounted { budget: "web".to_owned() })),
        (&running, vec![counted(1, 1), counted(1, 1)], Err(NoLeave::Several)),
        (&pending, vec![counted(0, 1)], Ok(Leave::Free)),
        (&pod("b", false), vec![counted(0, 1)], Ok(Leave::Free)),
        (&pod("b", false), vec![always], Ok(Leave::Free)),
    ];
    for (number, (pod, budgets, expected)) in table.into_iter().enumerate() {
        assert_eq!(may_evict(pod, &budgets, at(5)), expected, "row {number}");
    }
}
