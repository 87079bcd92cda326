//! A pod's `log` subresource: which container's output, and how much of it. The output itself comes from the node.

use objects::status::Failure;
use serde_json::Value;

use super::pod_access::LogOptions;
use super::{Answer, ApiServer, Asked, Place, answer};

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
        let output = self.pods.read_log(&pod.value, &container, &options).map_err(Failure::bad_request)?;
        Ok(answer::stream(output, "text/plain"))
    }
}

pub(super) fn chosen_container(place: &Place, pod: &Value, asked: &Asked) -> Result<String, Failure> {
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
