//! What a pod's task remembers between two rounds: what no object and no shim can tell it.

use std::collections::BTreeMap;

use decide::images::FailedPull;
use decide::pod_lifecycle::{
    BackOff, Exit, Failure, Files, ImageState, NodesEnd, Object, PostStart, Stopping, Volumes,
};
use decide::probes::{ProbeKind, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::disk::Measuring;
use super::runtime::Found;
use crate::images::Image;
use crate::probes::Prober;

/// One pod's.
pub(super) struct Memory {
    pod: Pod,
    object_is: Existence,
    /// None until this engine has looked for what an earlier one left.
    pub(super) looked_for_sandbox: Looked,
    pub(super) sandbox: Option<Found>,
    pub(super) sandbox_retry_at: Option<Timestamp>,
    pub(super) volumes: Volumes,
    /// How long the next failure of a volume or the sandbox waits.
    pub(super) retry_wait: SignedDuration,
    pub(super) files: Files,
    pub(super) object: Object,
    /// When the deletion, the order to go down or the pod's start was seen, and how old it was then.
    pub(super) deletion: Option<Seen>,
    pub(super) order_down: Option<Seen>,
    pub(super) ending: Option<Seen>,
    pub(super) nodes_end: Option<NodesEnd>,
    /// For as long as there is a sandbox.
    pub(super) measuring: Option<Measuring>,
    pub(super) start: Option<Seen>,
    containers: BTreeMap<String, ContainerMemory>,
}

/// One container's.
#[derive(Default)]
pub(super) struct ContainerMemory {
    pub(super) image: ImageState,
    pub(super) local_image: Option<Image>,
    pub(super) failed_pull: Option<FailedPull>,
    pub(super) failure: Option<Failure>,
    /// The run whose command could not be started: there may be no container that shows it.
    pub(super) never_ran: Option<Exit>,
    pub(super) restarts: BackOff,
    pub(super) backing_off_until: Option<Timestamp>,
    pub(super) stopping: Option<Stopping>,
    pub(super) ended: Option<Ended>,
    /// The status id of the run that is probed, and what its probes have shown.
    pub(super) probed_id: Option<String>,
    pub(super) verdicts: BTreeMap<ProbeKind, Verdict>,
    pub(super) probers: BTreeMap<ProbeKind, Prober>,
    /// What became of the hook after the start of a run, by the run's status id.
    pub(super) post_start: Option<(String, PostStart)>,
    /// The imageID of the run, by its status id.
    pub(super) image_id: Option<(String, String)>,
}

/// A run that was seen to end.
pub(super) struct Ended {
    pub(super) status_id: String,
    pub(super) at: Timestamp,
    pub(super) last_words: Option<String>,
}

/// Whether the API still has the pod's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existence {
    There,
    Gone,
}

/// Whether this engine has looked for an earlier one's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    NotYet,
    Done,
}

/// A moment of which the age is told by the agent's clock from when it was first seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    happened: Timestamp,
    age: SignedDuration,
    at: Timestamp,
}

/// The first wait after a volume or a sandbox failed, and the longest.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(60);

impl Memory {
    pub(super) fn of(pod: Pod) -> Self {
        Self {
            pod,
            object_is: Existence::There,
            looked_for_sandbox: Looked::NotYet,
            sandbox: None,
            sandbox_retry_at: None,
            volumes: Volumes::Unprepared,
            retry_wait: FIRST_WAIT,
            files: Files::Kept,
            object: Object::Kept,
            deletion: None,
            order_down: None,
            ending: None,
            nodes_end: None,
            measuring: None,
            start: None,
            containers: BTreeMap::new(),
        }
    }

    /// The object as last read.
    pub(super) fn pod(&self) -> &Pod {
        &self.pod
    }

    pub(super) fn is_gone(&self) -> bool {
        self.object_is == Existence::Gone
    }

    /// Takes what the API answered; another pod of the same name is not this one.
    pub(super) fn take_object(&mut self, read: Option<Pod>, now: Timestamp) {
        let Some(pod) = read.filter(|read| read.metadata.uid == self.pod.metadata.uid) else {
            self.object_is = Existence::Gone;
            return;
        };
        let before = std::mem::replace(&mut self.pod, pod).metadata;
        let after = &self.pod.metadata;
        if (&before.labels, &before.annotations) != (&after.labels, &after.annotations) {
            self.volumes_are_stale(now);
        }
    }

    /// What they show may have changed.
    pub(super) fn volumes_are_stale(&mut self, now: Timestamp) {
        if self.volumes == Volumes::Ready {
            self.volumes = Volumes::Stale { refresh_at: now };
        }
    }

    pub(super) fn container_mut(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// A container of the spec, init containers too.
    pub(super) fn spec_of(&self, name: &str) -> Option<&Container> {
        all_containers(&self.pod).find(|container| container.name == name)
    }

    pub(super) fn image_of(&self, container: &str) -> String {
        self.spec_of(container).and_then(|container| container.image.clone()).unwrap_or_default()
    }

    /// When to try again after one more failure of a volume or the sandbox.
    pub(super) fn next_retry(&mut self, now: Timestamp) -> Timestamp {
        let wait = self.retry_wait;
        self.retry_wait = (wait + wait).min(LONGEST_WAIT);
        now.checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn tried_with_success(&mut self) {
        self.retry_wait = FIRST_WAIT;
    }

    /// The sandbox is no more, and what was seen in it says nothing about the next one.
    pub(super) fn forget_sandbox(&mut self) {
        self.sandbox = None;
        self.measuring = None;
        self.sandbox_retry_at = None;
        for container in self.containers.values_mut() {
            container.forget_run();
            container.never_ran = None;
        }
    }
}

impl ContainerMemory {
    /// Stops probing; the run that was seen has ended or is about to be another one.
    pub(super) fn forget_run(&mut self) {
        self.probers.clear();
        self.verdicts.clear();
        self.probed_id = None;
        self.stopping = None;
    }
}

impl Seen {
    /// Seen now, when the wall clock says that it happened then.
    pub(super) fn now(happened: Timestamp, wall: Timestamp, now: Timestamp) -> Self {
        Self { happened, age: wall.duration_since(happened).max(SignedDuration::ZERO), at: now }
    }

    /// The age of what happened then, as it was seen first. A moment that is another by now was not seen yet.
    pub(super) fn age_of(known: &mut Option<Self>, happened: Timestamp, now: Timestamp) -> SignedDuration {
        let same = known.filter(|known| known.happened == happened);
        known.insert(same.unwrap_or_else(|| Self::now(happened, Timestamp::now(), now))).age(now)
    }

    pub(super) fn age(&self, now: Timestamp) -> SignedDuration {
        self.age + now.duration_since(self.at)
    }
}

/// Init containers first.
pub(super) fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.chain(spec.into_iter().flat_map(|spec| &spec.containers))
}
