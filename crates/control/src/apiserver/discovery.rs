//! What the API says about itself: versions, groups, resources, OpenAPI.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use objects::status::Failure;
use objects::{discovery, openapi};
use serde_json::{Value, json};

use super::request::Target;
use super::{Answer, Asked, Body, answer};

const SWAGGER_AS_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The Kubernetes version whose API this is.
const KUBERNETES_MINOR: &str = "36";

pub(super) fn answer(target: &Target, asked: &Asked) -> Answer {
    let version = aggregated(asked);
    let found = match (target, version) {
        (Target::CoreVersions, None) => Some(discovery::core_versions()),
        (Target::CoreVersions, Some(version)) => {
            return Ok(aggregated_answer(version, &discovery::aggregated_core(version)));
        }
        (Target::Groups, None) => Some(discovery::groups()),
        (Target::Groups, Some(version)) => {
            return Ok(aggregated_answer(version, &discovery::aggregated_groups(version)));
        }
        (Target::Group(group), _) => discovery::group(group),
        (Target::GroupVersion { group, version }, _) => discovery::resources(group, version),
        (Target::Swagger, _) if accepts(asked, SWAGGER_AS_PROTOBUF) => return Ok(swagger_as_protobuf()),
        (Target::Swagger, _) => Some(openapi::swagger()),
        (Target::OpenApiIndex, _) => Some(openapi::index()),
        (Target::OpenApi { group, version }, _) => openapi::document(group, version),
        (Target::Health | Target::Version | Target::Metrics | Target::Objects(_) | Target::Nothing, _) => None,
    };
    match found {
        Some(value) => Ok(answer::json(StatusCode::OK, &value, &[])),
        None if is_of_a_served_group(&asked.path) => Err(Failure::no_such_resource()),
        None => Ok(answer::page_not_found()),
    }
}

fn accepts(asked: &Asked, media_type: &str) -> bool {
    asked.headers.get(ACCEPT).is_some_and(|accept| accept.to_str().is_ok_and(|accept| accept.contains(media_type)))
}

/// kubectl asks for this form when a kind is not in OpenAPI v3. That it is not here either lets kubectl go on, and be
/// told that there is no such kind.
fn swagger_as_protobuf() -> Response<Body> {
    let mut answer = Response::new(answer::full(Bytes::from_static(openapi::SWAGGER_WITHOUT_KINDS)));
    // Asked for with an @, which no media type may have, and so answered with a dot.
    let media_type = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

/// Clients tell the aggregated form by the answer's media type.
fn aggregated_answer(version: &str, value: &Value) -> Response<Body> {
    let mut answer = answer::json(StatusCode::OK, value, &[]);
    let media_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// Below a group that is served, what is missing is told by a Status; elsewhere there is just no such page.
fn is_of_a_served_group(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next(), parts.next()) {
        (Some("api"), Some(_)) => true,
        (Some("apis"), Some(group)) => discovery::group(group).is_some(),
        _ => false,
    }
}

pub(super) fn version() -> Response<Body> {
    let version = json!({
        "major": "1", "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+segue-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    });
    answer::json(StatusCode::OK, &version, &[])
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The version of aggregated discovery that the client would rather have, if any.
fn aggregated(asked: &Asked) -> Option<&'static str> {
    let accept = asked.headers.get(ACCEPT)?.to_str().ok()?;
    let first = accept.split(',').find(|part| part.contains("as=APIGroupDiscoveryList"))?;
    match first.split(';').find_map(|parameter| parameter.trim().strip_prefix("v=")) {
        Some("v2") => Some("v2"),
        Some("v2beta1") => Some("v2beta1"),
        _ => None,
    }
}
