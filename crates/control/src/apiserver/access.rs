//! Whether the caller may do what it asks for, and whom it asks as. `decide::rbac` says so, of the roles in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use decide::rbac::{self, Ask, Grants};
use http::{HeaderMap, Method, StatusCode, Uri};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::status::Failure;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Answer, ApiServer, Asked, Caller, Place, Query, Target, Verb, answer, objects_in, refusals};
use crate::store::Listing;

const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
pub(super) const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";

/// Of each kind, how many objects there are and the last of their revisions: another after each change.
type Versions = [(usize, u64); 4];

/// Roles and bindings as they were read last.
#[derive(Default)]
pub(super) struct KnownGrants(Mutex<Option<(Versions, Arc<Grants>)>>);

impl ApiServer {
    /// Whom a request is made as: whoever may, can ask as somebody else (`kubectl --as`).
    pub(super) fn impersonated(&self, caller: &Caller, headers: &HeaderMap) -> Result<Caller, Failure> {
        let all = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
        let mut groups: Vec<String> = all(IMPERSONATE_GROUP).collect();
        let Some(user) = all(IMPERSONATE_USER).next().filter(|user| !user.is_empty()) else {
            if groups.is_empty() || *caller == Caller::Refused {
                return Ok(caller.clone());
            }
            let sentence = "Impersonate-Group names whose groups these are only together with Impersonate-User";
            return Err(Failure::bad_request(sentence));
        };
        if *caller == Caller::Refused {
            return Err(Failure::unauthorized());
        }
        let may = |resource: &str, namespace: &str, name: &str| {
            let verb = "impersonate";
            let ask = Ask::Objects { verb, group: "", resource, subresource: "", namespace, name };
            self.allowed(caller, ask).map(drop).ok_or_else(|| {
                let sentence = format!("User \"{}\" cannot impersonate resource \"{resource}\"", caller.user());
                let within = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace \"{namespace}\"")
                };
                Failure::forbidden("", resource, name, &format!("{sentence} in API group \"\" {within}"))
            })
        };
        match user.strip_prefix(SERVICE_ACCOUNT).and_then(|account| account.split_once(':')) {
            Some((namespace, name)) => {
                may("serviceaccounts", namespace, name)?;
                if groups.is_empty() {
                    groups = groups_of_account(namespace);
                }
            }
            None => may("users", "", &user)?,
        }
        for group in all(IMPERSONATE_GROUP) {
            may("groups", "", &group)?;
        }
        Ok(Caller::Known { user, groups })
    }

    pub(super) fn authorize_objects(&self, caller: &Caller, place: &Place, verb: Verb) -> Result<(), Failure> {
        let kind = place.kind;
        let below = place.subresource.map_or("", |below| below.path());
        let (verb, group, resource) = (verb.word(), kind.group, kind.plural);
        let (namespace, name) = (place.namespace(), place.name());
        // A Namespace is ruled from within.
        let namespace = if kind.kind == "Namespace" && kind.group.is_empty() { name } else { namespace };
        let ask = Ask::Objects { verb, group, resource, subresource: below, namespace, name };
        if self.allowed(caller, ask).is_some() {
            return Ok(());
        }
        let below = if below.is_empty() { String::new() } else { format!("/{below}") };
        let within = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let sentence = format!(
            "User \"{}\" cannot {verb} resource \"{resource}{below}\" in API group \"{group}\" {within}",
            caller.user(),
        );
        Err(Failure::forbidden(group, resource, name, &sentence))
    }

    pub(super) fn authorize_path(&self, caller: &Caller, method: &Method, path: &str) -> Result<(), Failure> {
        let verb = method.as_str().to_ascii_lowercase();
        let allowed = self.allowed(caller, Ask::Path { verb: &verb, path });
        allowed.map(drop).ok_or_else(|| refusals::forbidden_path(caller.user(), &verb, path))
    }

    /// Refuses who showed nothing, or nothing of ours, before the body of a request is read.
    pub(crate) fn check_stranger(&self, caller: &Caller, method: &Method, uri: &Uri) -> Result<(), Failure> {
        let target = match caller {
            Caller::Known { .. } => return Ok(()),
            Caller::Refused => return Err(Failure::unauthorized()),
            Caller::Anonymous => Target::of(uri.path()),
        };
        if let Target::Objects(place) = target {
            let verb = place.verb(method, &Query::parse(uri.query())).ok_or_else(Failure::method_not_allowed)?;
            return self.authorize_objects(caller, &place, verb);
        }
        let is_open = matches!(target, Target::Health | Target::Version);
        if is_open { Ok(()) } else { self.authorize_path(caller, method, uri.path()) }
    }

    /// Refuses to let a caller grant, by a role or a binding, what it doesn't have itself.
    pub(super) fn check_grant(
        &self,
        caller: &Caller,
        place: &Place,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Failure> {
        let kind = place.kind;
        if kind.group != RBAC || caller.is_administrator() {
            return Ok(());
        }
        // Whoever may collect garbage changes nothing of what is granted.
        if old.is_some_and(|old| is_held_otherwise(old, new)) {
            return Ok(());
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let may = |verb: &str, resource: &str, name: &str| {
            let ask = Ask::Objects { verb, group: RBAC, resource, subresource: "", namespace: place.namespace(), name };
            self.allowed(caller, ask).is_some()
        };
        let grants = self.grants();
        let granted: Vec<PolicyRule> = if kind.kind.ends_with("Binding") {
            let role: RoleRef = read(&new["roleRef"]).unwrap_or_default();
            let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
            if may("bind", resource, &role.name) {
                return Ok(());
            }
            let rules = grants.rules_of(&role, place.namespace());
            rules.ok_or_else(|| Failure::not_found(RBAC, resource, &role.name))?.to_vec()
        } else {
            if may("escalate", kind.plural, name) {
                return Ok(());
            }
            // Labels too: by them it may be put into others that the caller is bound to.
            match [Some(new), old].into_iter().flatten().any(|role| role["aggregationRule"].is_object()) {
                // Whatever another puts into it.
                true => everything(),
                false => read(&new["rules"]).unwrap_or_default(),
            }
        };
        let groups = groups(caller);
        let lacking = grants.lacking(of(caller, &groups), place.namespace(), &granted);
        if lacking.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = lacking.iter().map(shown).collect();
        let sentence = format!(
            "user \"{}\" (groups={groups:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            caller.user(),
            lines.join("\n")
        );
        Err(Failure::forbidden(kind.group, kind.plural, name, &sentence))
    }

    /// Answers a question about who may do what.
    pub(super) fn review(&self, place: &Place, asked: &Asked) -> Answer {
        let incoming = objects_in::read(asked, place)?;
        let mut value = incoming.value;
        let causes = (place.kind.validate)(&value);
        if !causes.is_empty() {
            return Err(Failure::invalid_object(place.kind, "", causes));
        }
        let caller = &asked.caller;
        value["status"] = match place.kind.kind {
            "SelfSubjectReview" => {
                value["metadata"]["creationTimestamp"] = json!(Time(Timestamp::now()));
                json!({"userInfo": {"username": caller.user(), "groups": groups(caller)}})
            }
            "TokenReview" => self.token_review(&value["spec"]),
            "SelfSubjectRulesReview" => self.rules_review(caller, &value["spec"]),
            "SubjectAccessReview" => {
                let groups = read(&value["spec"]["groups"]).unwrap_or_default();
                let user = value["spec"]["user"].as_str().unwrap_or_default().to_owned();
                self.access_review(&Caller::Known { user, groups }, &value["spec"])
            }
            _ => self.access_review(caller, &value["spec"]),
        };
        Ok(answer::json(StatusCode::CREATED, &value, &incoming.warnings))
    }

    fn access_review(&self, caller: &Caller, spec: &Value) -> Value {
        let text = |of: &str, field: &str| spec[of][field].as_str().unwrap_or_default().to_owned();
        let allowed = if spec["resourceAttributes"].is_object() {
            let [verb, group, resource, subresource, namespace, name] =
                ["verb", "group", "resource", "subresource", "namespace", "name"]
                    .map(|field| text("resourceAttributes", field));
            let (verb, group, resource) = (verb.as_str(), group.as_str(), resource.as_str());
            let ask =
                Ask::Objects { verb, group, resource, subresource: &subresource, namespace: &namespace, name: &name };
            self.allowed(caller, ask)
        } else {
            let [verb, path] = ["verb", "path"].map(|field| text("nonResourceAttributes", field));
            self.allowed(caller, Ask::Path { verb: &verb, path: &path })
        };
        match allowed {
            Some(reason) if reason.is_empty() => json!({"allowed": true}),
            Some(reason) => json!({"allowed": true, "reason": reason}),
            None => json!({"allowed": false}),
        }
    }

    fn rules_review(&self, caller: &Caller, spec: &Value) -> Value {
        let (grants, groups) = (self.grants(), groups(caller));
        let mut rules: Vec<PolicyRule> = if caller.is_administrator() { everything() } else { Vec::new() };
        let namespace = spec["namespace"].as_str().unwrap_or_default();
        rules.extend(grants.rules(of(caller, &groups), namespace).into_iter().cloned());
        let (paths, resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.non_resource_urls.is_some());
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    /// Why the caller may; None: it may not.
    fn allowed(&self, caller: &Caller, ask: Ask<'_>) -> Option<String> {
        match caller.is_administrator() {
            true => Some(String::new()),
            false => self.grants().allow(of(caller, &groups(caller)), ask),
        }
    }

    /// Made anew when a role or a binding has changed.
    fn grants(&self) -> Arc<Grants> {
        let resources = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
        let [roles, cluster_roles, role_bindings, cluster_role_bindings] =
            resources.map(|resource| self.store.list(&format!("{resource}.{RBAC}"), None));
        let versions: Versions = [&roles, &cluster_roles, &role_bindings, &cluster_role_bindings].map(|listing| {
            let revisions = listing.objects.iter().map(|object| object.revision);
            (listing.objects.len(), revisions.max().unwrap_or_default())
        });
        let mut known = self.grants.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grants)) = known.as_ref().filter(|(known, _)| *known == versions) {
            return Arc::clone(grants);
        }
        let grants = Arc::new(Grants {
            roles: named(&roles, |name, namespace| format!("{namespace}/{name}")),
            cluster_roles: named(&cluster_roles, |name, _| name.to_owned()),
            role_bindings: all(&role_bindings),
            cluster_role_bindings: all(&cluster_role_bindings),
        });
        *known = Some((versions, Arc::clone(&grants)));
        grants
    }
}

fn all<T: DeserializeOwned>(listing: &Listing) -> Vec<T> {
    listing.objects.iter().filter_map(|object| read(&object.value)).collect()
}

fn named<T: DeserializeOwned>(listing: &Listing, key: impl Fn(&str, &str) -> String) -> BTreeMap<String, T> {
    let entry = |value: &Value| {
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        Some((key(text("name"), text("namespace")), read(value)?))
    };
    listing.objects.iter().filter_map(|object| entry(&object.value)).collect()
}

/// None for what is not of this type.
fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn everything() -> Vec<PolicyRule> {
    let all = || vec!["*".to_owned()];
    vec![
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}

/// Whether two states of an object differ in what keeps it from going at most.
fn is_held_otherwise(old: &Value, new: &Value) -> bool {
    let [old, new] = [old, new].map(|object| {
        let mut rest = object.clone();
        if let Some(metadata) = rest["metadata"].as_object_mut() {
            for field in ["ownerReferences", "finalizers", "resourceVersion", "managedFields", "generation"] {
                metadata.remove(field);
            }
        }
        rest
    });
    old == new
}

/// Those that every ServiceAccount of a namespace is in.
pub(super) fn groups_of_account(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// With those that everybody is in.
pub(super) fn groups(caller: &Caller) -> Vec<String> {
    let common = if matches!(caller, Caller::Known { .. }) { AUTHENTICATED } else { UNAUTHENTICATED };
    let mut groups = caller.groups().to_vec();
    if !groups.iter().any(|group| group == common) {
        groups.push(common.to_owned());
    }
    groups
}

fn of<'a>(caller: &'a Caller, groups: &'a [String]) -> rbac::Caller<'a> {
    rbac::Caller { user: caller.user(), groups }
}

/// A rule as Kubernetes names one that is lacking.
fn shown(rule: &PolicyRule) -> String {
    let field = |name: &str, texts: Option<&Vec<String>>| texts.map(|texts| format!("{name}:{texts:?}"));
    let fields = [
        field("APIGroups", rule.api_groups.as_ref()),
        field("Resources", rule.resources.as_ref()),
        field("ResourceNames", rule.resource_names.as_ref()),
        field("NonResourceURLs", rule.non_resource_urls.as_ref()),
        field("Verbs", Some(&rule.verbs)),
    ];
    format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<_>>().join(", "))
}
