//! As much of a Kubernetes API as routing uses: lists, watches, status patches with preconditions, events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, Stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By `plural` and `namespace/name`.
    objects: BTreeMap<(String, String), Value>,
    /// `(version, plural, watch event)`.
    log: Vec<(u64, String, Value)>,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), version: watch::Sender::new(1) }
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    pub(crate) fn get(&self, plural: &str, name: &str) -> Value {
        let state = self.state.lock().unwrap();
        state.objects.get(&(plural.to_owned(), format!("production/{name}"))).cloned().unwrap_or_default()
    }

    pub(crate) fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let of_kind = state.objects.iter().filter(|((kind, _), _)| kind == plural);
        of_kind.map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn put(&self, plural: &str, object: Value) {
        self.put_locked(&mut self.state.lock().unwrap(), plural, object);
    }

    fn put_locked(&self, state: &mut State, plural: &str, mut object: Value) {
        let version = *self.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = (plural.to_owned(), format!("production/{}", object["metadata"]["name"].as_str().unwrap()));
        let type_ = if state.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        state.log.push((version, plural.to_owned(), json!({"type": type_, "object": object})));
        state.objects.insert(key, object);
        self.version.send_replace(version);
    }

    pub(crate) fn delete(&self, plural: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        let version = *self.version.borrow() + 1;
        let mut object = state.objects.remove(&(plural.to_owned(), format!("production/{name}"))).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.log.push((version, plural.to_owned(), json!({"type": "DELETED", "object": object})));
        self.version.send_replace(version);
    }

    /// Tells every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until an object of this name satisfies `is_so`.
    pub(crate) async fn wait_for(&self, plural: &str, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.version.subscribe();
        let wait = async {
            loop {
                let object = self.get(plural, name);
                if is_so(&object) {
                    return object;
                }
                changes.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), wait).await;
        waited.unwrap_or_else(|_| panic!("{plural} {name} stays {}", self.get(plural, name)))
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let path: Vec<String> = request.uri().path().split('/').map(str::to_owned).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let query = request.uri().query().unwrap_or_default().to_owned();
        match (request.method(), path.as_slice()) {
            (&Method::GET, [.., plural]) if query.contains("watch=true") => {
                let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap();
                self.watch((*plural).to_owned(), since.parse().unwrap())
            }
            (&Method::GET, [.., plural]) => {
                // Read before the items: what changes in between is told twice, not never.
                let version = self.version.borrow().to_string();
                reply(StatusCode::OK, &json!({"metadata": {"resourceVersion": version}, "items": self.all(plural)}))
            }
            (&Method::PATCH, [.., plural, name, "status"]) => {
                let (plural, name) = ((*plural).to_owned(), (*name).to_owned());
                self.patch(&plural, &name, &read(request).await)
            }
            (&Method::POST, [.., plural]) => {
                let plural = (*plural).to_owned();
                let object = read(request).await;
                self.put(&plural, object.clone());
                reply(StatusCode::CREATED, &object)
            }
            other => panic!("routing asks for {other:?}"),
        }
    }

    fn patch(&self, plural: &str, name: &str, patch: &Value) -> Response<Body> {
        let mut state = self.state.lock().unwrap();
        let key = (plural.to_owned(), format!("production/{name}"));
        let mut object = state.objects.get(&key).cloned().unwrap_or_default();
        if ["uid", "resourceVersion"].iter().any(|field| object["metadata"][field] != patch["metadata"][field]) {
            return reply(
                StatusCode::CONFLICT,
                &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "changed",
                        "reason": "Conflict", "code": 409}),
            );
        }
        let condition = &patch["status"]["conditions"][0];
        let conditions = object["status"]["conditions"].as_array_mut().unwrap();
        conditions.retain(|old| old["type"] != condition["type"]);
        conditions.push(condition.clone());
        self.put_locked(&mut state, plural, object.clone());
        reply(StatusCode::OK, &object)
    }

    fn watch(&self, plural: String, since: u64) -> Response<Body> {
        Response::new(UnsyncBoxBody::new(StreamBody::new(self.events(plural, since))))
    }

    fn events(&self, plural: String, since: u64) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<> {
        let (state, changes) = (self.state.clone(), self.version.subscribe());
        stream::unfold((state, changes, since), move |(state, mut changes, since)| {
            let plural = plural.clone();
            async move {
                loop {
                    changes.borrow_and_update();
                    let next = {
                        let state = state.lock().unwrap();
                        state.log.iter().find(|(version, kind, _)| *version > since && *kind == plural).cloned()
                    };
                    if let Some((version, _, event)) = next {
                        let line = Bytes::from(format!("{event}\n"));
                        return Some((Ok(Frame::data(line)), (state, changes, version)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        })
    }
}

async fn read(request: Request<kube::client::Body>) -> Value {
    serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

fn reply(status: StatusCode, object: &Value) -> Response<Body> {
    let body = Full::from(object.to_string());
    Response::builder().status(status).body(UnsyncBoxBody::new(body)).unwrap()
}
