//! Refusals in the words of what the API was asked, over the general ones of `objects::status`.

use objects::kind::Kind;
use objects::status::Failure;
use objects::validation::Cause;

use super::Place;

/// The forms that are answered in.
const SERVED: &str = "application/json";

pub(super) fn not_found(place: &Place) -> Failure {
    Failure::not_found(place.kind.group, place.kind.plural, place.name())
}

pub(super) fn already_exists(kind: &Kind, name: &str) -> Failure {
    Failure::already_exists(kind.group, kind.plural, name)
}

pub(super) fn conflict(place: &Place, why: &str) -> Failure {
    Failure::conflict(place.kind.group, place.kind.plural, place.name(), why)
}

pub(super) fn modified(place: &Place) -> Failure {
    Failure::modified(place.kind.group, place.kind.plural, place.name())
}

pub(super) fn uid_differs(place: &Place, wanted: &str, found: &str) -> Failure {
    conflict(place, &format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"))
}

/// 409 for a deletion whose precondition does not hold; such failures name the kind, not the resource.
pub(super) fn deletion_precondition(place: &Place, why: &str) -> Failure {
    Failure::conflict(place.kind.group, place.kind.kind, place.name(), why)
}

/// 422: what a patch makes of the object can't be decoded.
pub(super) fn invalid_patch(sentence: &str) -> Failure {
    let cause = Cause { reason: "FieldValueInvalid", field: "patch".to_owned(), message: sentence.to_owned() };
    Failure::invalid("", "", "", vec![cause])
}

/// 406: metadata of one object was asked for where there are many.
pub(super) fn list_is_no_object(place: &Place) -> Failure {
    let sentence =
        format!("you requested PartialObjectMetadata, but the requested object is a list ({}List)", place.kind.kind);
    Failure { message: sentence, ..not_acceptable() }
}

/// 429 for an eviction that a disruption budget doesn't allow now.
pub(super) fn over_budget(sentence: &str) -> Failure {
    let cause = Cause { reason: "DisruptionBudget", field: String::new(), message: sentence.to_owned() };
    Failure::used_up("Cannot evict pod as it would violate the pod's disruption budget.", cause)
}

pub(super) fn not_acceptable() -> Failure {
    Failure::not_acceptable(SERVED)
}

/// 422 for an option of a request: `subject` is its type, e.g. `ListOptions`.
pub(super) fn option(subject: &str, cause: Cause) -> Failure {
    Failure::invalid("meta.k8s.io", subject, "", vec![cause])
}

/// The cause that an option may not stand there.
pub(super) fn forbidden_option(field: &str, sentence: &str) -> Cause {
    Cause { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {sentence}") }
}

/// The cause that an option has none of the values that it may have; `supported` lists them in quotes.
pub(super) fn unsupported_option(field: &str, value: &str, supported: &str) -> Cause {
    let message = format!("Unsupported value: {value}: supported values: {supported}");
    Cause { reason: "FieldValueNotSupported", field: field.to_owned(), message }
}

/// The cause that an option's value makes no sense.
pub(super) fn invalid_option(field: &str, value: &str, sentence: &str) -> Cause {
    let message = format!("Invalid value: {value}: {sentence}");
    Cause { reason: "FieldValueInvalid", field: field.to_owned(), message }
}

/// 403: nothing can be created in a namespace that is going away.
pub(super) fn namespace_terminating(kind: &Kind, name: &str, namespace: &str) -> Failure {
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = Cause {
        reason: "NamespaceTerminating",
        field: "metadata.namespace".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
    };
    Failure::forbidden(kind.group, kind.plural, name, &why).because(cause)
}

/// 504: a revision was asked for that has not been reached.
pub(super) fn revision_not_reached(wanted: u64, current: u64) -> Failure {
    let cause = Cause {
        reason: "ResourceVersionTooLarge",
        field: String::new(),
        message: "Too large resource version".to_owned(),
    };
    Failure::timeout(format!("Timeout: Too large resource version: {wanted}, current: {current}"), 1).because(cause)
}

/// 403 for a path that stands for no object.
pub(super) fn forbidden_path(user: &str, verb: &str, path: &str) -> Failure {
    let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{path}\"");
    Failure { code: 403, reason: "Forbidden", message, details: Some(Box::default()) }
}
