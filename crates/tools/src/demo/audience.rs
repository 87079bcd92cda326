//! Watches the pods from the side during the story, and remembers how few of them were ready at the worst moment.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::ControlFlow;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use objects::pods::{is_ready, is_terminating};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::manifests::SELECTOR;
use crate::follow::follow;

/// Ready pods that are not going away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) ready: usize,
    /// `None` until the pods were first seen.
    pub(super) lowest: Option<usize>,
}

pub(super) struct Audience {
    census: watch::Receiver<Census>,
    watching: JoinHandle<Result<Infallible, kube::Error>>,
}

impl Audience {
    pub(super) fn watch(pods: Api<Pod>) -> Audience {
        let (seen, census) = watch::channel(Census::default());
        let watching = tokio::spawn(async move {
            let selection = ListParams::default().labels(SELECTOR);
            follow(&pods, &selection, |found| {
                seen.send_modify(|census| *census = census.next(found));
                ControlFlow::Continue(())
            })
            .await
        });
        Audience { census, watching }
    }

    pub(super) fn census(&self) -> watch::Receiver<Census> {
        self.census.clone()
    }

    /// The lowest number since the start, if the pods could be watched to the end.
    pub(super) async fn lowest_ready(self) -> Result<usize, kube::Error> {
        if self.watching.is_finished()
            && let Ok(ended) = self.watching.await
        {
            return ended.map(|never| match never {});
        }
        let census = *self.census.borrow();
        Ok(census.lowest.unwrap_or_default())
    }
}

impl Census {
    fn next(self, pods: &BTreeMap<String, Pod>) -> Census {
        let ready = pods.values().filter(|pod| is_ready(pod) && !is_terminating(pod)).count();
        Census { ready, lowest: Some(self.lowest.map_or(ready, |lowest| lowest.min(ready))) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: &str, deleted: Option<&str>) -> (String, Pod) {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "deletionTimestamp": deleted},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }));
        (name.to_owned(), pod.unwrap())
    }

    #[test]
    fn the_worst_moment_is_remembered_and_terminating_pods_do_not_count() {
        let gone = Some("2026-11-23T10:00:00Z");
        let three = [pod("a", "True", None), pod("b", "True", None), pod("c", "True", None)].into();
        let two =
            [pod("a", "True", None), pod("b", "True", gone), pod("c", "False", None), pod("d", "True", None)].into();
        let census = Census::default().next(&three).next(&two).next(&three);
        assert_eq!(census, Census { ready: 3, lowest: Some(2) });
    }
}
