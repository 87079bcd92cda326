//! Which versions, groups and resources are served, in the forms that clients ask for: the old lists, one answer each,
//! and the aggregated list that tells all at once.

use serde_json::{Value, json};

use crate::kind::{Kind, Scope, Subresource};
use crate::kinds;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const READING: [&str; 3] = ["get", "list", "watch"];

/// `/api`: the versions of the core group.
#[must_use]
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": versions_of(""), "serverAddressByClientCIDRs": []})
}

/// `/apis`: every group but the core one.
#[must_use]
pub fn groups() -> Value {
    let groups: Vec<_> = named_groups().iter().map(|name| group_fields(name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`; None when it is not served.
#[must_use]
pub fn group(name: &str) -> Option<Value> {
    if !named_groups().contains(&name) {
        return None;
    }
    let mut group = group_fields(name);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

/// `/api/VERSION` (of the group "") or `/apis/GROUP/VERSION`; None when it is not served.
#[must_use]
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<_> = kinds_of(group, version).iter().flat_map(|kind| resource_and_below(kind)).collect();
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": resources,
    }))
}

/// `/api` in the aggregated form, of version `v2` or `v2beta1` of `apidiscovery.k8s.io`.
#[must_use]
pub fn aggregated_core(version: &str) -> Value {
    aggregated(version, &[""])
}

/// `/apis` in the aggregated form, of version `v2` or `v2beta1` of `apidiscovery.k8s.io`.
#[must_use]
pub fn aggregated_groups(version: &str) -> Value {
    aggregated(version, &named_groups())
}

/// Every group and version that is served.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found: Vec<_> = kinds::all().iter().map(|kind| (kind.group, kind.version)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The kinds of a group and version, by plural name.
pub(crate) fn kinds_of(group: &str, version: &str) -> Vec<&'static Kind> {
    let is_of = |kind: &&Kind| kind.group == group && kind.version == version;
    let mut found: Vec<_> = kinds::all().iter().filter(is_of).collect();
    found.sort_by_key(|kind| kind.plural);
    found
}

/// `v1` or `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// What may be done with a kind's objects.
pub(crate) fn verbs(kind: &Kind) -> Vec<&'static str> {
    let is_possible = |verb: &&str| match kind.kind {
        _ if kind.is_computed => READING.contains(verb),
        _ if kind.is_answered => *verb == "create",
        // Deleting all namespaces at once is more than anybody means.
        "Namespace" => *verb != "deletecollection",
        _ => true,
    };
    VERBS.into_iter().filter(is_possible).collect()
}

/// The path below an object, the kind that is read and written there, and what may be done.
pub(crate) struct Below {
    pub(crate) path: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

impl Below {
    /// Describes a subresource of a kind; group and version are empty where they are the kind's own.
    pub(crate) fn of(kind: &Kind, subresource: Subresource) -> Self {
        let own = |path, verbs| Self { path, group: "", version: "", kind: kind.kind, verbs };
        match subresource {
            Subresource::Status => own("status", &["get", "patch", "update"]),
            Subresource::Log => own("log", &["get"]),
            Subresource::Exec => Self { kind: "PodExecOptions", ..own("exec", &["create", "get"]) },
            Subresource::PortForward => {
                Self { kind: "PodPortForwardOptions", ..own("portforward", &["create", "get"]) }
            }
            Subresource::Finalize => own("finalize", &["update"]),
            Subresource::Binding => Self { kind: "Binding", ..own("binding", &["create"]) },
            Subresource::Eviction => {
                Self { group: "policy", version: "v1", kind: "Eviction", ..own("eviction", &["create"]) }
            }
            Subresource::Token => Self {
                group: "authentication.k8s.io",
                version: "v1",
                kind: "TokenRequest",
                ..own("token", &["create"])
            },
            Subresource::Scale => {
                Self { group: "autoscaling", version: "v1", kind: "Scale", ..own("scale", &["get", "patch", "update"]) }
            }
        }
    }
}

fn named_groups() -> Vec<&'static str> {
    let mut found: Vec<_> = kinds::all().iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn versions_of(group: &str) -> Vec<&'static str> {
    group_versions().into_iter().filter(|(found, _)| *found == group).map(|(_, version)| version).collect()
}

fn group_fields(group: &str) -> Value {
    let version = |version: &str| json!({"groupVersion": group_version(group, version), "version": version});
    let versions: Vec<_> = versions_of(group).into_iter().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

fn resource_and_below(kind: &Kind) -> Vec<Value> {
    let mut resource = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.is_namespaced(), "kind": kind.kind,
        "verbs": verbs(kind),
    });
    add_names(&mut resource, kind);
    let below = kind.subresources.iter().map(|subresource| {
        let below = Below::of(kind, *subresource);
        let mut resource = json!({
            "name": format!("{}/{}", kind.plural, below.path), "singularName": "", "namespaced": kind.is_namespaced(),
            "kind": below.kind, "verbs": below.verbs,
        });
        if !below.version.is_empty() {
            resource["group"] = json!(below.group);
            resource["version"] = json!(below.version);
        }
        resource
    });
    std::iter::once(resource).chain(below).collect()
}

fn add_names(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

fn aggregated(version: &str, groups: &[&str]) -> Value {
    let items: Vec<_> = groups.iter().map(|group| aggregated_group(group)).collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_group(group: &str) -> Value {
    let versions: Vec<_> = versions_of(group)
        .into_iter()
        .map(|version| {
            let resources: Vec<_> = kinds_of(group, version).into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let meta = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": meta, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let scope = match kind.scope {
        Scope::Cluster => "Cluster",
        Scope::Namespaced => "Namespaced",
    };
    let mut resource = json!({
        "resource": kind.plural, "responseKind": {"group": "", "version": "", "kind": kind.kind}, "scope": scope,
        "singularResource": kind.singular, "verbs": verbs(kind),
    });
    add_names(&mut resource, kind);
    let mut below: Vec<_> = kind.subresources.iter().map(|subresource| Below::of(kind, *subresource)).collect();
    below.sort_by_key(|below| below.path);
    if !below.is_empty() {
        resource["subresources"] = below.iter().map(aggregated_below).collect();
    }
    resource
}

fn aggregated_below(below: &Below) -> Value {
    json!({
        "subresource": below.path,
        "responseKind": {"group": below.group, "version": below.version, "kind": below.kind},
        "verbs": below.verbs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
        list.as_array().unwrap().iter().find(|item| item[key] == name).unwrap()
    }

    #[test]
    fn groups_prefer_their_served_version() {
        let group = named(&groups()["groups"], "name", "autoscaling").clone();
        let preferred = json!({"groupVersion": "autoscaling/v2", "version": "v2"});
        assert_eq!(group["preferredVersion"], preferred);
        assert_eq!(core_versions()["versions"], json!(["v1"]));
        assert_eq!(super::group("autoscaling").unwrap()["preferredVersion"], preferred);
        assert!(super::group("batch.example.com").is_none() && super::group("").is_none());
    }

    #[test]
    fn resources_are_listed_with_what_is_below_them() {
        let apps = resources("apps", "v1").unwrap();
        assert_eq!(apps["groupVersion"], "apps/v1");
        assert_eq!(
            named(&apps["resources"], "name", "deployments"),
            &json!({
                "name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": VERBS, "shortNames": ["deploy"], "categories": ["all"],
            })
        );
        assert_eq!(
            named(&apps["resources"], "name", "deployments/scale"),
            &json!({
                "name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale",
                "group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"],
            })
        );
        let core = resources("", "v1").unwrap();
        assert_eq!(named(&core["resources"], "name", "pods/log")["verbs"], json!(["get"]));
        let verbs = &named(&core["resources"], "name", "namespaces")["verbs"];
        assert!(!verbs.as_array().unwrap().contains(&json!("deletecollection")));
        assert!(resources("apps", "v9").is_none());
    }

    #[test]
    fn aggregated_form_tells_all_at_once() {
        let list = aggregated_groups("v2");
        assert_eq!(list["apiVersion"], "apidiscovery.k8s.io/v2");
        let apps = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "apps").unwrap();
        assert_eq!(
            named(&apps["versions"][0]["resources"], "resource", "replicasets"),
            &json!({
                "resource": "replicasets", "responseKind": {"group": "", "version": "", "kind": "ReplicaSet"},
                "scope": "Namespaced", "singularResource": "replicaset", "verbs": VERBS, "shortNames": ["rs"],
                "categories": ["all"], "subresources": [
                    {"subresource": "scale", "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                     "verbs": ["get", "patch", "update"]},
                    {"subresource": "status", "responseKind": {"group": "", "version": "", "kind": "ReplicaSet"},
                     "verbs": ["get", "patch", "update"]},
                ],
            })
        );
        assert_eq!(aggregated_core("v2beta1")["items"][0]["versions"][0]["version"], "v1");
    }
}
