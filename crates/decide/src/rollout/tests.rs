use super::*;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A Deployment `web` of three replicas, changed by merging `more`.
fn deployment(more: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"namespace": "n", "name": "web", "uid": "d", "resourceVersion": "1", "generation": 1},
        "spec": {
            "replicas": 3,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template("app:1"),
        },
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
}

/// An observed ReplicaSet of the Deployment, made for this image.
fn replica_set(image: &str, revision: i64, size: i32) -> ReplicaSet {
    let hash = image.replace("app:", "hash");
    let mut template = template(image);
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true});
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "n", "name": format!("web-{hash}"), "uid": hash, "resourceVersion": "1", "generation": 1,
            "creationTimestamp": at(revision).to_string(),
            "labels": {"app": "web", "pod-template-hash": hash},
            "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(),
                "deployment.kubernetes.io/desired-replicas": "3",
                "deployment.kubernetes.io/max-replicas": "4",
            },
            "ownerReferences": [owner],
        },
        "spec": {"replicas": size, "selector": {"matchLabels": {"app": "web", "pod-template-hash": hash}}, "template": template},
        "status": {"replicas": size, "observedGeneration": 1},
    }))
    .unwrap()
}

/// Pods of a ReplicaSet, the first of them available.
fn pods(of: &ReplicaSet, count: usize, available: usize) -> Vec<Pod> {
    let set = &of.metadata;
    let pod = |index| {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set.name, "uid": set.uid, "controller": true});
        let ready = if index < available { "True" } else { "False" };
        let name = format!("{}-{index}", set.name.clone().unwrap());
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "uid": name, "labels": set.labels, "ownerReferences": [owner]},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": at(0).to_string()},
            ]},
        }))
        .unwrap()
    };
    (0..count).map(pod).collect()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn rollout(deployment: Deployment, sets: Vec<(ReplicaSet, usize, usize)>) -> Rollout {
    let pods = sets.iter().flat_map(|(set, count, available)| pods(set, *count, *available)).collect();
    let replica_sets = sets.into_iter().map(|(set, _, _)| set).collect();
    Rollout { deployment, replica_sets, pods, services: Vec::new() }
}

/// The steps but for the status, as text.
fn moves(rollout: &Rollout) -> Vec<String> {
    let steps = next_steps(rollout, at(10)).steps;
    let moves = steps.iter().filter(|step| !matches!(step, Step::WriteStatus { .. }));
    moves.map(Step::to_string).collect()
}

fn at_revision(revision: i64, more: Value) -> Deployment {
    let annotations = json!({"deployment.kubernetes.io/revision": revision.to_string()});
    let mut value = json!({"metadata": {"annotations": annotations}});
    merge(&mut value, more);
    deployment(value)
}

fn second_image(more: Value) -> Deployment {
    let mut value = json!({"spec": {"template": template("app:2")}});
    merge(&mut value, more);
    at_revision(2, value)
}

fn limits(surge: Value, unavailable: Value) -> Value {
    json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
}

#[test]
fn the_sizes_follow_what_is_available() {
    let old = |size| replica_set("app:1", 1, size);
    let new = |size| replica_set("app:2", 2, size);
    let scale = |set: &str, from: i32, to: i32| vec![format!("scale ReplicaSet web-{set} from {from} to {to}")];
    let none = Vec::new;
    let table = [
        ("a new pod is not ready: nobody goes", json!({}), (old(3), 3, 3), (new(1), 1, 0), none()),
        ("a new pod is available: one may go", json!({}), (old(3), 3, 3), (new(1), 1, 1), scale("hash1", 3, 2)),
        ("the old one has not gone yet: no room", json!({}), (old(2), 3, 3), (new(1), 1, 1), none()),
        ("it has gone: room for one", json!({}), (old(2), 2, 2), (new(1), 1, 1), scale("hash2", 1, 2)),
        ("an old pod died: nobody goes, and there is no room", json!({}), (old(2), 2, 1), (new(2), 2, 1), none()),
        (
            "an unhealthy old pod goes before a healthy one",
            json!({}),
            (old(3), 3, 2),
            (new(1), 1, 1),
            scale("hash1", 3, 2),
        ),
        (
            "one may be unavailable at once",
            limits(json!(1), json!(1)),
            (old(3), 3, 3),
            (new(1), 1, 0),
            scale("hash1", 3, 2),
        ),
        (
            "the unhealthy one is that one",
            limits(json!(0), json!(1)),
            (old(3), 3, 2),
            (new(0), 0, 0),
            scale("hash1", 3, 2),
        ),
        ("no room without surge", limits(json!(0), json!(1)), (old(3), 3, 3), (new(0), 0, 0), scale("hash1", 3, 2)),
        ("all old ones are broken: the new ones are waited for", json!({}), (old(3), 3, 0), (new(1), 1, 0), none()),
        ("a new one works: a broken one goes", json!({}), (old(3), 3, 0), (new(1), 1, 1), scale("hash1", 3, 2)),
        ("pods beyond its size need no room", json!({}), (old(1), 1, 1), (new(2), 3, 3), scale("hash2", 2, 3)),
    ];
    for (what, more, old, new, expected) in table {
        let found = moves(&rollout(second_image(more), vec![old, new]));
        let found: Vec<_> = found.iter().map(|step| step.split(" (").next().unwrap_or_default()).collect();
        assert_eq!(found, expected, "{what}");
    }
}

/// The Deployment would wait for room and the ReplicaSet for an available pod.
#[test]
fn pods_that_could_not_be_spared_let_a_broken_one_go_instead() {
    let kept = (replica_set("app:1", 1, 0), 1, 1);
    let broken = (replica_set("app:3", 2, 2), 2, 0);
    let new = (replica_set("app:2", 3, 0), 0, 0);
    let mut deployment = second_image(limits(json!(0), json!(1)));
    let annotations = deployment.metadata.annotations.as_mut().unwrap();
    annotations.insert("deployment.kubernetes.io/revision".to_owned(), "3".to_owned());
    let found = moves(&rollout(deployment, vec![kept, broken, new]));
    assert_eq!(found, ["scale ReplicaSet web-hash3 from 2 to 1 (of 3, at most 3)"]);
}

#[test]
fn nothing_grows_while_a_replica_set_may_act_on_an_earlier_size() {
    let mut old = replica_set("app:1", 1, 2);
    old.metadata.generation = Some(2);
    let seen = rollout(second_image(json!({})), vec![(old, 2, 2), (replica_set("app:2", 2, 1), 1, 1)]);
    assert_eq!(moves(&seen), Vec::<String>::new());
    let waiting_on = next_steps(&seen, at(10)).waiting_on;
    assert!(waiting_on.contains(&WaitingOn::ReplicaSetObserved { replica_set: "web-hash1".to_owned() }));
}

#[test]
fn the_first_replica_set_is_as_kubernetes_makes_it() {
    let deployment = deployment(json!({"metadata": {"annotations": {
        "kubernetes.io/change-cause": "first", "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }}}));
    let steps = next_steps(&rollout(deployment, Vec::new()), at(10)).steps;
    let Step::CreateReplicaSet(created) = &steps[0] else { panic!("{steps:?}") };
    let created = serde_json::to_value(created).unwrap();
    let name = created["metadata"]["name"].as_str().unwrap();
    let hash = name.strip_prefix("web-").unwrap();
    assert_eq!(created["metadata"]["labels"], json!({"app": "web", "pod-template-hash": hash}));
    assert_eq!(created["spec"]["selector"], json!({"matchLabels": {"app": "web", "pod-template-hash": hash}}));
    assert_eq!(created["spec"]["template"]["metadata"]["labels"]["pod-template-hash"], json!(hash));
    assert_eq!(created["spec"]["replicas"], json!(3));
    assert_eq!(
        created["metadata"]["annotations"],
        json!({
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "1",
            "kubernetes.io/change-cause": "first",
        })
    );
    assert_eq!(
        created["metadata"]["ownerReferences"],
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true, "blockOwnerDeletion": true}])
    );
    let message = format!("Scaled up replica set {name} from 0 to 3");
    assert_eq!(steps[0].note(), Some(Note { reason: "ScalingReplicaSet", message }));
}

#[test]
fn undoing_reuses_the_old_replica_set_and_records_its_history() {
    let sets = vec![(replica_set("app:1", 1, 0), 0, 0), (replica_set("app:2", 2, 3), 3, 3)];
    let expected = [
        "update ReplicaSet web-hash1: minReadySeconds=0, deployment.kubernetes.io/revision=3, \
         deployment.kubernetes.io/revision-history=1, segue.dev/rolled-out-again=2027-01-15T08:00:10Z",
        "record revision 3 on Deployment web",
    ];
    assert_eq!(moves(&rollout(at_revision(2, json!({})), sets)), expected);
}

#[test]
fn a_name_that_is_taken_counts_a_collision() {
    let mut taken = replica_set("app:9", 1, 0);
    let hash = objects::hash::template_hash(&deployment(json!({})).spec.unwrap().template, None);
    taken.metadata.name = Some(format!("web-{hash}"));
    let steps = next_steps(&rollout(deployment(json!({})), vec![(taken, 0, 0)]), at(10)).steps;
    let Step::WriteStatus { status, .. } = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(status.collision_count, Some(1));
    let after = deployment(json!({"status": status}));
    let mut taken = replica_set("app:9", 1, 0);
    taken.metadata.name = Some(format!("web-{hash}"));
    let found = moves(&rollout(after, vec![(taken, 0, 0)]));
    assert!(found[0].starts_with("create ReplicaSet web-") && !found[0].contains(&hash), "{found:?}");
}

#[test]
fn matching_replica_sets_are_adopted_and_others_let_go() {
    let mut orphan = replica_set("app:1", 1, 3);
    orphan.metadata.owner_references = None;
    let mut relabelled = replica_set("app:2", 2, 0);
    relabelled.metadata.labels = None;
    let seen = rollout(at_revision(1, json!({})), vec![(orphan, 0, 0), (relabelled, 0, 0)]);
    assert_eq!(moves(&seen), ["adopt ReplicaSet web-hash1", "release ReplicaSet web-hash2"]);
}

#[test]
fn history_beyond_the_limit_is_deleted_when_the_rollout_is_done() {
    let third = |more| {
        let mut value = json!({"spec": {"revisionHistoryLimit": 1, "template": template("app:3")}});
        merge(&mut value, more);
        at_revision(3, value)
    };
    let sets = |available| {
        vec![
            (replica_set("app:1", 1, 0), 0, 0),
            (replica_set("app:2", 2, 0), 0, 0),
            (replica_set("app:3", 3, 3), 3, available),
        ]
    };
    assert_eq!(moves(&rollout(third(json!({})), sets(3))), ["delete ReplicaSet web-hash1"]);
    assert_eq!(moves(&rollout(third(json!({})), sets(2))), Vec::<String>::new());
    assert_eq!(moves(&rollout(third(json!({"spec": {"revisionHistoryLimit": 2}})), sets(3))), Vec::<String>::new());
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = |more| {
        let mut value = json!({"spec": {"paused": true}});
        merge(&mut value, more);
        second_image(value)
    };
    let sets = || vec![(replica_set("app:1", 1, 3), 3, 3)];
    let seen =
        rollout(paused(json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}})), sets());
    assert_eq!(moves(&seen), Vec::<String>::new());
    let seen = rollout(paused(json!({"spec": {"replicas": 5}})), sets());
    assert_eq!(moves(&seen), ["scale ReplicaSet web-hash1 from 3 to 5 (of 5, at most 6)"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = || {
        let mut deployment = second_image(json!({}));
        let strategy = deployment.spec.as_mut().unwrap().strategy.as_mut().unwrap();
        (strategy.type_, strategy.rolling_update) = (Some("Recreate".to_owned()), None);
        deployment
    };
    let old = |size| replica_set("app:1", 1, size);
    let seen = rollout(recreate(), vec![(old(3), 3, 3)]);
    assert_eq!(moves(&seen), ["scale ReplicaSet web-hash1 from 3 to 0 (of 3, at most 3)"]);
    let mut seen = rollout(recreate(), vec![(old(0), 1, 1)]);
    seen.pods[0].metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(40)));
    assert_eq!(moves(&seen), Vec::<String>::new());
    let replica_set = "web-hash1".to_owned();
    assert_eq!(next_steps(&seen, at(10)).waiting_on, [WaitingOn::OldPodsEnded { replica_set }]);
    let found = moves(&rollout(recreate(), vec![(old(0), 0, 0)]));
    assert!(found[0].starts_with("create ReplicaSet web-") && found[0].contains("of size 3"), "{found:?}");
}

/// Reason, status, message and lastUpdateTime of the Progressing condition that is written, if any.
fn progress(deployment: Deployment, sets: Vec<(ReplicaSet, usize, usize)>, now: Timestamp) -> Option<[String; 4]> {
    let steps = next_steps(&rollout(deployment, sets), now).steps;
    let Some(Step::WriteStatus { status, .. }) = steps.last() else { return None };
    let condition = status.conditions.iter().flatten().find(|it| it.type_ == "Progressing")?;
    let updated = condition.last_update_time.as_ref().map(|time| time.0.to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some([text(&condition.reason), condition.status.clone(), text(&condition.message), updated.unwrap_or_default()])
}

fn told(reason: &str, status: &str, message: &str, counts: [i32; 4]) -> Value {
    let [replicas, updated, ready, available] = counts;
    json!({"status": {
        "observedGeneration": 1, "terminatingReplicas": 0,
        "replicas": replicas, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": available,
        "conditions": [{
            "type": "Progressing", "status": status, "reason": reason, "message": message,
            "lastUpdateTime": at(0).to_string(), "lastTransitionTime": at(0).to_string(),
        }],
    }})
}

#[test]
fn progress_is_told_in_kubernetes_words_and_then_in_ours() {
    let new = || replica_set("app:2", 2, 1);
    let stuck = || vec![(replica_set("app:1", 1, 3), 3, 3), (new(), 1, 0)];
    let moving = "ReplicaSet \"web-hash2\" is progressing.";
    let waiting = " Pod web-hash2-0 is not ready.";
    let before = |reason: &str, status: &str, message: &str| second_image(told(reason, status, message, [4, 1, 3, 3]));
    let table = [
        (
            "within the deadline",
            before("ReplicaSetUpdated", "True", moving),
            599,
            "ReplicaSetUpdated",
            "True",
            moving,
            0,
        ),
        (
            "the deadline is over",
            before("ReplicaSetUpdated", "True", moving),
            600,
            "ProgressDeadlineExceeded",
            "False",
            "ReplicaSet \"web-hash2\" has timed out progressing.",
            600,
        ),
        (
            "the condition is about another ReplicaSet",
            before("NewReplicaSetAvailable", "True", "ReplicaSet \"web-hash1\" has successfully progressed."),
            900,
            "FoundNewReplicaSet",
            "True",
            "Found new replica set \"web-hash2\"",
            900,
        ),
        (
            "something moved after it was stuck",
            second_image(told("ProgressDeadlineExceeded", "False", "ReplicaSet \"web-hash2\"", [3, 0, 3, 3])),
            900,
            "ReplicaSetUpdated",
            "True",
            moving,
            900,
        ),
    ];
    for (what, deployment, second, reason, status, message, updated) in table {
        let found = progress(deployment, stuck(), at(second)).unwrap();
        let expected = [reason.to_owned(), status.to_owned(), format!("{message}{waiting}"), at(updated).to_string()];
        assert_eq!(found, expected, "{what}");
    }
    let done = vec![(replica_set("app:1", 1, 0), 0, 0), (replica_set("app:2", 2, 3), 3, 3)];
    let found = progress(before("ReplicaSetUpdated", "True", moving), done, at(5)).unwrap();
    assert_eq!(found[0], "NewReplicaSetAvailable");
    assert_eq!(found[2], "ReplicaSet \"web-hash2\" has successfully progressed.");
}

#[test]
fn without_a_deadline_there_is_no_progress_condition() {
    for seconds in [Value::Null, json!(i32::MAX)] {
        let deployment = deployment(json!({"spec": {"progressDeadlineSeconds": seconds}}));
        assert_eq!(progress(deployment, Vec::new(), at(0)), None);
    }
}

#[test]
fn a_rollout_that_waits_says_when_to_look_again() {
    let moving = told("ReplicaSetUpdated", "True", "ReplicaSet \"web-hash2\" is progressing.", [4, 1, 4, 3]);
    let sets = || vec![(replica_set("app:1", 1, 3), 3, 3), (replica_set("app:2", 2, 1), 1, 1)];
    let mut deployment = second_image(moving);
    deployment.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    let mut seen = rollout(deployment, sets());
    for set in &mut seen.replica_sets {
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    }
    let decision = next_steps(&seen, at(10));
    assert_eq!(decision.look_again_at, Some(at(30)));
    assert!(decision.waiting_on[0].to_string().ends_with("(minReadySeconds)."), "{:?}", decision.waiting_on);
}

#[test]
fn nothing_is_left_to_do_once_the_status_is_written() {
    let mut seen = rollout(at_revision(1, json!({})), vec![(replica_set("app:1", 1, 3), 3, 3)]);
    let steps = next_steps(&seen, at(10)).steps;
    let [Step::WriteStatus { status, .. }] = steps.as_slice() else { panic!("{steps:?}") };
    seen.deployment.status = Some(status.as_ref().clone());
    let decision = next_steps(&seen, at(99));
    assert_eq!((decision.steps, decision.waiting_on, decision.look_again_at), (vec![], vec![], None));
}
