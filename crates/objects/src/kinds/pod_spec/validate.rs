//! Mistakes in a pod's specification.

use std::net::IpAddr;

use super::{containers, security, volumes};
use crate::kinds::tolerations;
use crate::metadata::{self, dns_label_faults, dns_subdomain_faults};
use crate::names;
use crate::pods::parse_duration;
use crate::validation::{At, Cause, check_not_negative, check_one_of, check_range};

const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Mistakes in the specification that stands here, that of a pod or of a template.
pub(in crate::kinds) fn validate(spec: &At<'_>, causes: &mut Vec<Cause>) {
    let volumes = volumes::check(&spec.field("volumes"), causes);
    containers::check_all(spec, &volumes, causes);
    check_policies(spec, causes);
    check_names(spec, causes);
    security::check_pod(spec, causes);
    tolerations::check(&spec.field("tolerations"), causes);
    check_spreading(&spec.field("topologySpreadConstraints"), causes);
    check_host_aliases(&spec.field("hostAliases"), causes);
    metadata::check_labels(&spec.field("nodeSelector"), causes);
}

/// How long a pod may drain stands in annotations of our own, in the metadata.
pub(in crate::kinds) fn check_drain_deadlines(meta: &At<'_>, causes: &mut Vec<Cause>) {
    let annotations = meta.field("annotations");
    let deadlines = [names::DRAIN_DEADLINE, names::LONG_CONNECTION_DEADLINE];
    for (_, value) in annotations.entries().filter(|(key, _)| deadlines.contains(key)) {
        if parse_duration(value.text()).is_none() {
            causes.push(value.invalid("must be a number of seconds or a duration such as \"45s\" or \"1m30s\""));
        }
    }
}

/// Sentences about what is allowed but hardly meant.
pub(in crate::kinds) fn warnings(spec: &At<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for container in spec.field("containers").items().chain(spec.field("initContainers").items()) {
        found.extend(containers::duplicate_ports(&container.field("ports")));
        found.extend(containers::duplicate_variables(&container.field("env")));
    }
    found
}

fn check_policies(spec: &At<'_>, causes: &mut Vec<Cause>) {
    check_one_of(&spec.field("restartPolicy"), &["Always", "OnFailure", "Never"], causes);
    check_one_of(&spec.field("dnsPolicy"), &DNS_POLICIES, causes);
    check_one_of(&spec.field("preemptionPolicy"), &["PreemptLowerPriority", "Never"], causes);
    check_not_negative(&spec.field("terminationGracePeriodSeconds"), causes);
    check_range(&spec.field("activeDeadlineSeconds"), 1, i64::from(i32::MAX), causes);
    let servers = spec.field("dnsConfig").field("nameservers");
    if spec.field("dnsPolicy").text() == "None" && servers.is_empty() {
        causes.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    for server in servers.items() {
        check_ip(&server, causes);
    }
}

fn check_names(spec: &At<'_>, causes: &mut Vec<Cause>) {
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        check_name(&spec.field(name), dns_subdomain_faults, causes);
    }
    for name in ["hostname", "subdomain"] {
        check_name(&spec.field(name), dns_label_faults, causes);
    }
    for gate in spec.field("readinessGates").items() {
        let kind = gate.field("conditionType");
        causes.extend(kind.invalid_for(metadata::qualified_name_faults(kind.text())));
    }
    for secret in spec.field("imagePullSecrets").items() {
        if secret.field("name").is_empty() {
            causes.push(secret.field("name").required(""));
        }
    }
}

pub(super) fn check_name(at: &At<'_>, faults: fn(&str) -> Vec<String>, causes: &mut Vec<Cause>) {
    if !at.is_empty() {
        causes.extend(at.invalid_for(faults(at.text())));
    }
}

fn check_spreading(constraints: &At<'_>, causes: &mut Vec<Cause>) {
    for constraint in constraints.items() {
        let skew = constraint.field("maxSkew");
        if skew.number().unwrap_or(0) <= 0 {
            causes.push(skew.invalid("must be greater than zero"));
        }
        let key = constraint.field("topologyKey");
        if key.is_empty() {
            causes.push(key.required("can not be empty"));
        }
        let action = constraint.field("whenUnsatisfiable");
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.text()) {
            causes.push(action.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
    }
}

fn check_host_aliases(aliases: &At<'_>, causes: &mut Vec<Cause>) {
    for alias in aliases.items() {
        check_ip(&alias.field("ip"), causes);
        for name in alias.field("hostnames").items() {
            causes.extend(name.invalid_for(dns_subdomain_faults(name.text())));
        }
    }
}

fn check_ip(at: &At<'_>, causes: &mut Vec<Cause>) {
    if at.text().parse::<IpAddr>().is_err() {
        causes.push(at.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
}
