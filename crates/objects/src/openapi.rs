//! The OpenAPI documents: what kubectl needs to explain fields, to merge patches on its side, and to know that the
//! server refuses unknown fields. Documents are made on demand and not kept; they are large and rarely asked for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::discovery::{group_versions, kinds_of};
use crate::kind::Kind;
use crate::kinds;

mod paths;
mod schemas;

/// Clients keep documents by this number, so it changes when a document does.
static HASHES: LazyLock<BTreeMap<String, u64>> = LazyLock::new(|| {
    let hash = |group: &str, version: &str| {
        let mut hasher = DefaultHasher::new();
        document(group, version).map(|document| document.to_string()).hash(&mut hasher);
        hasher.finish()
    };
    group_versions().into_iter().map(|(group, version)| (root(group, version), hash(group, version))).collect()
});

/// `/openapi/v3`: where the document of each group and version is.
#[must_use]
pub fn index() -> Value {
    let address = |(root, hash): (&String, &u64)| {
        (root.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{root}?hash={hash:016X}")}))
    };
    json!({"paths": HASHES.iter().map(address).collect::<serde_json::Map<_, _>>()})
}

/// `/openapi/v3/api/VERSION` (of the group "") or `/openapi/v3/apis/GROUP/VERSION`; None when it is not served.
#[must_use]
pub fn document(group: &str, version: &str) -> Option<Value> {
    let kinds = kinds_of(group, version);
    if kinds.is_empty() {
        return None;
    }
    let mut generator_settings = SchemaSettings::openapi3();
    generator_settings.definitions_path = "/components/schemas".into();
    let schemas = schemas::of(&kinds, SchemaGenerator::new(generator_settings), schemas::Dialect::OpenApi3);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36"},
        "paths": paths::of(&kinds, &format!("/{}", root(group, version))),
        "components": {"schemas": schemas},
    }))
}

/// `/openapi/v2`: the definitions of all types in the old form, for clients that look there when they can't read the
/// new one.
#[must_use]
pub fn swagger() -> Value {
    let all: Vec<&Kind> = kinds::all().iter().collect();
    let mut generator_settings = SchemaSettings::draft07();
    generator_settings.definitions_path = "/definitions".into();
    generator_settings.transforms.clear();
    let definitions = schemas::of(&all, SchemaGenerator::new(generator_settings), schemas::Dialect::Swagger);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36"},
        "paths": {},
        "definitions": definitions,
    })
}

/// `/openapi/v2` as the protobuf message `openapi.v2.Document` with fields 1 (`swagger`), 2 (`info`: `title` and
/// `version`) and 8 (`paths`, empty), and no definition at all.
pub const SWAGGER_WITHOUT_KINDS: &[u8] = b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.36\x42\x00";

/// `api/v1` or `apis/apps/v1`.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_names_every_group_and_version() {
        let index = index();
        let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(address.starts_with("/openapi/v3/apis/apps/v1?hash="), "{address}");
        assert_eq!(index["paths"].as_object().unwrap().len(), group_versions().len());
        assert!(document("apps", "v9").is_none());
    }

    #[test]
    fn kubectl_finds_field_validation_by_kind() {
        let document = document("apps", "v1").unwrap();
        let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let patch = &path["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let has = |operation: &Value, name: &str| {
            operation["parameters"].as_array().unwrap().iter().any(|parameter| parameter["name"] == name)
        };
        assert!(has(patch, "fieldValidation") && has(patch, "fieldManager") && has(&path["put"], "dryRun"));
        assert!(!has(&path["get"], "fieldValidation"));
    }

    #[test]
    fn schemas_say_how_lists_are_merged() {
        let document = document("apps", "v1").unwrap();
        let schemas = &document["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"], "atomic");
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let mut documents: Vec<_> =
            group_versions().into_iter().map(|(group, version)| document(group, version).unwrap()).collect();
        documents.push(swagger());
        for document in documents {
            let mut references = Vec::new();
            collect_references(&document, &mut references);
            assert!(references.len() > 20);
            for reference in references {
                assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
        }
    }

    fn collect_references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| collect_references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}
