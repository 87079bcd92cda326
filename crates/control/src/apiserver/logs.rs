//! A pod's `log` subresource: which container's output, and how much of it. The output itself comes from the node.

use bytes::Bytes;
use futures::stream::BoxStream;
use objects::status::Failure;
use serde_json::Value;

use super::{Answer, ApiServer, Asked, Place, answer};

/// What part of a container's output is wanted, as the query of `log` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since_seconds: Option<u64>,
    /// RFC 3339.
    pub since_time: Option<String>,
}

/// A container's output as it is read.
pub type LogStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// The node's side: reads what a container has written.
pub trait PodLogs: Send + Sync {
    /// The output of a container of a pod.
    ///
    /// # Errors
    /// A sentence for the user, when there is no such output.
    fn read(&self, pod: &Value, container: &str, options: &LogOptions) -> Result<LogStream, String>;
}

impl ApiServer {
    pub(super) fn read_log(&self, place: &Place, asked: &Asked) -> Answer {
        let pod = self.find(place)?;
        let container = chosen_container(place, &pod.value, asked)?;
        let number = |key| asked.query.number(key).map_err(Failure::bad_request);
        let options = LogOptions {
            follow: asked.query.is_true("follow"),
            previous: asked.query.is_true("previous"),
            timestamps: asked.query.is_true("timestamps"),
            tail_lines: number("tailLines")?,
            limit_bytes: number("limitBytes")?,
            since_seconds: number("sinceSeconds")?,
            since_time: asked.query.get("sinceTime").map(str::to_owned),
        };
        let output = self.logs.read(&pod.value, &container, &options).map_err(Failure::bad_request)?;
        Ok(answer::stream(output, "text/plain"))
    }
}

fn chosen_container(place: &Place, pod: &Value, asked: &Asked) -> Result<String, Failure> {
    let names: Vec<&str> = ["initContainers", "containers"]
        .iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    match (asked.query.get("container"), &names[..]) {
        (Some(wanted), _) if names.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => {
            Err(Failure::bad_request(format!("container {wanted} is not valid for pod {}", place.name())))
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            place.name(),
            names.join(" ")
        ))),
    }
}
