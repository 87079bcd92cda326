//! What happens to a request to the API: who asks, what for, may they, and the answer.
//! Every client, ours too, comes through [`ApiServer::answer`]. Knows nothing of sockets, controllers or nodes.

mod access;
mod addresses;
mod answer;
mod create;
mod delete;
mod discovery;
mod evict;
mod exec;
mod list;
mod logs;
mod node_ports;
mod objects_in;
mod patch;
mod pod_access;
mod port_forward;
mod refusals;
mod request;
mod scale;
mod spdy;
mod tokens;
mod traffic;
mod update;
mod watch;
mod websocket;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use objects::kind::Subresource;
use objects::ranges::Range;
use objects::status::Failure;
use serde_json::{Value, json};

use self::access::KnownGrants;
use self::addresses::ClusterAddresses;
use self::node_ports::NodePorts;
use self::request::{Place, Query, Target, Verb};
use crate::store::Store;
use crate::tokens::Tokens;

pub use self::addresses::dns_address;
pub use self::answer::Body;
pub(crate) use self::answer::failure;
pub use self::pod_access::{Connection, ExecRequest, ExecSession, LogOptions, LogStream, PodAccess};
pub use self::traffic::Traffic;

/// The Kubernetes API over a store.
#[derive(Clone)]
pub struct ApiServer {
    store: Store,
    addresses: Arc<ClusterAddresses>,
    node_ports: Arc<NodePorts>,
    pods: Arc<dyn PodAccess>,
    traffic: Arc<dyn Traffic>,
    grants: Arc<KnownGrants>,
    tokens: Arc<Tokens>,
    metrics: Option<Metrics>,
}

/// What the engine says of itself in the text format of OpenMetrics.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Holds a client certificate or a token of ours, or is the engine itself.
    Known { user: String, groups: Vec<String> },
    /// Showed nothing.
    Anonymous,
    /// Showed something that is not ours.
    Refused,
}

/// The group whose members may do everything.
pub const ADMINISTRATORS: &str = "system:masters";

/// A request that has been read: what the handlers work on.
struct Asked {
    caller: Caller,
    method: Method,
    path: String,
    headers: http::HeaderMap,
    query: Query,
    body: Bytes,
    /// Of a request that asks for another protocol.
    upgrade: Option<OnUpgrade>,
}

type Answer = Result<Response<Body>, Failure>;

impl ApiServer {
    /// An API over `store`, giving Services addresses of `service_range`, looking into pods through `pods`, reading
    /// counts of requests through `traffic`, and giving out `tokens`.
    #[must_use]
    pub fn new(
        store: Store,
        service_range: Range,
        pods: Arc<dyn PodAccess>,
        traffic: Arc<dyn Traffic>,
        tokens: Tokens,
    ) -> Self {
        let addresses = Arc::new(ClusterAddresses::new(service_range, &store));
        let node_ports = Arc::new(NodePorts::new(&store));
        Self {
            store,
            addresses,
            node_ports,
            pods,
            traffic,
            grants: Arc::default(),
            tokens: Arc::new(tokens),
            metrics: None,
        }
    }

    /// The same, with `/metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The store behind this API.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Answers one request, always; a failure is a `Status` object.
    pub async fn answer(&self, caller: &Caller, request: Request<Bytes>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let target = Target::of(parts.uri.path());
        let query = Query::parse(parts.uri.query());
        let path = parts.uri.path().to_owned();
        let caller = match self.impersonated(caller, &parts.headers) {
            Ok(caller) => caller,
            Err(failure) => return answer::failure(&failure),
        };
        let asked = Asked { caller, method: parts.method, path, headers: parts.headers, query, body, upgrade };
        match self.dispatch(target, &asked).await {
            Ok(answer) => answer,
            Err(failure) => answer::failure(&failure),
        }
    }

    async fn dispatch(&self, target: Target, asked: &Asked) -> Answer {
        match target {
            _ if asked.caller == Caller::Refused => Err(Failure::unauthorized()),
            Target::Health => Ok(answer::text("ok")),
            Target::Version => Ok(discovery::version()),
            Target::Metrics => {
                self.authorize_path(&asked.caller, &asked.method, &asked.path)?;
                Ok(self.metrics.as_ref().map_or_else(answer::page_not_found, |metrics| answer::metrics(metrics())))
            }
            Target::Objects(place) => {
                let verb = place.verb(&asked.method, &asked.query).ok_or_else(Failure::method_not_allowed)?;
                self.authorize_objects(&asked.caller, &place, verb)?;
                self.objects(place, verb, asked).await
            }
            about @ (Target::CoreVersions
            | Target::Groups
            | Target::Group(_)
            | Target::GroupVersion { .. }
            | Target::Swagger
            | Target::OpenApiIndex
            | Target::OpenApi { .. }
            | Target::Nothing) => {
                self.authorize_path(&asked.caller, &asked.method, &asked.path)?;
                discovery::answer(&about, asked)
            }
        }
    }

    async fn objects(&self, place: Place, verb: Verb, asked: &Asked) -> Answer {
        match (verb, place.subresource) {
            (Verb::Get, _) if place.kind.is_computed => self.get_traffic(&place, asked),
            (Verb::List, _) if place.kind.is_computed => self.list_traffic(&place, asked),
            (Verb::Watch, _) if place.kind.is_computed => self.watch_traffic(place, asked),
            (Verb::Get, Some(Subresource::Log)) => self.read_log(&place, asked),
            (Verb::Get, Some(Subresource::Scale)) => self.get_scale(&place),
            (Verb::Get, _) => self.get(&place, asked).await,
            (Verb::List, _) => self.list(&place, asked).await,
            (Verb::Watch, _) => self.watch(place, asked).await,
            (Verb::Create, Some(Subresource::Exec)) => self.exec(&place, asked),
            (Verb::Create, Some(Subresource::PortForward)) => self.port_forward(&place, asked),
            (Verb::Create, Some(Subresource::Binding)) => self.bind(&place, asked).await,
            (Verb::Create, Some(Subresource::Eviction)) => self.evict(&place, asked).await,
            (Verb::Create, Some(Subresource::Token)) => self.give_token(&place, asked),
            (Verb::Create, _) if place.kind.is_answered => self.review(&place, asked),
            (Verb::Create, _) => self.create(&place, asked).await,
            (Verb::Update, Some(Subresource::Scale)) => self.put_scale(&place, asked).await,
            (Verb::Update, _) => self.update(&place, asked).await,
            (Verb::Patch, Some(Subresource::Scale)) => self.patch_scale(&place, asked).await,
            (Verb::Patch, _) => self.patch(&place, asked).await,
            (Verb::Delete, _) => self.delete(&place, asked).await,
            (Verb::DeleteCollection, _) => self.delete_collection(&place, asked).await,
        }
    }
}

impl Caller {
    /// The engine's own controllers.
    #[must_use]
    pub fn engine() -> Self {
        Self::Known { user: "system:segue".to_owned(), groups: vec![ADMINISTRATORS.to_owned()] }
    }

    fn is_administrator(&self) -> bool {
        match self {
            Self::Known { groups, .. } => groups.iter().any(|group| group == ADMINISTRATORS),
            Self::Anonymous | Self::Refused => false,
        }
    }

    pub(crate) fn user(&self) -> &str {
        match self {
            Self::Known { user, .. } => user,
            Self::Anonymous | Self::Refused => "system:anonymous",
        }
    }

    pub(crate) fn groups(&self) -> &[String] {
        match self {
            Self::Known { groups, .. } => groups,
            Self::Anonymous | Self::Refused => &[],
        }
    }
}

/// Whether a request goes on by its nature: a watch, a log that is followed, a stream into a pod.
pub(crate) fn goes_on(method: &http::Method, uri: &http::Uri) -> bool {
    let Target::Objects(place) = Target::of(uri.path()) else { return false };
    let query = Query::parse(uri.query());
    match (place.verb(method, &query), place.subresource) {
        (Some(Verb::Watch), _) | (Some(Verb::Create), Some(Subresource::Exec | Subresource::PortForward)) => true,
        (Some(Verb::Get), Some(Subresource::Log)) => query.is_true("follow"),
        _ => false,
    }
}

/// A request's verb and what it is about, as an ObjectReference of an audit Event names it.
pub(crate) fn describe(method: &http::Method, uri: &http::Uri) -> Value {
    let Target::Objects(place) = Target::of(uri.path()) else {
        return json!({"verb": method.as_str().to_ascii_lowercase()});
    };
    let verb = place.verb(method, &Query::parse(uri.query()));
    let mut about = json!({
        "verb": verb.map_or_else(|| method.as_str().to_ascii_lowercase(), |verb| verb.word().to_owned()),
        "resource": place.kind.plural, "apiVersion": place.kind.version,
    });
    let subresource = place.subresource.map(|below| below.path().to_owned());
    let group = Some(place.kind.group.to_owned()).filter(|group| !group.is_empty());
    let fields =
        [("namespace", place.namespace), ("name", place.name), ("subresource", subresource), ("apiGroup", group)];
    for (field, text) in fields {
        if let Some(text) = text {
            about[field] = json!(text);
        }
    }
    about
}
