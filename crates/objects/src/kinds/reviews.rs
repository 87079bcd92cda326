//! Reviews: questions about who may do what, answered when they are posted.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview};
use serde_json::Value;

use super::add_type;
use crate::kind::{Kind, PLAIN, Scope};
use crate::table;
use crate::validation::{At, Cause};

const ANSWERED: Kind = Kind {
    group: "authorization.k8s.io",
    scope: Scope::Cluster,
    is_answered: true,
    columns: &[table::NAME],
    row: |object, _| vec![table::name(object)],
    validate: |_| Vec::new(),
    ..PLAIN
};

pub(super) const SELF_ACCESS: Kind = Kind {
    kind: "SelfSubjectAccessReview",
    plural: "selfsubjectaccessreviews",
    singular: "selfsubjectaccessreview",
    type_name: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    add_types: add_type::<SelfSubjectAccessReview>,
    validate: check_question,
    ..ANSWERED
};

pub(super) const ACCESS: Kind = Kind {
    kind: "SubjectAccessReview",
    plural: "subjectaccessreviews",
    singular: "subjectaccessreview",
    type_name: "io.k8s.api.authorization.v1.SubjectAccessReview",
    add_types: add_type::<SubjectAccessReview>,
    validate: |object| {
        let mut causes = check_question(object);
        let spec = At::root(object).field("spec");
        if spec.field("user").is_empty() && spec.field("groups").is_empty() {
            causes.push(spec.field("user").invalid("at least one of user or group must be specified"));
        }
        causes
    },
    ..ANSWERED
};

pub(super) const SELF_RULES: Kind = Kind {
    kind: "SelfSubjectRulesReview",
    plural: "selfsubjectrulesreviews",
    singular: "selfsubjectrulesreview",
    type_name: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    add_types: add_type::<SelfSubjectRulesReview>,
    validate: |object| match At::root(object).field("spec").field("namespace") {
        namespace if namespace.is_empty() => vec![namespace.required("namespace is required")],
        _ => Vec::new(),
    },
    ..ANSWERED
};

pub(super) const WHO_AM_I: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    type_name: "io.k8s.api.authentication.v1.SelfSubjectReview",
    add_types: add_type::<SelfSubjectReview>,
    ..ANSWERED
};

pub(super) const TOKEN: Kind = Kind {
    group: "authentication.k8s.io",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    type_name: "io.k8s.api.authentication.v1.TokenReview",
    add_types: add_type::<TokenReview>,
    validate: |object| match At::root(object).field("spec").field("token") {
        token if token.is_empty() => vec![token.required("a TokenReview is about a token")],
        _ => Vec::new(),
    },
    ..ANSWERED
};

fn check_question(object: &Value) -> Vec<Cause> {
    let spec = At::root(object).field("spec");
    let (resource, path) = (spec.field("resourceAttributes"), spec.field("nonResourceAttributes"));
    match (resource.is_given(), path.is_given()) {
        (true, true) => vec![path.invalid("cannot be specified in combination with resourceAttributes")],
        (false, false) => {
            vec![resource.invalid("exactly one of nonResourceAttributes or resourceAttributes must be specified")]
        }
        (true, false) | (false, true) => Vec::new(),
    }
}
