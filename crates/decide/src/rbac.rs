//! May a caller do this? By roles and bindings, as Kubernetes' RBAC has it: what no rule allows is forbidden.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use objects::selector;

/// Stands for everything.
const ALL: &str = "*";

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub user: &'a str,
    /// With those that everybody is in, such as `system:authenticated`.
    pub groups: &'a [String],
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Something about objects. What does not apply is empty: the namespace of what is asked of all of them, the name of
    /// a list.
    Objects {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    /// A path that leads to no object.
    Path { verb: &'a str, path: &'a str },
}

/// Every role and binding.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// By `namespace/name`.
    pub roles: BTreeMap<String, Role>,
    pub cluster_roles: BTreeMap<String, ClusterRole>,
    pub role_bindings: Vec<RoleBinding>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
}

impl Grants {
    /// Why the caller may, in Kubernetes' words. None: it may not.
    #[must_use]
    pub fn allow(&self, caller: Caller<'_>, ask: Ask<'_>) -> Option<String> {
        let namespace = match ask {
            Ask::Objects { namespace, .. } => namespace,
            Ask::Path { .. } => "",
        };
        self.given_to(caller, namespace).find(|given| allows(given.rules, ask)).map(|given| given.reason())
    }

    /// Every rule that holds for the caller in a namespace; with none, those that hold everywhere.
    #[must_use]
    pub fn rules(&self, caller: Caller<'_>, namespace: &str) -> Vec<&PolicyRule> {
        self.given_to(caller, namespace).flat_map(|given| given.rules).collect()
    }

    /// The rules that a binding in a namespace would give; None where there is no such role.
    #[must_use]
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&[PolicyRule]> {
        match role.kind.as_str() {
            "ClusterRole" => Some(rules(&self.cluster_roles.get(&role.name)?.rules)),
            "Role" => Some(rules(&self.roles.get(&format!("{namespace}/{}", role.name))?.rules)),
            _ => None,
        }
    }

    /// What is asked for in `wanted` and the caller doesn't have in a namespace: nobody gives away what is not theirs.
    #[must_use]
    pub fn lacking(&self, caller: Caller<'_>, namespace: &str, wanted: &[PolicyRule]) -> Vec<PolicyRule> {
        let owned = self.rules(caller, namespace);
        wanted.iter().flat_map(single).filter(|one| !owned.iter().any(|rule| covers(rule, one))).collect()
    }

    fn given_to<'g, 'c>(
        &'g self,
        caller: Caller<'c>,
        namespace: &'c str,
    ) -> impl Iterator<Item = Given<'g>> + use<'g, 'c> {
        let everywhere = self.cluster_role_bindings.iter().filter_map(move |binding| {
            let subject = binding.subjects.iter().flatten().find(|subject| is_about(subject, caller, ""))?;
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            let rules = self.rules_of(&binding.role_ref, "")?;
            Some(Given {
                kind: "ClusterRoleBinding",
                binding: name.to_owned(),
                role: &binding.role_ref,
                subject,
                rules,
            })
        });
        let here = self.role_bindings.iter().filter_map(move |binding| {
            let of = binding.metadata.namespace.as_deref().unwrap_or_default();
            let subject = binding.subjects.iter().flatten().find(|subject| is_about(subject, caller, of))?;
            let rules = self.rules_of(&binding.role_ref, of).filter(|_| !namespace.is_empty() && of == namespace)?;
            let name = format!("{}/{of}", binding.metadata.name.as_deref().unwrap_or_default());
            Some(Given { kind: "RoleBinding", binding: name, role: &binding.role_ref, subject, rules })
        });
        everywhere.chain(here)
    }
}

/// The rules that a role is to have which others are put into; None for one that says its own.
#[must_use]
pub fn aggregated(role: &ClusterRole, all: &[ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let is_selected = |other: &&ClusterRole| {
        let labels = other.metadata.labels.clone().unwrap_or_default();
        other.metadata.name != role.metadata.name && selectors.iter().any(|it| selector::matches(it, &labels))
    };
    let mut selected: Vec<&ClusterRole> = all.iter().filter(is_selected).collect();
    selected.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    let mut together: Vec<PolicyRule> = Vec::new();
    for rule in selected.into_iter().flat_map(|other| rules(&other.rules)) {
        if !together.contains(rule) {
            together.push(rule.clone());
        }
    }
    Some(together)
}

/// Rules that a binding gives to a caller.
struct Given<'g> {
    kind: &'static str,
    binding: String,
    role: &'g RoleRef,
    subject: &'g Subject,
    rules: &'g [PolicyRule],
}

impl Given<'_> {
    fn reason(&self) -> String {
        let Self { kind, binding, role, subject, .. } = self;
        let whom = match subject.namespace.as_deref() {
            Some(namespace) if subject.kind == "ServiceAccount" => format!("{}/{namespace}", subject.name),
            Some(_) | None => subject.name.clone(),
        };
        format!(
            "RBAC: allowed by {kind} \"{binding}\" of {} \"{}\" to {} \"{whom}\"",
            role.kind, role.name, subject.kind
        )
    }
}

/// `namespace` is the binding's, for a ServiceAccount that names none.
fn is_about(subject: &Subject, caller: Caller<'_>, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == caller.user,
        "Group" => caller.groups.contains(&subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().filter(|own| !own.is_empty()).unwrap_or(namespace);
            !namespace.is_empty() && caller.user == format!("system:serviceaccount:{namespace}:{}", subject.name)
        }
        _ => false,
    }
}

fn rules(rules: &Option<Vec<PolicyRule>>) -> &[PolicyRule] {
    rules.as_deref().unwrap_or_default()
}

fn allows(rules: &[PolicyRule], ask: Ask<'_>) -> bool {
    rules.iter().any(|rule| match ask {
        Ask::Objects { verb, group, resource, subresource, name, .. } => {
            has(&rule.verbs, verb)
                && has(list(&rule.api_groups), group)
                && has_resource(list(&rule.resources), resource, subresource)
                && (list(&rule.resource_names).is_empty() || list(&rule.resource_names).iter().any(|it| it == name))
        }
        Ask::Path { verb, path } => has(&rule.verbs, verb) && has_path(list(&rule.non_resource_urls), path),
    })
}

fn list(texts: &Option<Vec<String>>) -> &[String] {
    texts.as_deref().unwrap_or_default()
}

fn has(texts: &[String], text: &str) -> bool {
    texts.iter().any(|it| it == ALL || it == text)
}

fn has_resource(resources: &[String], resource: &str, subresource: &str) -> bool {
    let whole = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
    let of_all = |it: &str| !subresource.is_empty() && it.strip_prefix("*/") == Some(subresource);
    resources.iter().any(|it| it == ALL || *it == whole || of_all(it))
}

fn has_path(paths: &[String], path: &str) -> bool {
    paths.iter().any(|it| it == path || it.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix)))
}

/// A rule as rules of one thing each.
fn single(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &str| Some(vec![text.to_owned()]);
    let mut all = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for path in list(&rule.non_resource_urls) {
            all.push(PolicyRule { verbs: verbs.clone(), non_resource_urls: one(path), ..PolicyRule::default() });
        }
        for (group, resource) in pairs(list(&rule.api_groups), list(&rule.resources)) {
            let of = PolicyRule {
                verbs: verbs.clone(),
                api_groups: one(group),
                resources: one(resource),
                ..PolicyRule::default()
            };
            match list(&rule.resource_names) {
                [] => all.push(of),
                names => all.extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..of.clone() })),
            }
        }
    }
    all
}

fn pairs<'a>(one: &'a [String], other: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
    one.iter().flat_map(|first| other.iter().map(move |second| (first.as_str(), second.as_str())))
}

/// Whether whoever has `rule` has `one`, which is of one thing.
fn covers(rule: &PolicyRule, one: &PolicyRule) -> bool {
    let first = |texts: &Option<Vec<String>>| list(texts).first().cloned();
    let verb = one.verbs.first().map_or("", String::as_str);
    if let Some(path) = first(&one.non_resource_urls) {
        return has(&rule.verbs, verb) && has_path(list(&rule.non_resource_urls), &path);
    }
    let (group, resource) = (first(&one.api_groups).unwrap_or_default(), first(&one.resources).unwrap_or_default());
    let (resource, subresource) = resource.split_once('/').unwrap_or((&resource, ""));
    let names: BTreeSet<&String> = list(&rule.resource_names).iter().collect();
    has(&rule.verbs, verb)
        && has(list(&rule.api_groups), &group)
        && has_resource(list(&rule.resources), resource, subresource)
        && (names.is_empty() || first(&one.resource_names).is_some_and(|name| names.contains(&name)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grants() -> Grants {
        let read =
            |rules: Value| serde_json::from_value(json!({"metadata": {"name": "r", "namespace": "n"}, "rules": rules}));
        let cluster = |name: &str, labels: Value, rules: Value| {
            let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
            (name.to_owned(), serde_json::from_value(role).unwrap())
        };
        let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        let pods = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
            {"verbs": ["update"], "apiGroups": ["apps"], "resources": ["*/scale"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}]);
        let one = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}]);
        let binding = |namespace: Value, role: &str, name: &str, subject: Value| {
            json!({"metadata": {"name": "b", "namespace": namespace}, "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name}})
        };
        let of = |kind: &str, name: &str| json!({"kind": kind, "name": name});
        Grants {
            roles: [("n/r".to_owned(), read(one).unwrap())].into(),
            cluster_roles: [cluster("all", json!({}), everything), cluster("pods", json!({"aggregate": "yes"}), pods)]
                .into(),
            role_bindings: [
                binding(json!("n"), "Role", "r", of("User", "ann")),
                binding(json!("n"), "ClusterRole", "pods", of("ServiceAccount", "robot")),
            ]
            .map(|it| serde_json::from_value(it).unwrap())
            .into(),
            cluster_role_bindings: [
                binding(json!(null), "ClusterRole", "all", of("Group", "admins")),
                binding(json!(null), "ClusterRole", "pods", of("User", "bob")),
                binding(json!(null), "ClusterRole", "missing", of("User", "eve")),
            ]
            .map(|it| serde_json::from_value(it).unwrap())
            .into(),
        }
    }

    fn objects<'a>(text: &'a str) -> Ask<'a> {
        let parts: Vec<&str> = text.split(' ').collect();
        let [verb, group, resource, subresource, namespace, name] = parts[..] else { panic!("{text}") };
        let part = |text: &'a str| if text == "-" { "" } else { text };
        Ask::Objects {
            verb,
            group: part(group),
            resource,
            subresource: part(subresource),
            namespace: part(namespace),
            name: part(name),
        }
    }

    #[test]
    fn what_no_rule_allows_is_forbidden() {
        let grants = grants();
        let table = [
            ("ann", "get - secrets - n a", true),
            ("ann", "get - secrets - n b", false),
            ("ann", "list - secrets - n -", false),
            ("ann", "get - secrets - other a", false),
            ("ann", "get - pods - n -", false),
            ("bob", "get - pods - n x", true),
            ("bob", "list - pods - - -", true),
            ("bob", "get - pods log n x", true),
            ("bob", "get - pods exec n x", false),
            ("bob", "delete - pods - n x", false),
            ("bob", "get apps pods - n x", false),
            ("bob", "update apps deployments scale n x", true),
            ("bob", "update apps deployments - n x", false),
            ("eve", "get - pods - n x", false),
            ("system:serviceaccount:n:robot", "get - pods - n x", true),
            ("system:serviceaccount:n:robot", "get - pods - - -", false),
            ("system:serviceaccount:n:robot", "get - pods - other x", false),
            ("system:serviceaccount:other:robot", "get - pods - n x", false),
        ];
        for (user, asked, expected) in table {
            let caller = Caller { user, groups: &[] };
            assert_eq!(grants.allow(caller, objects(asked)).is_some(), expected, "{user}: {asked}");
        }
        let admin = Caller { user: "x", groups: &["admins".to_owned()] };
        assert_eq!(
            grants.allow(admin, objects("delete apps anything at n -")).unwrap(),
            "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"all\" to Group \"admins\""
        );
    }

    #[test]
    fn paths_are_matched_whole_or_by_their_beginning() {
        let grants = grants();
        let bob = Caller { user: "bob", groups: &[] };
        for (path, expected) in [("/healthz/ping", true), ("/healthz", false), ("/metrics", false)] {
            assert_eq!(grants.allow(bob, Ask::Path { verb: "get", path }).is_some(), expected, "{path}");
        }
    }

    #[test]
    fn nobody_gives_away_what_is_not_theirs() {
        let grants = grants();
        let wanted: Vec<PolicyRule> = serde_json::from_value(json!([
            {"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]},
        ]))
        .unwrap();
        let lacking = |user: &str, groups: &[String]| {
            let lacking = grants.lacking(Caller { user, groups }, "n", &wanted);
            lacking
                .iter()
                .map(|rule| format!("{} {:?} {:?}", rule.verbs[0], rule.resources, rule.resource_names))
                .collect::<Vec<_>>()
        };
        assert_eq!(lacking("x", &["admins".to_owned()]), [""; 0]);
        assert_eq!(
            lacking("bob", &[]),
            [
                "delete Some([\"pods\"]) None",
                "get Some([\"secrets\"]) Some([\"a\"])",
                "get Some([\"secrets\"]) Some([\"b\"])"
            ]
        );
        assert_eq!(lacking("ann", &[]).len(), 3, "two of pods, and the secret that she may not get");
    }

    #[test]
    fn an_aggregated_role_has_the_rules_of_those_that_it_selects() {
        let all: Vec<ClusterRole> = grants().cluster_roles.into_values().collect();
        let selecting = |labels: Value| -> ClusterRole {
            let selectors = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            serde_json::from_value(json!({"metadata": {"name": "sum"}, "aggregationRule": selectors})).unwrap()
        };
        assert_eq!(aggregated(&selecting(json!({"aggregate": "yes"})), &all).unwrap().len(), 3);
        assert_eq!(aggregated(&selecting(json!({"aggregate": "no"})), &all), Some(Vec::new()));
        assert_eq!(aggregated(&ClusterRole::default(), &all), None);
    }
}
