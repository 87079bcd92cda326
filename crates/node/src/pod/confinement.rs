//! How is a container kept apart? Its security context says, and the pod's where it says nothing.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use super::{ConfigError, sharing};
use crate::agent::Settings;
use crate::container::{Confinement, Escalation, Privilege, Seccomp, chain, seccomp};

/// Reads the seccomp profile, when it names one of the machine's.
pub(super) fn of_container(settings: &Settings, pod: &Pod, container: &Container) -> Result<Confinement, ConfigError> {
    let processes = sharing::of_pod(pod).processes;
    let context = container.security_context.as_ref();
    if context.and_then(|context| context.privileged) == Some(true) {
        let (privilege, escalation) = (Privilege::Full, Escalation::Allowed);
        return Ok(Confinement { privilege, escalation, seccomp: Seccomp::Unconfined, processes });
    }
    let escalation = match context.and_then(|context| context.allow_privilege_escalation) {
        Some(false) => Escalation::Refused,
        Some(true) | None => Escalation::Allowed,
    };
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let profile = context.and_then(|context| context.seccomp_profile.as_ref());
    let profile = profile.or(of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    let seccomp = profile.map_or(Ok(Seccomp::RuntimeDefault), |profile| seccomp_of(settings, profile))?;
    Ok(Confinement { privilege: Privilege::Confined, escalation, seccomp, processes })
}

fn seccomp_of(settings: &Settings, profile: &SeccompProfile) -> Result<Seccomp, ConfigError> {
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            // The API has checked that the path leads nowhere else.
            let path = settings.seccomp_dir().join(profile.localhost_profile.as_deref().unwrap_or_default());
            read(&path)
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

fn read(path: &Path) -> Result<Seccomp, ConfigError> {
    let unusable = |sentence| ConfigError::Seccomp { path: path.to_owned(), sentence };
    let json = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    seccomp::check(&json).map_err(|error| unusable(chain(&error)))?;
    Ok(Seccomp::Profile { json })
}
