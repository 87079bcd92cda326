//! Mistakes in security contexts of pods and containers.

use crate::validation::{At, Cause, check_one_of};

const HIGHEST_ID: i64 = i32::MAX as i64;

/// Mistakes in a pod's own security context.
pub(super) fn check_pod(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let context = spec.field("securityContext");
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        check_id(&context.field(name), causes);
    }
    for group in context.field("supplementalGroups").items() {
        check_id(&group, causes);
    }
    check_one_of(&context.field("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], causes);
    check_seccomp(&context.field("seccompProfile"), causes);
    if spec.field("shareProcessNamespace").is_true() && spec.field("hostPID").is_true() {
        causes.push(
            spec.field("shareProcessNamespace").invalid("ShareProcessNamespace and HostPID cannot both be enabled"),
        );
    }
}

/// Mistakes in a container's security context.
pub(super) fn check_container(context: &At<'_>, causes: &mut Vec<Cause>) {
    for name in ["runAsUser", "runAsGroup"] {
        check_id(&context.field(name), causes);
    }
    check_seccomp(&context.field("seccompProfile"), causes);
    check_one_of(&context.field("procMount"), &["Default", "Unmasked"], causes);
    let escalation = context.field("allowPrivilegeEscalation");
    if escalation.value != false {
        return;
    }
    if context.field("privileged").is_true() {
        causes.push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
    }
    let added = context.field("capabilities").field("add");
    if added.items().any(|capability| capability.text() == "CAP_SYS_ADMIN") {
        causes.push(
            context.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"),
        );
    }
}

fn check_id(id: &At<'_>, causes: &mut Vec<Cause>) {
    if id.number().is_some_and(|number| !(0..=HIGHEST_ID).contains(&number)) {
        causes.push(id.invalid(&format!("must be between 0 and {HIGHEST_ID}, inclusive")));
    }
}

fn check_seccomp(profile: &At<'_>, causes: &mut Vec<Cause>) {
    if !profile.is_given() {
        return;
    }
    let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
    match kind.text() {
        "Localhost" if local.is_empty() => causes.push(local.required("must be set when seccomp type is Localhost")),
        "" => causes.push(kind.required("type is required when seccompProfile is set")),
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" if local.is_given() => {
            causes.push(local.invalid("can only be set when seccomp type is Localhost"));
        }
        "RuntimeDefault" | "Unconfined" => {}
        _ => causes.push(kind.not_supported(&["Localhost", "RuntimeDefault", "Unconfined"])),
    }
}
