//! The paths of a document: which operations there are, on which kind, with which parameters.

use serde_json::{Map, Value, json};

use super::schemas::list_name;
use crate::discovery::{Below, verbs};
use crate::kind::{Kind, Subresource};

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The paths of these kinds below a root such as `/apis/apps/v1`.
pub(super) fn of(kinds: &[&Kind], root: &str) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let collection = match kind.is_namespaced() {
            true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
            false => format!("{root}/{}", kind.plural),
        };
        if kind.is_namespaced() {
            let everywhere = operations(kind, &["list"], &Object::own(kind));
            paths.insert(format!("{root}/{}", kind.plural), everywhere);
        }
        let has = |verb: &&str| verbs(kind).contains(verb);
        let on_all: Vec<_> = ["list", "create", "deletecollection"].into_iter().filter(|verb| has(verb)).collect();
        let on_one: Vec<_> = ["get", "update", "patch", "delete"].into_iter().filter(|verb| has(verb)).collect();
        paths.insert(format!("{collection}/{{name}}"), operations(kind, &on_one, &Object::own(kind)));
        for subresource in kind.subresources {
            let below = Below::of(kind, *subresource);
            let path = format!("{collection}/{{name}}/{}", below.path);
            paths.insert(path, operations(kind, below.verbs, &Object::below(kind, *subresource, &below)));
        }
        paths.insert(collection, operations(kind, &on_all, &Object::own(kind)));
    }
    paths
}

/// What is read and written under a path.
struct Object {
    identity: Value,
    /// Full names of the schemas of one and of many.
    one: String,
    many: String,
}

impl Object {
    fn own(kind: &Kind) -> Self {
        let identity = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        Self { identity, one: kind.type_name.to_owned(), many: list_name(kind) }
    }

    fn below(kind: &Kind, subresource: Subresource, below: &Below) -> Self {
        let schema = match subresource {
            Subresource::Scale => "io.k8s.api.autoscaling.v1.Scale",
            Subresource::Binding => "io.k8s.api.core.v1.Binding",
            Subresource::Eviction => "io.k8s.api.policy.v1.Eviction",
            Subresource::Token => "io.k8s.api.authentication.v1.TokenRequest",
            Subresource::Status
            | Subresource::Log
            | Subresource::Exec
            | Subresource::PortForward
            | Subresource::Finalize => kind.type_name,
        };
        let (group, version) = match below.version {
            "" => (kind.group, kind.version),
            version => (below.group, version),
        };
        let identity = json!({"group": group, "version": version, "kind": below.kind});
        Self { identity, one: schema.to_owned(), many: String::new() }
    }
}

fn operations(kind: &Kind, verbs: &[&str], object: &Object) -> Value {
    let mut path = Map::new();
    for verb in verbs {
        path.insert(method(verb).to_owned(), operation(kind, verb, object));
    }
    Value::Object(path)
}

fn operation(kind: &Kind, verb: &str, object: &Object) -> Value {
    let is_write = matches!(verb, "create" | "update" | "patch");
    let answer = match verb {
        "list" => json!({"application/json": {"schema": reference(&object.many)}}),
        "deletecollection" => json!({"application/json": {"schema": {"type": "object"}}}),
        _ => json!({"application/json": {"schema": reference(&object.one)}}),
    };
    let mut operation = json!({
        "tags": [kind.api_version().replace('/', "_")],
        "parameters": parameters(verb),
        "responses": {"200": {"description": "OK", "content": answer}},
        "x-kubernetes-action": action(verb),
        "x-kubernetes-group-version-kind": object.identity,
    });
    if is_write {
        operation["requestBody"] = json!({"required": true, "content": body(verb, &object.one)});
    }
    operation
}

fn body(verb: &str, schema: &str) -> Value {
    if verb != "patch" {
        return json!({"*/*": {"schema": reference(schema)}});
    }
    let content =
        PATCH_TYPES.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": {"type": "object"}})));
    Value::Object(content.collect())
}

fn parameters(verb: &str) -> Value {
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "list" | "deletecollection" => {
            &["continue", "fieldSelector", "labelSelector", "limit", "resourceVersion", "timeoutSeconds", "watch"]
        }
        _ => &[],
    };
    names.iter().map(|name| json!({"name": name, "in": "query", "schema": {"type": parameter_type(name)}})).collect()
}

fn parameter_type(name: &str) -> &'static str {
    match name {
        "force" | "watch" => "boolean",
        "gracePeriodSeconds" | "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}
