//! Which pod goes when the node itself is short of memory or disk, so that the others stay? One at a time, those first
//! that use more than they asked for. Thresholds, order and sentences are the kubelet's (Kubernetes, "Node-pressure
//! Eviction"); how a pod goes is not: it drains first, like every other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use objects::pods::{is_finished, is_leaving, leaves_since};
use objects::quantity;

use crate::Decision;

/// For so long after it was short last, a node counts as short: it is not given pods that it would evict again.
pub const HELD_FOR: SignedDuration = SignedDuration::from_mins(5);
/// What a pod had is free only a while after it has gone: longer than from one look to the next.
const SETTLES_FOR: SignedDuration = SignedDuration::from_secs(15);
/// For so long what goes is waited for: a pod, what it leaves behind, and images that nobody uses.
const GOES_WITHIN: SignedDuration = SignedDuration::from_mins(1);
/// From this priority on a pod is critical for the machine; Kubernetes' number.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What a node can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Memory,
    /// The filesystem that holds volumes, logs and what containers write.
    Disk,
}

/// What there is of a resource, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Nothing is known when it is 0.
    pub capacity: u64,
    pub available: u64,
}

/// How little may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    Bytes(u64),
    Percent(u8),
}

/// When a node is short, as `--eviction-hard` of the kubelet says it: `memory.available<100Mi,nodefs.available<10%`.
/// What is left out has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub memory: Least,
    pub disk: Least,
}

/// Why text is no [`Thresholds`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidThresholds {
    #[error("{0:?} is no threshold: write, for example, memory.available<100Mi or nodefs.available<10%")]
    Form(String),
    #[error("{0:?} is no signal: memory.available and nodefs.available are")]
    Signal(String),
    #[error("{0:?} is no amount: write, for example, 100Mi, or 10% for a share of the whole")]
    Amount(String),
}

/// A pod of the node and what it uses of the resource that is short, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    pub pod: &'a Pod,
    pub whole: u64,
    /// Of each container, by its name.
    pub containers: &'a BTreeMap<String, u64>,
}

/// What a node is short of, if it is, and what is already done about it.
#[derive(Clone, Copy, Debug)]
pub struct Shortage<'a> {
    pub of: Resource,
    pub room: Room,
    pub thresholds: &'a Thresholds,
    /// When a pod was last named, or seen on its way.
    pub last: Option<Timestamp>,
    /// Since when images that nobody uses can't be removed, if there are any: one that is being pulled keeps them.
    pub images_kept_since: Option<Timestamp>,
}

/// A pod to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    pub uid: String,
    /// Why, for the pod's status and its event.
    pub message: String,
}

/// Why no pod is ended although the node is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// Images that nobody uses go first.
    Images,
    /// A pod goes, and may make enough room.
    Leaving { pod: String },
    /// One has just gone.
    Settling,
    /// No pod may go.
    NoCandidate(Resource),
}

/// Which of the node's pods to end now.
#[must_use]
pub fn next_steps(shortage: &Shortage<'_>, pods: &[Usage<'_>], now: Timestamp) -> Decision<Evict, WaitingOn> {
    let Shortage { of: short_of, room, thresholds, last, images_kept_since } = *shortage;
    let mut decision = Decision { steps: Vec::new(), waiting_on: Vec::new(), look_again_at: None };
    if !thresholds.are_crossed(short_of, room) {
        return decision;
    }
    if is_less_than(GOES_WITHIN, images_kept_since, now) {
        decision.waiting_on.push(WaitingOn::Images);
        return decision;
    }
    let (gone, mut there): (Vec<&Usage<'_>>, Vec<_>) = pods.iter().partition(|usage| is_finished(usage.pod));
    if let Some(leaving) = there.iter().find(|usage| makes_room_soon(usage, now)) {
        let pod = leaving.pod.metadata.name.clone().unwrap_or_default();
        decision.waiting_on.push(WaitingOn::Leaving { pod });
        return decision;
    }
    there.retain(|usage| !is_leaving(usage.pod));
    let settles_for = if gone.iter().any(leaves_data) { GOES_WITHIN } else { SETTLES_FOR };
    if is_less_than(settles_for, last, now) {
        decision.waiting_on.push(WaitingOn::Settling);
        return decision;
    }
    // The end of one that has nothing would help nobody.
    there.retain(|usage| priority(usage.pod) < CRITICAL_PRIORITY && usage.whole > 0);
    let first = there.into_iter().min_by_key(|usage| {
        let over = i128::from(usage.whole) - i128::from(requested(usage.pod, short_of));
        (over <= 0, priority(usage.pod), Reverse(over))
    });
    match first.and_then(|usage| Some((usage, usage.pod.metadata.uid.clone()?))) {
        Some((usage, uid)) => {
            let message = message(usage, short_of, room, thresholds.least(short_of));
            decision.steps.push(Evict { uid, message });
        }
        None => decision.waiting_on.push(WaitingOn::NoCandidate(short_of)),
    }
    decision
}

/// Whether a node counts as short that was so at `last` for the last time.
#[must_use]
pub fn holds(last: Option<Timestamp>, now: Timestamp) -> bool {
    is_less_than(HELD_FOR, last, now)
}

impl Thresholds {
    /// The kubelet's.
    pub const DEFAULT: Self = Self { memory: Least::Bytes(100 << 20), disk: Least::Percent(10) };

    /// Whether less is left than has to be.
    #[must_use]
    pub fn are_crossed(&self, resource: Resource, room: Room) -> bool {
        room.capacity > 0 && room.available < self.least(resource).bytes(room.capacity)
    }

    fn least(&self, resource: Resource) -> Least {
        match resource {
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
        }
    }
}

impl FromStr for Thresholds {
    type Err = InvalidThresholds;

    fn from_str(text: &str) -> Result<Self, InvalidThresholds> {
        let mut thresholds = Self::DEFAULT;
        for part in text.split(',') {
            let (signal, amount) = part.split_once('<').ok_or_else(|| InvalidThresholds::Form(part.to_owned()))?;
            let least = Least::parse(amount).ok_or_else(|| InvalidThresholds::Amount(amount.to_owned()))?;
            match signal.trim() {
                "memory.available" => thresholds.memory = least,
                "nodefs.available" => thresholds.disk = least,
                other => return Err(InvalidThresholds::Signal(other.to_owned())),
            }
        }
        Ok(thresholds)
    }
}

impl Least {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => u64::try_from(quantity::parse(text).ok()?.value()).ok().map(Self::Bytes),
        }
    }

    fn bytes(self, capacity: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => capacity / 100 * u64::from(percent),
        }
    }
}

fn is_less_than(duration: SignedDuration, since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| now.duration_since(since) < duration)
}

/// One that was evicted, whose data is still being removed.
fn leaves_data(usage: &&Usage<'_>) -> bool {
    let reason = usage.pod.status.as_ref().and_then(|status| status.reason.as_deref());
    usage.whole > 0 && reason == Some("Evicted")
}

/// One whose connections last makes room at some time, and until then others may have to.
fn makes_room_soon(usage: &Usage<'_>, now: Timestamp) -> bool {
    usage.whole > 0 && is_less_than(GOES_WITHIN, leaves_since(usage.pod), now)
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn requested(pod: &Pod, resource: Resource) -> u64 {
    match resource {
        Resource::Memory => u64::try_from(objects::pods::requests(pod).memory_bytes).unwrap_or(0),
        Resource::Disk => containers(pod).map(|container| container_request(container, resource)).sum(),
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

fn container_request(container: &Container, resource: Resource) -> u64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let request = requests.and_then(|requests| requests.get(resource.name()));
    request.map_or(0, |request| u64::try_from(quantity::bytes(request)).unwrap_or(0))
}

fn message(usage: &Usage<'_>, resource: Resource, room: Room, least: Least) -> String {
    let name = resource.name();
    let least = Bytes(least.bytes(room.capacity));
    let mut message = format!(
        "The node was low on resource: {name}. Threshold quantity: {least}, available: {}. ",
        Bytes(room.available / 1024 * 1024)
    );
    for container in containers(usage.pod) {
        let (used, request) = (usage.containers.get(&container.name), container_request(container, resource));
        if let Some(used) = used.filter(|used| **used > request) {
            let (used, request) = (Bytes(used / 1024 * 1024), Bytes(request));
            message.push_str(&format!(
                "Container {} was using {used}, request is {request}, has larger consumption of {name}. ",
                container.name
            ));
        }
    }
    message
}

impl Resource {
    /// As requests and limits name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
        }
    }
}

/// Writes an amount as Kubernetes does: with the largest unit that leaves no fraction.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut amount = self.0;
        let mut units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
        let mut unit = units.next().unwrap_or_default();
        while amount > 0 && amount.is_multiple_of(1024) {
            let Some(next) = units.next() else { break };
            (amount, unit) = (amount / 1024, next);
        }
        write!(f, "{amount}{unit}")
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images => {
                write!(f, "an image is being pulled, and those that nobody uses can't be removed meanwhile")
            }
            Self::Leaving { pod } => write!(f, "pod {pod} goes and may make enough room"),
            Self::Settling => write!(f, "what the last pod had is not free yet"),
            Self::NoCandidate(resource) => write!(f, "the node is short of {}, and no pod may go", resource.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MI: u64 = 1 << 20;
    const SHORT: Room = Room { capacity: 1000 * MI, available: 10 * MI };

    fn pod(name: &str, request: &str, priority: i32, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {
                "memory": request, "ephemeral-storage": request}}}]},
        });
        for (key, value) in more.as_object().unwrap() {
            pod["metadata"][key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const fn shortage(of: Resource, room: Room) -> Shortage<'static> {
        Shortage { of, room, thresholds: &Thresholds::DEFAULT, last: None, images_kept_since: None }
    }

    /// The name of the pod that goes, or what is waited for.
    fn goes(resource: Resource, room: Room, pods: &[(Pod, u64)]) -> String {
        let containers = BTreeMap::new();
        let usages: Vec<_> =
            pods.iter().map(|(pod, whole)| Usage { pod, whole: *whole, containers: &containers }).collect();
        let decision = next_steps(&shortage(resource, room), &usages, at(0));
        match (&decision.steps[..], &decision.waiting_on[..]) {
            ([evict], []) => evict.uid.clone(),
            ([], [reason]) => reason.to_string(),
            ([], []) => String::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_uses_more_than_asked_goes_first_then_who_matters_least() {
        let plain = |name: &str, request: &str| pod(name, request, 0, json!({}));
        let leaving = |since: &str| pod("leaving", "0", 0, json!({"deletionTimestamp": since}));
        let table = [
            ("enough is left", Room { available: 100 * MI, ..SHORT }, vec![(plain("a", "0"), MI)], ""),
            ("nothing is known", Room::default(), vec![(plain("a", "0"), MI)], ""),
            ("more than asked", SHORT, vec![(plain("a", "9Mi"), 9 * MI), (plain("b", "0"), MI)], "b"),
            ("most over", SHORT, vec![(plain("a", "0"), MI), (plain("b", "0"), 2 * MI)], "b"),
            (
                "priority comes before amount",
                SHORT,
                vec![(pod("a", "0", 5, json!({})), 9 * MI), (pod("b", "0", 1, json!({})), MI)],
                "b",
            ),
            ("all as asked", SHORT, vec![(pod("a", "9Mi", 1, json!({})), MI), (plain("b", "9Mi"), MI)], "b"),
            ("closest to what it asked", SHORT, vec![(plain("a", "9Mi"), MI), (plain("b", "9Mi"), 2 * MI)], "b"),
            ("one that has nothing stays", SHORT, vec![(plain("a", "0"), 0), (plain("b", "9Mi"), MI)], "b"),
            (
                "critical pods stay",
                SHORT,
                vec![(pod("a", "0", CRITICAL_PRIORITY, json!({})), MI)],
                "the node is short of memory, and no pod may go",
            ),
            (
                "one at a time",
                SHORT,
                vec![(plain("a", "0"), MI), (leaving("1969-12-31T23:59:01Z"), MI)],
                "pod leaving goes and may make enough room",
            ),
            (
                "one takes long to go",
                SHORT,
                vec![(plain("a", "0"), MI), (leaving("1969-12-31T23:59:00Z"), 2 * MI)],
                "a",
            ),
            (
                "one that goes has nothing",
                SHORT,
                vec![(plain("a", "0"), MI), (leaving("1970-01-01T00:00:00Z"), 0)],
                "a",
            ),
        ];
        for (what, room, pods, expected) in table {
            assert_eq!(goes(Resource::Memory, room, &pods), expected, "{what}");
        }
        let disk = Room { capacity: 1000 * MI, available: 99 * MI };
        assert_eq!(goes(Resource::Disk, disk, &[(plain("a", "2Mi"), MI), (plain("b", "0"), MI)]), "b");
        assert_eq!(goes(Resource::Disk, Room { available: 100 * MI, ..disk }, &[(plain("a", "0"), MI)]), "");
    }

    #[test]
    fn the_sentence_is_kubernetes_own() {
        let pod = pod("a", "1Mi", 0, json!({}));
        let containers = [("c".to_owned(), 2 * MI + 1)].into();
        let usages = [Usage { pod: &pod, whole: 3 * MI, containers: &containers }];
        let decision = next_steps(&shortage(Resource::Memory, SHORT), &usages, at(0));
        assert_eq!(
            decision.steps[0].message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 10Mi. \
             Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn what_a_pod_had_is_waited_for() {
        let containers = BTreeMap::new();
        let (there, mut gone) = (pod("a", "0", 0, json!({})), pod("b", "0", 0, json!({})));
        gone.status = serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).unwrap();
        let usage = |pod, whole| Usage { pod, whole, containers: &containers };
        let disk = shortage(Resource::Disk, SHORT);
        let kept = |second| Shortage { images_kept_since: Some(at(second)), ..disk };
        let named = |second| Shortage { last: Some(at(second)), ..disk };
        let table = [
            ("the last one's", named(100), 0, 114, Some(WaitingOn::Settling)),
            ("not any more", named(100), 0, 115, None),
            ("it is still there", named(100), MI, 159, Some(WaitingOn::Settling)),
            ("it is there for too long", named(100), MI, 160, None),
            ("images", kept(100), 0, 159, Some(WaitingOn::Images)),
            ("images for too long", kept(100), 0, 160, None),
        ];
        for (what, shortage, left_behind, second, waiting_on) in table {
            let decision = next_steps(&shortage, &[usage(&there, MI), usage(&gone, left_behind)], at(second));
            assert_eq!(decision.steps.is_empty(), waiting_on.is_some(), "{what}");
            assert_eq!(decision.waiting_on, Vec::from_iter(waiting_on), "{what}");
        }
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let read = |text: &str| text.parse::<Thresholds>();
        let default = Thresholds::DEFAULT;
        assert_eq!(read("memory.available<100Mi,nodefs.available<10%"), Ok(default));
        assert_eq!(read("memory.available<5%"), Ok(Thresholds { memory: Least::Percent(5), ..default }));
        assert_eq!(read("nodefs.available<1Gi"), Ok(Thresholds { disk: Least::Bytes(1 << 30), ..default }));
        for text in ["", "memory.available", "memory.available>1Gi", "pid.available<1", "memory.available<101%"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_shortage_is_held_for_a_while() {
        assert!(!holds(None, at(0)));
        assert!(holds(Some(at(0)), at(299)) && !holds(Some(at(0)), at(300)));
    }
}
