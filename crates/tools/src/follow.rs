//! A client's view of some objects, kept current until the caller has seen enough.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::pin::pin;

use futures::TryStreamExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// Calls `look` with all objects that `selection` selects, by name: now and after every change, until it breaks.
pub(crate) async fn follow<K, T>(
    api: &Api<K>,
    selection: &ListParams,
    mut look: impl FnMut(&BTreeMap<String, K>) -> ControlFlow<T>,
) -> Result<T, kube::Error>
where
    K: Clone + Debug + DeserializeOwned + Resource,
{
    let watching = WatchParams {
        label_selector: selection.label_selector.clone(),
        field_selector: selection.field_selector.clone(),
        ..WatchParams::default()
    };
    loop {
        let listed = api.list(selection).await?;
        let version = listed.metadata.resource_version.unwrap_or_default();
        let mut objects: BTreeMap<_, _> = listed.items.into_iter().map(named).collect();
        if let ControlFlow::Break(seen) = look(&objects) {
            return Ok(seen);
        }
        let mut events = pin!(api.watch(&watching, &version).await?);
        // A watch that ends, or whose version is too old by now, starts over with a list.
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    objects.extend([named(object)]);
                }
                WatchEvent::Deleted(object) => {
                    objects.remove(&object.name_any());
                }
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(_) => break,
            }
            if let ControlFlow::Break(seen) = look(&objects) {
                return Ok(seen);
            }
        }
    }
}

fn named<K: Resource>(object: K) -> (String, K) {
    (object.name_any(), object)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use super::*;

    /// An API that gives these answers in this order, to lists and watches alike, and the requests it was given.
    fn api(answers: Vec<String>) -> (Api<ConfigMap>, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let seen = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(request.uri().to_string());
            let answer = answers.lock().unwrap().pop_front().unwrap();
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))) }
        });
        (Api::namespaced(Client::new(service, "default"), "default"), asked)
    }

    fn list(version: &str, names: &[&str]) -> String {
        let items: Vec<_> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": version}, "items": items})
            .to_string()
    }

    fn event(kind: &str, object: Value) -> String {
        json!({"type": kind, "object": object}).to_string() + "\n"
    }

    fn object(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    }

    #[tokio::test]
    async fn every_change_is_seen_and_a_watch_that_is_too_old_starts_over() {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
        let (api, asked) = api(vec![
            list("5", &["a"]),
            event("ADDED", object("b")) + &event("DELETED", object("a")) + &event("ERROR", gone),
            list("9", &["c"]),
            event("MODIFIED", object("d")),
        ]);
        let mut seen = Vec::new();
        let selection = ListParams::default().labels("x=y");
        let ended = follow(&api, &selection, |found| {
            seen.push(found.keys().cloned().collect::<Vec<_>>().join(","));
            if found.contains_key("d") { ControlFlow::Break("enough") } else { ControlFlow::Continue(()) }
        });
        assert_eq!(ended.await.unwrap(), "enough");
        assert_eq!(seen, ["a", "a,b", "b", "c", "c,d"]);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 4);
        assert!(asked.iter().all(|uri| uri.contains("labelSelector=x%3Dy")), "{asked:?}");
        assert!(asked[1].contains("resourceVersion=5") && asked[3].contains("resourceVersion=9"), "{asked:?}");
    }
}
