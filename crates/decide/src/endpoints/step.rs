//! The steps for a Service's EndpointSlices, as they are printed, compared and applied, and what they lack.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use objects::pods;

use crate::target::Target;

/// One write of a Service's slices.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Creates a slice; the API server finishes its name.
    Create(Box<EndpointSlice>),
    /// Replaces a slice, which carries the resourceVersion it was read with.
    Update(Box<EndpointSlice>),
    Delete {
        slice: Target,
    },
}

/// Why a pod that the Service selects is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// It has no address yet.
    PodAddress { pod: String },
}

impl WaitingOn {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let lacks_address = super::address(pod).is_none() && !pods::is_finished(pod);
        lacks_address.then(|| Self::PodAddress { pod: pod.metadata.name.clone().unwrap_or_default() })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(slice) => {
                let name = slice.metadata.generate_name.as_deref().unwrap_or_default();
                write!(f, "create EndpointSlice {name}… of {} endpoints", endpoints(slice))
            }
            Self::Update(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                write!(f, "update EndpointSlice {name} to {} endpoints", endpoints(slice))
            }
            Self::Delete { slice } => write!(f, "delete EndpointSlice {}", slice.name),
        }
    }
}

fn endpoints(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodAddress { pod } => write!(f, "Pod {pod} has no address yet."),
        }
    }
}
