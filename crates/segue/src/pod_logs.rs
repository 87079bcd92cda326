//! Gives the API server what containers have written, which the node knows.

use control::apiserver::{LogOptions, LogStream, PodLogs};
use k8s_openapi::api::core::v1::Pod;
use node::agent::Settings;
use node::logs::{self, Follow, Run, Timestamps};
use serde_json::Value;

/// The logs of one node's pods.
pub(crate) struct NodeLogs {
    pub(crate) settings: Settings,
}

impl PodLogs for NodeLogs {
    fn read(&self, pod: &Value, container: &str, options: &LogOptions) -> Result<LogStream, String> {
        let pod: Pod =
            serde_json::from_value(pod.clone()).map_err(|error| format!("the pod can't be read: {error}"))?;
        let wanted = wanted(options)?;
        logs::read(&self.settings, &pod, container, &wanted).map_err(|error| error.to_string())
    }
}

fn wanted(options: &LogOptions) -> Result<logs::LogOptions, String> {
    let since_time = options.since_time.as_deref().map(str::parse).transpose();
    Ok(logs::LogOptions {
        run: if options.previous { Run::Previous } else { Run::Current },
        follow: if options.follow { Follow::UntilTheContainerEnds } else { Follow::No },
        timestamps: if options.timestamps { Timestamps::Shown } else { Timestamps::Left },
        tail_lines: options.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
        since_seconds: options.since_seconds.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        since_time: since_time.map_err(|error| format!("sinceTime: {error}; write it as 2026-01-31T12:00:00Z"))?,
        limit_bytes: options.limit_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
}
