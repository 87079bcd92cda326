//! What a request asks for, read from its method, path and query.

use std::borrow::Cow;

use http::Method;
use objects::kind::{Kind, Subresource};
use percent_encoding::percent_decode_str;

/// Everything that the API can be asked.
pub(super) enum Target {
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/version`
    Version,
    /// `/metrics`
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    GroupVersion { group: String, version: String },
    /// `/openapi/v2`
    Swagger,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`
    OpenApi { group: String, version: String },
    /// Objects of a kind.
    Objects(Place),
    /// A path that means nothing here.
    Nothing,
}

/// Which objects, of which kind.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) kind: &'static Kind,
    /// `None`: of all namespaces, or of a cluster-scoped kind.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<Subresource>,
}

/// What is done to objects, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// The query parameters, decoded, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Target {
    pub(super) fn of(path: &str) -> Self {
        let parts: Option<Vec<Cow<'_, str>>> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
        let Some(parts) = parts else { return Self::Nothing };
        let parts: Vec<&str> = parts.iter().map(Cow::as_ref).collect();
        match parts[..] {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            ["metrics"] => Self::Metrics,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group(group.to_owned()),
            ["openapi", "v2"] => Self::Swagger,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", "api", version] => Self::OpenApi { group: String::new(), version: version.to_owned() },
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApi { group: group.to_owned(), version: version.to_owned() }
            }
            ["api", version] => Self::GroupVersion { group: String::new(), version: version.to_owned() },
            ["apis", group, version] => Self::GroupVersion { group: group.to_owned(), version: version.to_owned() },
            ["api", version, ref rest @ ..] => Self::objects("", version, rest),
            ["apis", group, version, ref rest @ ..] => Self::objects(group, version, rest),
            _ => Self::Nothing,
        }
    }

    fn objects(group: &str, version: &str, rest: &[&str]) -> Self {
        let place = match *rest {
            ["namespaces", name, ref below @ ..] if is_namespace_itself(group, below) => {
                Place::find(group, version, None, "namespaces", Some(name), below)
            }
            ["namespaces", namespace, plural, ref below @ ..] => match *below {
                [] => Place::find(group, version, Some(namespace), plural, None, &[]),
                [name, ref below @ ..] => Place::find(group, version, Some(namespace), plural, Some(name), below),
            },
            [plural] => Place::find(group, version, None, plural, None, &[]),
            [plural, name, ref below @ ..] => Place::find(group, version, None, plural, Some(name), below),
            [] => None,
        };
        place.map_or(Self::Nothing, Self::Objects)
    }
}

/// A segment of a path as it is meant (RFC 3986, 2.1); None for what can be no name.
fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let decoded = percent_decode_str(segment).decode_utf8().ok()?;
    let is_name = !decoded.contains(['/', '%']) && !matches!(decoded.as_ref(), "" | "." | "..");
    is_name.then_some(decoded)
}

fn is_namespace_itself(group: &str, below: &[&str]) -> bool {
    group.is_empty() && matches!(below, [] | ["status" | "finalize"])
}

impl Place {
    fn find(
        group: &str,
        version: &str,
        namespace: Option<&str>,
        plural: &str,
        name: Option<&str>,
        below: &[&str],
    ) -> Option<Self> {
        let kind = objects::kinds::find(group, version, plural)?;
        let subresource = match *below {
            [] => None,
            [below] => Some(kind.subresources.iter().copied().find(|known| known.path() == below)?),
            _ => return None,
        };
        // A namespaced object has no path outside a namespace, nor a cluster-scoped one inside.
        let fits = if kind.is_namespaced() { namespace.is_some() || name.is_none() } else { namespace.is_none() };
        fits.then(|| Self { kind, namespace: namespace.map(str::to_owned), name: name.map(str::to_owned), subresource })
    }

    /// The name under which the store keeps this kind: `deployments.apps`, `pods`.
    pub(super) fn resource(&self) -> String {
        resource_of(self.kind)
    }

    /// The store's key of the object, where the path names one.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The verb that a method means here; `None` where it means none.
    pub(super) fn verb(&self, method: &Method, query: &Query) -> Option<Verb> {
        let named = self.name.is_some();
        let creates_below =
            matches!(self.subresource, Some(Subresource::Binding | Subresource::Eviction | Subresource::Token));
        let reads_only = self.subresource == Some(Subresource::Log);
        let opens_streams = matches!(self.subresource, Some(Subresource::Exec | Subresource::PortForward));
        match *method {
            // Whoever may only read objects may not do this with a GET either.
            Method::GET | Method::POST if opens_streams => Some(Verb::Create),
            _ if opens_streams => None,
            Method::POST if self.kind.is_computed => None,
            Method::POST if self.kind.is_answered && !named => Some(Verb::Create),
            _ if self.kind.is_answered => None,
            Method::POST if creates_below || (!named && (self.namespace.is_some() || !self.kind.is_namespaced())) => {
                Some(Verb::Create)
            }
            _ if creates_below => None,
            // What is below an object is not followed: that would show the object.
            Method::GET | Method::HEAD if named && (self.subresource.is_some() || !query.is_true("watch")) => {
                Some(Verb::Get)
            }
            Method::GET | Method::HEAD if query.is_true("watch") => Some(Verb::Watch),
            Method::GET | Method::HEAD => Some(Verb::List),
            _ if reads_only || self.kind.is_computed => None,
            Method::PUT if named => Some(Verb::Update),
            Method::PATCH if named && self.subresource != Some(Subresource::Finalize) => Some(Verb::Patch),
            Method::DELETE if self.subresource.is_some() => None,
            Method::DELETE if named => Some(Verb::Delete),
            Method::DELETE if self.namespace.is_some() || !self.kind.is_namespaced() => Some(Verb::DeleteCollection),
            _ => None,
        }
    }
}

impl Verb {
    /// The verb as access rules and messages name it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of a parameter that is there and not empty.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, value)| found == key && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        self.0.iter().any(|(found, value)| {
            found == key && matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE" | "")
        })
    }

    /// A parameter that is a number, `Err` with its text where it is none.
    pub(super) fn number<N: std::str::FromStr>(&self, key: &str) -> Result<Option<N>, String> {
        self.get(key).map(|text| text.parse().map_err(|_| format!("{key}: {text:?} is not a number"))).transpose()
    }
}

/// The name under which the store keeps a kind.
fn resource_of(kind: &Kind) -> String {
    match kind.group {
        "" => kind.plural.to_owned(),
        group => format!("{}.{group}", kind.plural),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(path: &str) -> String {
        match Target::of(path) {
            Target::Objects(place) => format!(
                "{} ns={:?} name={:?} sub={:?}",
                place.resource(),
                place.namespace,
                place.name,
                place.subresource
            ),
            Target::GroupVersion { group, version } => format!("group version {group}/{version}"),
            Target::Nothing => "nothing".to_owned(),
            Target::Health
            | Target::Version
            | Target::Metrics
            | Target::CoreVersions
            | Target::Groups
            | Target::Group(_)
            | Target::Swagger
            | Target::OpenApiIndex
            | Target::OpenApi { .. } => "other".to_owned(),
        }
    }

    #[test]
    fn paths_name_what_kubernetes_says_they_name() {
        let table = [
            ("/api/v1", "group version /v1"),
            ("/apis/apps/v1", "group version apps/v1"),
            ("/api/v1/namespaces", "namespaces ns=None name=None sub=None"),
            ("/api/v1/namespaces/a", r#"namespaces ns=None name=Some("a") sub=None"#),
            ("/api/v1/namespaces/a/finalize", r#"namespaces ns=None name=Some("a") sub=Some(Finalize)"#),
            ("/api/v1/pods", "pods ns=None name=None sub=None"),
            ("/api/v1/namespaces/a/pods", r#"pods ns=Some("a") name=None sub=None"#),
            ("/api/v1/namespaces/a/pods/p/log", r#"pods ns=Some("a") name=Some("p") sub=Some(Log)"#),
            (
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                r#"deployments.apps ns=Some("a") name=Some("d") sub=Some(Scale)"#,
            ),
            ("/apis/apps/v1/namespaces/a/deployments/d/none", "nothing"),
            ("/api/v1/namespaces/a/pods/system%3Ap", r#"pods ns=Some("a") name=Some("system:p") sub=None"#),
            ("/api/v1/namespaces/a/pods/p%2Flog", "nothing"),
            ("/api/v1/namespaces/a/pods/%2e%2e", "nothing"),
            ("/api/v1/namespaces/a/pods/%ff", "nothing"),
            ("/api/v1/pods/p", "nothing"),
            ("/api/v1/namespaces/a/nodes", "nothing"),
            ("/apis/apps/v9/deployments", "nothing"),
            ("/healthz", "other"),
        ];
        for (path, expected) in table {
            assert_eq!(described(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=1&limit=x"));
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in (a)"));
        assert!(query.is_true("watch"));
        assert!(query.number::<u32>("limit").is_err());
    }
}
