//! As much of an API server as the agent needs, in memory: objects, status writes with resourceVersion, deletion, watch.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Clones share the objects.
#[derive(Clone)]
pub(super) struct FakeApi {
    state: Arc<Mutex<State>>,
    version: Arc<watch::Sender<u64>>,
    /// How long anything is waited for.
    patience: Duration,
    /// In paused time the wall clock stands; what is stamped later is stamped with a later time all the same.
    began: Instant,
}

#[derive(Default)]
struct State {
    /// By `namespace/resource/name`.
    objects: BTreeMap<String, Value>,
    pod_events: Vec<(u64, Value)>,
    status_writes: Vec<Value>,
    refuse_status_writes: usize,
}

/// `/api/v1/[namespaces/N/]resource[/name[/subresource]]`
struct Path {
    namespace: String,
    resource: String,
    name: Option<String>,
    subresource: Option<String>,
}

impl FakeApi {
    pub(super) fn new(patience: Duration) -> Self {
        Self { state: Arc::default(), version: Arc::new(watch::channel(1).0), patience, began: Instant::now() }
    }

    pub(super) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn create(&self, resource: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["namespace"] = json!("default");
        let key = format!("default/{resource}/{name}");
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("{name}-uid"));
        }
        self.store(&key, object, "ADDED");
    }

    pub(super) fn pod(&self, name: &str) -> Option<Pod> {
        let object = self.lock().objects.get(&format!("default/pods/{name}")).cloned();
        object.map(|object| serde_json::from_value(object).unwrap())
    }

    /// An object of the whole cluster.
    pub(super) fn object(&self, resource: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&format!("/{resource}/{name}")).cloned()
    }

    /// A user deletes a pod.
    pub(super) fn delete_pod(&self, name: &str, grace_seconds: i64) {
        self.change_pod(name, |pod| {
            let ends = Timestamp::now() + self.began.elapsed() + SignedDuration::from_secs(grace_seconds);
            pod["metadata"]["deletionTimestamp"] = json!(ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        });
    }

    /// A user forces a pod away.
    pub(super) fn remove_pod(&self, name: &str) {
        let key = format!("default/pods/{name}");
        let object = self.lock().objects.get(&key).cloned().unwrap();
        self.remove(&key, object);
    }

    pub(super) fn set_condition(&self, name: &str, type_: &str, status: &str, reason: &str) {
        self.change_pod(name, |pod| {
            let conditions = pod["status"]["conditions"].as_array_mut().unwrap();
            conditions.retain(|condition| condition["type"] != type_);
            conditions.push(json!({"type": type_, "status": status, "reason": reason}));
        });
    }

    pub(super) fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let key = format!("default/pods/{name}");
        let mut object = self.lock().objects.get(&key).cloned().unwrap();
        change(&mut object);
        self.store(&key, object, "MODIFIED");
    }

    /// The next status writes are answered with a conflict.
    pub(super) fn refuse_status_writes(&self, count: usize) {
        self.lock().refuse_status_writes = count;
    }

    /// Every status that was written to this pod, in order.
    pub(super) fn statuses(&self, name: &str) -> Vec<Value> {
        let written = self.lock().status_writes.clone();
        written.into_iter().filter(|pod| pod["metadata"]["name"] == name).map(|pod| pod["status"].clone()).collect()
    }

    /// Messages of the events with this reason.
    pub(super) fn events(&self, reason: &str) -> Vec<String> {
        let state = self.lock();
        let events = state.objects.iter().filter(|(key, _)| key.contains("/events/")).map(|(_, event)| event);
        let named = events.filter(|event| event["reason"] == reason);
        named.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until this holds; time passes only while nobody does anything.
    pub(super) async fn until<T>(&self, what: &str, mut holds: impl FnMut(&Self) -> Option<T>) -> T {
        let mut version = self.version.subscribe();
        let waited = async {
            loop {
                version.borrow_and_update();
                if let Some(found) = holds(self) {
                    return found;
                }
                version.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(self.patience, waited).await {
            Ok(found) => found,
            Err(_) => panic!("never: {what}; pods are {:#?}", self.pods()),
        }
    }

    fn pods(&self) -> Vec<Value> {
        let state = self.lock();
        state.objects.iter().filter(|(key, _)| key.contains("/pods/")).map(|(_, pod)| pod["status"].clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn store(&self, key: &str, mut object: Value, event: &str) -> Value {
        let mut state = self.lock();
        let version = *self.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if key.contains("/pods/") {
            state.pod_events.push((version, json!({"type": event, "object": typed(object.clone())})));
        }
        state.objects.insert(key.to_owned(), object.clone());
        drop(state);
        self.version.send_replace(version);
        object
    }

    fn remove(&self, key: &str, object: Value) {
        let mut state = self.lock();
        let version = *self.version.borrow() + 1;
        state.objects.remove(key);
        state.pod_events.push((version, json!({"type": "DELETED", "object": typed(object)})));
        drop(state);
        self.version.send_replace(version);
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let path = Path::parse(head.uri.path());
        let query = head.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if query.contains("watch=") {
            return self.watch(&query);
        }
        match (&head.method, &path.name) {
            (&Method::GET, None) => self.list(&path),
            (&Method::GET, Some(_)) => self.get(&path),
            (&Method::POST, _) => self.post(&path, body),
            (&Method::PUT, Some(_)) => self.put(&path, body),
            (&Method::PATCH, Some(_)) => self.patch(&path, body),
            (&Method::DELETE, Some(_)) => self.delete(&path, &body),
            (method, _) => panic!("the agent has no business with {method} {}", head.uri),
        }
    }

    fn list(&self, path: &Path) -> Answer {
        let state = self.lock();
        let of_resource = |key: &str| {
            let mut parts = key.split('/');
            (path.namespace.is_empty() || parts.next() == Some(&path.namespace))
                && key.contains(&format!("/{}/", path.resource))
        };
        let items: Vec<Value> =
            state.objects.iter().filter(|(key, _)| of_resource(key)).map(|(_, object)| object.clone()).collect();
        let version = self.version.borrow().to_string();
        ok(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
    }

    fn get(&self, path: &Path) -> Answer {
        let object = self.lock().objects.get(&path.key()).cloned();
        object.map_or_else(|| failed(404, "NotFound"), ok)
    }

    fn post(&self, path: &Path, mut body: Value) -> Answer {
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        body["metadata"]["uid"] = json!(format!("{name}-uid"));
        ok(self.store(&format!("{}/{}/{name}", path.namespace, path.resource), body, "ADDED"))
    }

    fn put(&self, path: &Path, body: Value) -> Answer {
        let Some(old) = self.lock().objects.get(&path.key()).cloned() else { return failed(404, "NotFound") };
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return failed(409, "Conflict");
        }
        let Some("status") = path.subresource.as_deref() else {
            return ok(self.store(&path.key(), Value::clone(&body), "MODIFIED"));
        };
        if path.resource == "pods" {
            let mut state = self.lock();
            if state.refuse_status_writes > 0 {
                state.refuse_status_writes -= 1;
                return failed(409, "Conflict");
            }
            state.status_writes.push(body.clone());
        }
        let mut new = old;
        new["status"] = body["status"].clone();
        ok(self.store(&path.key(), new, "MODIFIED"))
    }

    fn patch(&self, path: &Path, body: Value) -> Answer {
        let Some(mut object) = self.lock().objects.get(&path.key()).cloned() else { return failed(404, "NotFound") };
        for (field, value) in body.as_object().unwrap() {
            object[field] = value.clone();
        }
        ok(self.store(&path.key(), object, "MODIFIED"))
    }

    fn delete(&self, path: &Path, body: &Value) -> Answer {
        let Some(object) = self.lock().objects.get(&path.key()).cloned() else { return failed(404, "NotFound") };
        assert_eq!(body["gracePeriodSeconds"], 0, "the node's deletion is the last one");
        if body["preconditions"]["uid"] != object["metadata"]["uid"] {
            return failed(409, "Conflict");
        }
        if object["metadata"]["finalizers"].is_null() {
            self.remove(&path.key(), object.clone());
        }
        ok(object)
    }

    fn watch(&self, query: &str) -> Answer {
        let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap();
        let (api, seen) = (self.clone(), version.parse::<u64>().unwrap());
        let lines = stream::unfold((api, seen, self.version.subscribe()), |(api, seen, mut version)| async move {
            loop {
                let next = api.lock().pod_events.iter().find(|(version, _)| *version > seen).cloned();
                if let Some((at, event)) = next {
                    return Some((format!("{event}\n"), (api, at, version)));
                }
                version.changed().await.ok()?;
            }
        });
        let frames = lines.map(|line| Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::from(line))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

impl Path {
    fn parse(path: &str) -> Self {
        let path = path.trim_start_matches("/api/v1/").trim_start_matches("/apis/networking.k8s.io/v1/");
        let mut parts = path.split('/').map(str::to_owned).peekable();
        let namespace = parts.next_if(|part| part == "namespaces").and_then(|_| parts.next()).unwrap_or_default();
        Self { namespace, resource: parts.next().unwrap_or_default(), name: parts.next(), subresource: parts.next() }
    }

    fn key(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.resource, self.name.as_deref().unwrap_or_default())
    }
}

/// A watch tells each object's type.
fn typed(mut object: Value) -> Value {
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    object
}

fn ok(object: Value) -> Answer {
    Response::new(Full::new(Bytes::from(object.to_string())).boxed_unsync())
}

fn failed(code: u16, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    let mut response = ok(status);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
