//! Mistakes in probes and lifecycle hooks.

use serde_json::Value;

use crate::metadata::port_name_faults;
use crate::validation::{At, Cause, check_not_negative, check_one_of, check_range};

const ONE_HANDLER: &str = "may not specify more than 1 handler type";

/// Mistakes in what a container is asked and told while it runs.
pub(super) fn check_all(container: &At<'_>, spec: &At<'_>, causes: &mut Vec<Cause>) {
    check_probe(&container.field("livenessProbe"), causes);
    check_probe(&container.field("readinessProbe"), causes);
    check_probe(&container.field("startupProbe"), causes);
    for name in ["livenessProbe", "startupProbe"] {
        let threshold = container.field(name).field("successThreshold");
        if threshold.number().is_some_and(|number| number != 1) {
            causes.push(threshold.invalid("must be 1"));
        }
    }
    let own_grace = container.field("readinessProbe").field("terminationGracePeriodSeconds");
    if own_grace.is_given() {
        causes.push(own_grace.invalid("must not be set for readinessProbes"));
    }
    let grace = spec.field("terminationGracePeriodSeconds").number();
    for name in ["postStart", "preStop"] {
        check_hook(&container.field("lifecycle").field(name), grace, causes);
    }
}

fn check_probe(probe: &At<'_>, causes: &mut Vec<Cause>) {
    if !probe.is_given() {
        return;
    }
    check_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], causes);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        check_not_negative(&probe.field(name), causes);
    }
    let grace = probe.field("terminationGracePeriodSeconds");
    if grace.number().is_some_and(|seconds| seconds <= 0) {
        causes.push(grace.invalid("must be greater than 0"));
    }
}

fn check_hook(hook: &At<'_>, grace_seconds: Option<i64>, causes: &mut Vec<Cause>) {
    if !hook.is_given() {
        return;
    }
    check_handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], causes);
    let sleep = hook.field("sleep").field("seconds");
    let longest = grace_seconds.unwrap_or(30);
    if sleep.number().is_some_and(|seconds| seconds < 0 || seconds > longest) {
        causes.push(
            sleep.invalid(&format!("must be non-negative and less than terminationGracePeriodSeconds ({longest})")),
        );
    }
}

fn check_handler(at: &At<'_>, handlers: &[&str], causes: &mut Vec<Cause>) {
    let given: Vec<_> = handlers.iter().map(|name| at.field(name)).filter(At::is_given).collect();
    if given.is_empty() {
        causes.push(at.required("must specify a handler type"));
    }
    for extra in given.iter().skip(1) {
        causes.push(extra.forbidden(ONE_HANDLER));
    }
    let command = at.field("exec").field("command");
    if at.field("exec").is_given() && command.is_empty() {
        causes.push(command.required(""));
    }
    check_request(&at.field("httpGet"), causes);
    if at.field("tcpSocket").is_given() {
        check_port(&at.field("tcpSocket").field("port"), causes);
    }
    check_range(&at.field("grpc").field("port"), 1, 65_535, causes);
}

fn check_request(request: &At<'_>, causes: &mut Vec<Cause>) {
    if !request.is_given() {
        return;
    }
    if request.field("path").is_empty() {
        causes.push(request.field("path").required(""));
    }
    check_port(&request.field("port"), causes);
    check_one_of(&request.field("scheme"), &["HTTP", "HTTPS"], causes);
    for header in request.field("httpHeaders").items() {
        let name = header.field("name");
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.text().bytes().all(is_legal) {
            causes.push(name.invalid(
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                 for validation is '[-A-Za-z0-9]+')",
            ));
        }
    }
}

/// A number or the name of a container's port.
fn check_port(port: &At<'_>, causes: &mut Vec<Cause>) {
    match port.value.as_str() {
        Some(name) => causes.extend(port.invalid_for(port_name_faults(name))),
        None if port.is_given() => check_range(port, 1, 65_535, causes),
        None => causes.push(port.invalid_as(&Value::from(0), "must be between 1 and 65535, inclusive")),
    }
}
